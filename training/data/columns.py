"""What is kept of each structure: the columns of the HDF5 file, and how records become them.

Axes: N atoms of all structures, S structures, K numbers of a state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d.dataset_file import NAMES, PER_ATOM
from mlff2d.slab import batched_projector, complete_cell, stress_2d
from mlff2d.units import EV_PER_ANGSTROM3_IN_GPA

from .record import Record

Columns = dict[str, NDArray[Any]]

_RESOLUTION = 1e-4  # Å, of the fingerprint
# Rounding must not cut where coordinates of a text file lie, at multiples of a power of ten.
_OFF_GRID = 1 / np.pi
_OFF_FACES = 0.0137  # nor wrapping where atoms sit in symmetric positions


def columns_of(records: Sequence[Record], source: int) -> Columns:
    """Every column of some records of one source; strings as such, `n_atoms` beside them."""
    columns: Columns = {
        name: np.concatenate([getattr(r, name) for r in records]).astype(dtype)
        for name, _, dtype in PER_ATOM
    }
    for name in ("cell", "pbc", "virial", "state", "energy", "target", "frame", "layer_group"):
        columns[name] = np.stack([getattr(r, name) for r in records])
    for name in NAMES:
        columns[name] = np.array([getattr(r, name) for r in records], dtype=str)
    columns["n_atoms"] = np.array([len(r.z) for r in records])
    columns["source"] = np.full(len(records), source)
    columns["fingerprint"] = np.array([fingerprint(r) for r in records], dtype=np.uint64)
    columns["max_force"] = np.array([np.abs(r.forces).max() for r in records])
    columns["stress_2d"] = np.stack([in_plane_stress(r) for r in records])
    columns["max_stress_kbar"] = largest_stress_as_given(columns)
    return columns


def records_of(columns: Columns) -> Iterator[Record]:
    """The records that `columns_of` made columns from, forces in the precision of the file."""
    ends = np.cumsum(columns["n_atoms"])
    per_atom = {name for name, _, _ in PER_ATOM}
    names = [field.name for field in fields(Record)]
    for s, end in enumerate(ends.tolist()):
        atoms = slice(end - int(columns["n_atoms"][s]), end)
        row: dict[str, Any] = {
            name: columns[name][atoms if name in per_atom else s] for name in names
        }
        yield Record(**row)


def fingerprint(record: Record) -> int:
    """64 bits that two structures share where they are the same to 1e-4 Å.

    Elements and positions relative to the first atom in the order given and up to lattice vectors,
    periodic lattice vectors, and the state; the height of the vacuum plays no part.
    """
    cell = complete_cell(record.cell, record.pbc)
    fraction = (record.pos - record.pos[:1]) @ np.linalg.inv(cell)
    pos = (fraction - np.floor(fraction + _OFF_FACES) * record.pbc) @ cell
    lengths = np.concatenate([pos.ravel(), record.cell[record.pbc].ravel()])
    rounded = np.rint(lengths / _RESOLUTION + _OFF_GRID).astype("<i8")
    content = (rounded, record.z.astype("u1"), record.pbc.astype("u1"), record.state.astype("<f8"))
    digest = hashlib.blake2b(b"|".join(part.tobytes() for part in content), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def in_plane_stress(record: Record) -> NDArray[np.float64]:
    """(3,) xx, yy, xy in N/m, see `slab.stress_2d`; NaN where absent or no slab."""
    if record.pbc.sum() != 2:
        return np.full(3, np.nan)
    return stress_2d(record.virial, record.cell, record.pbc).astype(np.float64)


def largest_stress_as_given(columns: Columns) -> NDArray[np.float64]:
    """(S,) largest absolute component in kbar along the periodic axes, in the cell as given.

    The vacuum counts as volume; a cell without one gives NaN, as does an absent stress.
    """
    cell, pbc, virial = (torch.from_numpy(columns[name]) for name in ("cell", "pbc", "virial"))
    projector = batched_projector(cell, pbc)
    volume = torch.linalg.det(cell).abs()
    volume = torch.where(volume > 0, volume, torch.full_like(volume, torch.nan))
    largest = (projector @ virial @ projector).abs().amax((1, 2)) / volume
    kbar: NDArray[np.float64] = largest.numpy() * (10 * EV_PER_ANGSTROM3_IN_GPA)
    return kbar
