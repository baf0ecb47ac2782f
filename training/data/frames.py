"""Rows of structures read from HDF5 files, and the arrays of a batch made from them.

Axes: N atoms, E edges, S structures. Nothing here needs torch tensors, so that a process that makes
batches hands over plain arrays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mlff2d.dataset_file import PER_ATOM, PER_STRUCTURE, open_store
from mlff2d.neighbors import neighbor_list

Ids = Sequence[int] | NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]
Edges = tuple[NDArray[np.int32], NDArray[np.int8]]

_PER_ATOM = tuple(name for name, _, _ in PER_ATOM)
_PER_STRUCTURE = (*(name for name, _, _ in PER_STRUCTURE), "state")
_DENSE = 16  # where more than one row in so many is wanted, all of them are read
_BLOCK = 256  # pieces in one read; with many more HDF5 takes longer to join them than to read


class Frames:
    """The structures of several HDF5 files as one, one after another.

    Each process opens the files for itself, after a fork too.

    Attributes
    ----------
    first : (F + 1,) structures before each file, and in all
    offset : (S + 1,) atoms before each structure, over all files
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._handles: list[h5py.File] = []
        self._columns: dict[tuple[int, str], h5py.Dataset] = {}
        self._pid = -1
        self._loaded: Arrays = {}
        offsets = [file["offset"][:] for file in self._files()]
        self.first = np.cumsum([0, *(len(offset) - 1 for offset in offsets)])
        self._first_atom = np.cumsum([0, *(offset[-1] for offset in offsets)])
        starts = zip(offsets, self._first_atom[:-1], strict=True)
        ends = np.concatenate([offset[1:] + start for offset, start in starts])
        self.offset: NDArray[np.int64] = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self.offset) - 1

    def _files(self) -> list[h5py.File]:
        if self._pid != os.getpid():  # handles do not survive a fork
            self._handles, self._pid = [open_store(path) for path in self.paths], os.getpid()
            self._columns = {}
        return self._handles

    def _column(self, f: int, name: str) -> h5py.Dataset:
        # To find a dataset in a file takes about as long as to read one row of it.
        if (f, name) not in self._columns:
            self._columns[f, name] = self._files()[f][name]
        return self._columns[f, name]

    def column(self, name: str) -> NDArray[Any]:
        """All rows of a column, of every file."""
        return np.concatenate([file[name][:] for file in self._files()])

    def heads(self, key: str) -> list[str]:
        """An entry at the head of each file."""
        return [str(file.attrs[key]) for file in self._files()]

    def names(self, column: str) -> list[list[str]]:
        """The table of names of each file."""
        return [list(file[f"{column}_names"].asstr()[:]) for file in self._files()]

    def coded(self, column: str) -> tuple[NDArray[np.int32], list[str]]:
        """Codes (S,) of a column of strings and the table of all; "" where a file lacks it."""
        table: dict[str, int] = {}
        codes = []
        for f, file in enumerate(self._files()):
            if column not in file:
                n = int(self.first[f + 1] - self.first[f])
                codes.append(np.full(n, table.setdefault("", len(table)), dtype=np.int32))
                continue
            names = file[f"{column}_names"].asstr()[:]
            mine = np.array([table.setdefault(text, len(table)) for text in names], dtype=np.int32)
            codes.append(mine[file[column][:]])
        return np.concatenate(codes), list(table)

    @property
    def in_memory(self) -> bool:
        """Whether `load` was called."""
        return bool(self._loaded)

    def load(self) -> None:
        """Read everything that batches are made of into memory."""
        self._loaded = {name: self.column(name) for name in (*_PER_ATOM, *_PER_STRUCTURE)}

    def nbytes(self) -> int:
        """What `load` takes."""
        names = (*_PER_ATOM, *_PER_STRUCTURE)
        return sum(int(file[name].nbytes) for file in self._files() for name in names)

    def rows(self, name: str, ids: Ids) -> NDArray[Any]:
        """(len(ids), ...) of an array with a row a structure (cell, pbc, virial, state)."""
        ids = np.asarray(ids, dtype=np.int64)
        if name in self._loaded:
            return self._loaded[name][ids]
        unique, inverse = np.unique(self._checked(ids), return_inverse=True)
        return self._read(name, unique, per_atom=False)[inverse]

    def atoms(self, name: str, ids: Ids) -> NDArray[Any]:
        """Rows of an array with a row an atom (z, pos, forces), one structure after another."""
        ids = np.asarray(ids, dtype=np.int64)
        starts, ends = self.offset[ids], self.offset[ids + 1]
        if name in self._loaded:
            return self._loaded[name][_ranges(starts, ends - starts)]
        unique, inverse = np.unique(self._checked(ids), return_inverse=True)
        found = self._read(name, unique, per_atom=True)
        if np.array_equal(unique, ids):
            return found
        n_atoms = self.offset[unique + 1] - self.offset[unique]
        before = np.cumsum(n_atoms) - n_atoms
        return found[_ranges(before[inverse], n_atoms[inverse])]

    def _checked(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(ids) and (ids.min() < 0 or ids.max() >= len(self)):
            raise IndexError(f"structures are numbered from 0 to {len(self) - 1}")
        return ids

    def _read(self, name: str, ids: NDArray[np.int64], per_atom: bool) -> NDArray[Any]:
        """Rows of structures in ascending order, none twice."""
        parts = []
        for f in range(len(self._files())):
            low, high = np.searchsorted(ids, self.first[f : f + 2])
            mine = ids[low:high]
            if per_atom:
                starts, ends = self.offset[mine], self.offset[mine + 1]
                parts.append(
                    _read_pieces(self._column(f, name), starts - self._first_atom[f], ends - starts)
                )
            else:
                parts.append(
                    _read_pieces(self._column(f, name), mine - self.first[f], np.ones_like(mine))
                )
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _read_pieces(
    data: h5py.Dataset, starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[Any]:
    """Rows of ascending pieces of a dataset; those that touch are read as one."""
    ends = starts + counts
    is_first = np.concatenate([[True], starts[1:] != ends[:-1]]) if len(starts) else starts > 0
    begins = starts[is_first]
    stops = ends[np.concatenate([is_first[1:], [True]])] if len(starts) else ends
    rest = data.shape[1:]
    out = np.empty((int(counts.sum()), *rest), data.dtype)
    done = 0
    for k in range(0, len(begins), _BLOCK):
        first, last = begins[k : k + _BLOCK], stops[k : k + _BLOCK]
        sizes = last - first
        part = out[done : done + int(sizes.sum())]
        if _DENSE * len(part) > last[-1] - first[0]:
            part[:] = data[first[0] : last[-1]][_ranges(first - first[0], sizes)]
        else:
            space = data.id.get_space()
            space.select_none()
            for start, size in zip(first.tolist(), sizes.tolist(), strict=True):
                where = (start, *(0 for _ in rest))
                space.select_hyperslab(where, (size, *rest), op=h5py.h5s.SELECT_OR)
            data.id.read(h5py.h5s.create_simple(part.shape), space, part)
        done += len(part)
    return out


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ... of each piece, one after another."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(starts - before, counts)


def find_edges(frames: Frames, ids: Ids, cutoff: float) -> list[Edges]:
    """Edges of some structures: (2, E) receiver and neighbour, and (E, 3) shifts of the cell."""
    ids = np.asarray(ids, dtype=np.int64)
    pos, cell, pbc = frames.atoms("pos", ids), frames.rows("cell", ids), frames.rows("pbc", ids)
    return _edges(pos, cell, pbc, frames.offset[ids + 1] - frames.offset[ids], cutoff)


def _edges(
    pos: NDArray[Any], cell: NDArray[Any], pbc: NDArray[Any], counts: NDArray[Any], cutoff: float
) -> list[Edges]:
    found, last = [], 0
    for s, n in enumerate(counts.tolist()):
        index, shift = neighbor_list(pos[last : last + n], cell[s], pbc[s], cutoff)
        found.append((index.astype(np.int32), shift.astype(np.int8)))
        last += n
    return found


def count_edges(
    edges: Sequence[Edges], n_atoms: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(S,) numbers of edges, and whether an atom has none."""
    counts = np.array([shift.shape[0] for _, shift in edges], dtype=np.int64)
    receivers = [len(np.unique(index[0])) for index, _ in edges]
    return counts, np.array(receivers, dtype=np.int64) < n_atoms


def make_batch(
    frames: Frames, ids: Ids, cutoff: float, edges: Sequence[Edges] | None = None
) -> Arrays:
    """Everything that a batch is made of but its energies, in the types of the file.

    Edges that are known already may be given. `edge_index` counts atoms over the whole batch.
    """
    ids = np.asarray(ids, dtype=np.int64)
    arrays = {name: frames.atoms(name, ids) for name in _PER_ATOM}
    arrays |= {name: frames.rows(name, ids) for name in _PER_STRUCTURE}
    counts = frames.offset[ids + 1] - frames.offset[ids]
    if edges is None:
        edges = _edges(arrays["pos"], arrays["cell"], arrays["pbc"], counts, cutoff)
    n_edges = [shift.shape[0] for _, shift in edges]
    first = (np.cumsum(counts) - counts).astype(np.int32)
    arrays["edge_index"] = np.concatenate([index for index, _ in edges], axis=1)
    arrays["edge_index"] += np.repeat(first, n_edges)
    arrays["edge_shift"] = np.concatenate([shift for _, shift in edges])
    arrays["batch"] = np.repeat(np.arange(len(ids)), counts)
    return arrays
