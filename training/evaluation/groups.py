"""Errors by element and by group, and the structures with the largest.

Axes: V values, S structures, G groups.
"""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlff2d.atoms import symbols

from .population import Grouping, Population
from .quantities import Quantity, scores
from .tables import Cell, Table, plain

WORST = 20
"""Structures listed by name."""

_Array = NDArray[np.float64]


def score_table(quantities: list[Quantity]) -> Table:
    """Every figure of merit of every method."""
    columns = ["quantity", "method", "values", "MAE", "median", "RMSE", "bias", "R²", "Spearman"]
    rows: list[list[Cell]] = []
    for quantity in quantities:
        for method, predicted in quantity.predicted.items():
            figures = asdict(scores(quantity.true, predicted))
            rows.append([quantity.label, method, *figures.values()])
    digits = {"R²": 3, "Spearman": 3}
    return Table("scores", "Figures of merit", columns, rows, digits)


def element_errors(population: Population, quantity: Quantity, method: str) -> dict[int, float]:
    """Mean absolute error by atomic number.

    A value of an atom counts for its element, a value of a structure for each element in it.
    """
    sums, counts = _element_sums(population, quantity, np.abs(quantity.error(method)))
    return {int(z): float(sums[z] / counts[z]) for z in np.flatnonzero(counts)}


def _element_sums(
    population: Population, quantity: Quantity, values: NDArray[np.floating]
) -> tuple[_Array, _Array]:
    """(119,) sums of values and their number by atomic number."""
    composition = population.compositions
    n_z = composition.counts.shape[1]
    if quantity.element is not None:
        return (
            np.bincount(quantity.element, values, minlength=n_z).astype(float),
            np.bincount(quantity.element, minlength=n_z).astype(float),
        )
    of = composition.of[quantity.owner]
    present = (composition.counts > 0).T
    n = len(composition)
    sums = present @ np.bincount(of, values, minlength=n).astype(float)
    return sums, (present @ np.bincount(of, minlength=n)).astype(float)


def element_table(population: Population, quantities: list[Quantity]) -> Table:
    """A row an element: in how many structures it is, and the errors there."""
    composition = population.compositions
    of_structures = np.bincount(composition.of, minlength=len(composition))
    n_structures = (composition.counts > 0).T @ of_structures
    columns = ["element", "structures", *_error_columns(quantities)]
    errors = [element_errors(population, q, m) for q in quantities for m in q.models]
    rows: list[list[Cell]] = [
        [symbols((z,)), int(n_structures[z]), *[e.get(z) for e in errors]]
        for z in composition.elements
    ]
    return Table("by_element", "Mean absolute errors by element", columns, rows)


def group_table(population: Population, grouping: Grouping, quantities: list[Quantity]) -> Table:
    """A row a group, the largest first: how many structures, and the errors of all their values."""
    n_groups = len(grouping.names)
    n_structures = np.bincount(grouping.codes, minlength=n_groups)
    columns = [grouping.title, "structures", *_error_columns(quantities)]
    errors = [group_errors(grouping, q, m) for q in quantities for m in q.models]
    order = np.argsort(-n_structures, kind="stable")
    rows: list[list[Cell]] = [
        [grouping.names[g], int(n_structures[g]), *[float(e[g]) for e in errors]] for g in order
    ]
    return Table(f"by_{grouping.key}", f"Mean absolute errors by {grouping.title}", columns, rows)


def group_errors(grouping: Grouping, quantity: Quantity, method: str) -> _Array:
    """(G,) mean absolute error of all values in each group; NaN where there is none."""
    return _means(grouping.codes[quantity.owner], quantity, method, len(grouping.names))


def structure_errors(n: int, quantity: Quantity, method: str) -> _Array:
    """(n,) mean absolute error in each structure; NaN where it has no value."""
    return _means(quantity.owner, quantity, method, n)


def _means(codes: NDArray[np.integer], quantity: Quantity, method: str, n: int) -> _Array:
    counts = np.bincount(codes, minlength=n).astype(float)
    sums = np.bincount(codes, np.abs(quantity.error(method)), minlength=n)
    return np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0)


def worst_table(population: Population, quantity: Quantity, method: str) -> Table:
    """The structures with the largest mean absolute errors of a method, by name."""
    errors = structure_errors(len(population), quantity, method)
    order = np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable")
    order = order[np.isfinite(errors[order])][:WORST]
    rows = [[*_who(population, int(s)), float(errors[s])] for s in order]
    columns = [*WHO, f"error ({quantity.unit})" if quantity.unit else "error"]
    title = f"Largest errors of {method}: {quantity.name.lower()}"
    return Table(f"worst_{quantity.key}", title, columns, rows, {columns[-1]: quantity.digits})


WHO = ("file", "frame", "material", "formula", "atoms")


def _who(population: Population, s: int) -> list[Cell]:
    data, i = population.data, int(population.ids[s])
    composition = population.compositions
    return [
        data.sources[data.source[i]]["name"],
        int(data.frame[i]),
        data.material[i],
        composition.formulas[composition.of[s]],
        int(population.n_atoms[s]),
    ]


def write_structures(population: Population, quantities: list[Quantity], path: Path) -> None:
    """A CSV row a structure: which it is, its values where it has one each, else its mean errors.

    The values are those that the figures show.
    """
    n = len(population)
    columns = [*WHO, "layer group"]
    arrays: list[_Array] = []
    for quantity in quantities:
        single = len(np.unique(quantity.owner)) == len(quantity.owner)
        if single:
            columns.append(f"{quantity.label} true")
            arrays.append(_spread(n, quantity, quantity.true))
        for method in quantity.models:
            if single:
                columns.append(f"{quantity.label} {method}")
                arrays.append(_spread(n, quantity, quantity.predicted[method]))
            else:
                columns.append(f"{quantity.label} error of {method}")
                arrays.append(structure_errors(n, quantity, method))
    groups = population.data.layer_group[population.ids]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for s in range(n):
            numbers = [plain(float(array[s])) for array in arrays]
            table.writerow([*_who(population, s), int(groups[s]) or "", *numbers])


def _spread(n: int, quantity: Quantity, values: NDArray[np.floating]) -> _Array:
    spread = np.full(n, np.nan)
    spread[quantity.owner] = values
    return spread


def _error_columns(quantities: list[Quantity]) -> list[str]:
    several = any(len(q.models) > 1 for q in quantities)
    return [f"{q.label} {m}" if several else q.label for q in quantities for m in q.models]
