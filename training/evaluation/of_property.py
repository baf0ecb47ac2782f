"""Errors of models of a property. Axis: S structures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlff2d.property import PropertyPredictor

from ..data.dataset import Dataset
from .baselines import composition_regression
from .direct import COMPOSITION, Section
from .part import Judged
from .population import Population
from .predictions import predict_property
from .quantities import Quantity, Values
from .tables import Cell, Table

MEAN = "the mean"
SHARES = (0.01, 0.05, 0.10)
"""Of the structures, that are looked for at either end."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PropertyCandidate:
    """A model of a property that is judged; see `direct.Candidate`."""

    name: str
    predictor: PropertyPredictor
    data: Dataset
    training: dict[str, Any]


def judge_property(candidates: list[PropertyCandidate], judged: Judged) -> Section:
    """Errors and correlations of models of the same property, and of the baselines."""
    first = candidates[0]
    data, ids = first.data, judged.ids
    values = {c.name: predict_property(c.predictor, c.data, ids, c.name) for c in candidates}
    finite = np.logical_and.reduce([np.isfinite(v) for v in values.values()])
    lines = []
    if not finite.all():
        lines.append(
            f"A model returns NaN or infinity for {int((~finite).sum()):,} structures, such as "
            f"{data.name(int(ids[int(finite.argmin())]))}; no method is judged on them."
        )
        ids, values = ids[finite], {name: v[finite] for name, v in values.items()}
    if len(ids) == 0:
        raise ValueError("the models return no finite number for any structure")
    population = Population(data, ids)
    true = data.target[ids]
    values |= _baselines(population, judged.train, first.predictor.pooling == "sum")
    how = "to the training part" if len(judged.train) else "by cross-validation over materials"
    lines.append(
        "Composition alone: ridge regression on shares of elements and their products, fitted "
        f"{how}."
    )
    quantity = Quantity(
        key="property",
        name=first.predictor.name,
        unit=first.predictor.unit,
        digits=4,
        true=true,
        predicted=values,
        baselines=tuple(name for name in (MEAN, COMPOSITION) if name in values),
        owner=np.arange(len(ids)),
    )
    title = f"Predicted {first.predictor.name}"
    return Section("property", title, population, [quantity], lines, [recall_table(quantity)])


def _baselines(population: Population, train: NDArray[np.int64], is_sum: bool) -> dict[str, Array]:
    """The mean, and composition alone; of a sum over the atoms both per atom."""
    data, ids = population.data, population.ids
    of_judged, of_train = (data.n_atoms[k] if is_sum else np.ones(len(k)) for k in (ids, train))
    values = data.target[ids] / of_judged
    known = data.target[train] / of_train
    mean = float((known if len(known) else values).mean())
    regression = composition_regression(population, values, Population(data, train), known)
    found = {MEAN: mean * of_judged, COMPOSITION: regression * of_judged}
    return {name: value for name, value in found.items() if np.isfinite(value).all()}


def recall_table(quantity: Quantity) -> Table:
    """Of the structures at either end, the share that a method has among as many of its own."""
    columns = [
        "method",
        *[f"{end} {share:.0%}" for end in ("highest", "lowest") for share in SHARES],
    ]
    rows: list[list[Cell]] = []
    for method, predicted in quantity.predicted.items():
        if np.ptp(predicted) == 0:
            continue  # it ranks nothing
        recalls = [
            recall(sign * quantity.true, sign * predicted, share)
            for sign in (1, -1)
            for share in SHARES
        ]
        rows.append([method, *recalls])
    note = "Share of the structures at an end that are among as many predicted to be there."
    return Table("recall", "Recall at the ends", columns, rows, dict.fromkeys(columns[1:], 2), note)


def recall(true: Values, predicted: Values, share: float) -> float:
    """Share of the highest true values that are among as many highest predicted; one at least."""
    k = max(1, round(share * len(true)))
    return len(np.intersect1d(np.argsort(-true)[:k], np.argsort(-predicted)[:k])) / k
