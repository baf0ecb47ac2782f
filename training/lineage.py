"""What a model file says of the trainings behind it, and the parts that their data were split into.

A record is what one training wrote: `content["training"]` of a model file, with that of the model
it started from under "start".

Axis: S structures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlff2d.dataset_file import is_hdf5

from .data.choice import training_order
from .data.convert import file_digest
from .data.dataset import Dataset
from .data.filters import apply_filters
from .data.references import isolated_atoms
from .data.selection import select
from .data.splits import Split, split
from .data.store import read_head
from .sections import FilterConfig, SelectionConfig, SplitConfig

Ids = NDArray[np.int64]


def trainings(training: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a model file says of its training, then of that of the model it started from, ..."""
    while training:
        yield training
        training = training.get("start", {}).get("training", {})


def training_on(data: Dataset, training: dict[str, Any]) -> dict[str, Any] | None:
    """The first training in a model's line that had all sources of these data; None if none had."""
    present = {source["sha256"] for source in data.sources}
    for record in trainings(training):
        if present <= _digests(record) and "split" in record.get("settings", {}):
            return record
    return None


def is_level_of(data: Dataset, training: dict[str, Any]) -> NDArray[np.bool_]:
    """Mask of the sources whose energies a model was fitted to last, so that it has their zero."""
    return np.array([source["sha256"] in _digests(training) for source in data.sources])


def _digests(record: dict[str, Any]) -> set[str]:
    return {source["sha256"] for source in record.get("data", [])}


def material_key_of(record: dict[str, Any]) -> str:
    """The entry of info that a training named materials by."""
    return str(record.get("settings", {}).get("data", {}).get("material_key", "material"))


def material_key_for(
    files: Sequence[Path], training: dict[str, Any], default: str = "material"
) -> str:
    """The key that files are to be read with, so that parts of a training are found again.

    That of an HDF5 file, else of the training on these files, of the last one, the default.
    """
    for file in files:
        if is_hdf5(file):
            return read_head(file).keys.material
    records = [record for record in trainings(training) if "settings" in record]
    if len({material_key_of(record) for record in records}) > 1:
        present = {file_digest(file) for file in files if file.is_file()}
        for record in records:
            if present & _digests(record):
                return material_key_of(record)
    return material_key_of(records[0]) if records else default


def has_names_of(record: dict[str, Any], key: str) -> bool:
    """Whether data that are read with a material key have the names that a training split by."""
    return record["settings"]["split"].get("by") == "frame" or material_key_of(record) == key


def split_again(data: Dataset, record: dict[str, Any], selected: bool = True) -> Split:
    """The split of a training, found again; without the selection along trajectories if asked.

    Structures from other sources than it had are in no part. A rule that the file does not know did
    not exist when it was written, and is off.
    """
    settings = record["settings"]
    filters = FilterConfig(**({"duplicates": "keep"} | settings["filters"]))
    ids = np.flatnonzero(is_level_of(data, record)[data.source])
    if settings["priors"].get("references") == "isolated":
        ids = np.setdiff1d(ids, isolated_atoms(data))
    ids, _ = apply_filters(data, filters, ids)
    if selected:
        ids, _ = select(data, ids, SelectionConfig(**settings.get("selection", {})))
    config = SplitConfig(**settings["split"])
    found = split(data, config, ids)
    has_all = _digests(record) <= {source["sha256"] for source in data.sources}
    if config.train_frames is None or not has_all:
        return found
    order = training_order(data, found.train, settings["seed"])
    return replace(found, train=np.sort(order[: config.train_frames]))


def trained_on(data: Dataset, ids: Ids, training: dict[str, Any], key: str) -> int | None:
    """How many of some structures were in the training part of a model, or of one before it.

    None where one of them named materials otherwise than by `key`, so that this cannot be told.
    """
    seen = np.zeros(len(data), dtype=bool)
    for record in trainings(training):
        if is_level_of(data, record).any() and "split" in record.get("settings", {}):
            if not has_names_of(record, key):
                return None
            seen[split_again(data, record).train] = True
    return int(seen[ids].sum())
