"""`mlff2d data merge`: several HDF5 files into one, all of it or what a config trains on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d import checkpoint
from mlff2d.dataset_file import NAMES, PER_ATOM, PER_STRUCTURE, SCALARS, is_hdf5
from mlff2d.errors import StructureError
from mlff2d.models import build_model

from ..console import make_console, watched
from ..sections import Config
from .build import print_summary, refuse_existing
from .choice import choose_frames
from .columns import Columns
from .convert import open_sources
from .dataset import Dataset
from .references import isolated_atoms
from .splits import names_of
from .store import ConversionSummary, read_head, writing

CUTOFF = 5.0
"""Å, where no config says, for what is asked of neighbours."""

_BLOCK = 1024  # structures copied at a time


def open_for(files: Sequence[Path], config: Config | None) -> Dataset:
    """HDF5 files as one, with the cutoff of a config's model; lazily read.

    Raises StructureError for a file that is none of `mlff2d data build`, or was built with other
    keys than the first or the config want.
    """
    for path in files:
        if not path.exists():
            raise StructureError(f"{path}: there is no such data file.")
        if not is_hdf5(path):
            raise StructureError(f"{path}: no HDF5 file; make one with mlff2d data build.")
    keys = read_head(files[0]).keys
    material, state, target, cutoff = keys.material, keys.state, keys.target, CUTOFF
    if config is not None:
        if config.model.start is None:
            model = build_model(str(config.model.name), config.model.settings())
        else:
            model = checkpoint.load_any(config.model.start, torch.device("cpu")).model
        cutoff, state, material = model.cutoff, model.state, config.data.material_key
        target = None if config.property is None else config.property.key
    open_sources(files, Path(), material, state, target)
    return Dataset(files, cutoff, in_memory=False)


def merge(
    files: Sequence[Path], output: Path, config: Config | None = None, force: bool = False
) -> None:
    """Write the structures of HDF5 files into one, and say what is in it.

    With a config those that pass its filters and its selection, and isolated atoms where it takes
    reference energies from them. Raises as `open_for` does, ValueError for an output that exists
    and is not to be replaced, OSError (one sentence) where it cannot be written.
    """
    refuse_existing(output, force, files)
    console = make_console()
    data = open_for(files, config)
    ids: NDArray[np.int64] = np.arange(len(data))
    keys = read_head(files[0]).keys
    _, summary = open_sources(files, Path(), keys.material, keys.state, keys.target)
    if config is not None:
        ids, removed = choose_frames(data, config)
        if config.priors.references == "isolated":
            ids = np.union1d(ids, isolated_atoms(data))
        for rule in removed:
            if rule.count:
                what = f"{rule.count:,} left out, {rule.rule}, for example {rule.example}"
                console.print(what, soft_wrap=True)
        if len(ids) == 0:
            raise ValueError("the filters and the selection leave no frame; change the config.")
        summary.n_taken = len(ids)
        taken = f"Of {len(data):,} frames {len(ids):,} were taken by the filters"
        if config.selection.steps is None:
            summary.notes.append(f"{taken} of a config.")
        else:
            summary.notes.append(
                f"{taken} and the selection of a config; train on them without the section "
                "selection, which would take fewer again."
            )
        summary.notes += _note_on_first_frames(data, ids, config)
    _write(data, ids, output, summary, files)
    print_summary(output, summary, console)


def _note_on_first_frames(data: Dataset, ids: NDArray[np.int64], config: Config) -> list[str]:
    """A sentence where a split by the first frame of a material sees another one among `ids`.

    A part can then hold other materials than with all of the data, and a model that was trained on
    all of it be tested on what it has seen.
    """
    by = config.split.by
    if by in ("material", "frame"):
        return []
    codes = data.material.codes
    every, first = np.unique(codes, return_index=True)
    taken, first_taken = np.unique(codes[ids], return_index=True)
    before = names_of(data, first[np.searchsorted(every, taken)], by)
    after = names_of(data, ids[first_taken], by)
    changed = sum(old != new for old, new in zip(before, after, strict=True))
    if not changed:
        return []
    return [
        f"Of {changed} materials the first frame is left out, and the next has another {by}: "
        f"split.by: {by} may put them into another part than in the files as they were."
    ]


def _write(
    data: Dataset,
    ids: NDArray[np.int64],
    output: Path,
    summary: ConversionSummary,
    files: Sequence[Path],
) -> None:
    keys = read_head(files[0]).keys
    blocks = [ids[k : k + _BLOCK] for k in range(0, len(ids), _BLOCK)]
    size = sum(path.stat().st_size for path in files) * len(ids) // len(data)
    with writing(output, len(keys.state), output.parent, size) as writer:
        for block in watched(blocks, f"writing {output.name}"):
            writer.append(_columns(data, block))
        writer.finish(keys, data.sources, summary)


def _columns(data: Dataset, ids: NDArray[np.int64]) -> Columns:
    columns = {name: data.atoms_of(name, ids) for name, _, _ in PER_ATOM}
    for name, _, _ in (*PER_STRUCTURE, *SCALARS):
        columns[name] = data.rows_of(name, ids)
    columns["state"] = data.rows_of("state", ids)
    for name in NAMES:
        coded = getattr(data, name)
        columns[name] = np.array([coded[s] for s in ids], dtype=str)
    columns["source"] = data.source[ids]
    columns["n_atoms"] = data.n_atoms[ids]
    return columns
