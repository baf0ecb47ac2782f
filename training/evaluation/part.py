"""Which structures are judged: a part of the data as the training of the model split them, or all.

Axis: S structures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlff2d.atoms import symbols

from ..data.dataset import Dataset
from ..data.splits import PARTS
from ..lineage import has_names_of, material_key_of, split_again, training_on
from .population import Population

Part = Literal["test", "val", "train", "all"]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """The structures that are judged, and what belongs to them.

    Attributes
    ----------
    part : 'test', 'val', 'train' or 'all'
    ids : (S,) ascending
    unselected : the same part before frames were selected along trajectories; of 'all' the same
    train : the training part, where the model was trained on these data; else empty
    notes : sentences that a reader should know
    """

    part: str
    ids: Ids
    unselected: Ids
    train: Ids
    notes: list[str] = field(default_factory=list)


def judged_part(data: Dataset, part: Part | None, training: dict[str, Any], key: str) -> Judged:
    """A part of the data by the split and the filters that a model file says it was trained with.

    Without a part the test part of data that the model was trained on, and all of others. The split
    depends on names alone, so that it is found again in a piece of the training data too. Raises
    ValueError for a part of data that the model was not trained on or that have been read with
    another material `key`, and for one that is empty.
    """
    record = training_on(data, training)
    if record is not None and not has_names_of(record, key):
        if part != "all":
            raise ValueError(
                f"the model was trained on these data with the material key "
                f"{material_key_of(record)!r}, but they are read with {key!r}, so that its parts "
                f"cannot be found again; give --material-key {material_key_of(record)}, or an HDF5 "
                "file that was built with it"
            )
        record = None
    if part is None:
        part = "all" if record is None else "test"
    if part == "all":
        everything = np.arange(len(data))
        train = everything[:0] if record is None else split_again(data, record).train
        return Judged("all", everything, everything, train)
    if record is None:
        names = ", ".join(source["name"] for source in data.sources)
        known = ", ".join(source["name"] for source in training.get("data", []))
        raise ValueError(
            f"the model was not trained on {names} ({known or 'its file does not say on what'}), "
            f"so that there is no {part} part of it; leave out --part to judge all of it"
        )
    chosen, whole = split_again(data, record), split_again(data, record, selected=False)
    ids: Ids = getattr(chosen, part)
    if len(ids) == 0:
        raise ValueError(
            f"the {part} part is empty: of {len(data)} frames "
            + ", ".join(f"{len(getattr(chosen, name))} are in {name}" for name in PARTS)
            + "; take another part with --part"
        )
    return Judged(part, ids, getattr(whole, part), chosen.train)


def leave_unknown(data: Dataset, judged: Judged, known: dict[str, tuple[int, ...]]) -> Judged:
    """Without the structures that hold an element which one of the models does not know.

    `known` are the elements of each model by its name. Raises ValueError where none is left.
    """
    notes = list(judged.notes)
    common = set.intersection(*(set(elements) for elements in known.values()))
    keep = {}
    for name, ids in (("ids", judged.ids), ("unselected", judged.unselected)):
        counts = Population(data, ids).compositions
        foreign = [z for z in counts.elements if z not in common]
        has_foreign = counts.counts[:, foreign].sum(1) > 0
        keep[name] = ids[~has_foreign[counts.of]]
    lost = len(judged.ids) - len(keep["ids"])
    if lost:
        present = set(Population(data, judged.ids).compositions.elements)
        who = "; ".join(
            f"{name} does not know {symbols(tuple(sorted(present - set(elements))))}"
            for name, elements in known.items()
            if present - set(elements)
        )
        if len(keep["ids"]) == 0:
            raise ValueError(f"none of the {lost} structures can be judged: {who}")
        example = data.name(int(np.setdiff1d(judged.ids, keep["ids"])[0]))
        notes.append(f"{lost:,} structures were skipped, such as {example}: {who}.")
    return Judged(judged.part, keep["ids"], keep["unselected"], judged.train, notes)
