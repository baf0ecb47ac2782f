"""Labelled structures of an HDF5 file with their edges, and batches of graphs from them.

Axes: N atoms, E edges, S structures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d.graph import Graph, Labels
from mlff2d.neighbors import Edges, neighbor_list

from ..console import watched
from .convert import PER_ATOM, PER_STRUCTURE

_Edges = tuple[NDArray[np.int32], NDArray[np.int8]]


class Dataset:
    """The structures of an HDF5 file with their edges, ready to be batched.

    In memory, structures and edges take about 40 bytes an atom and 11 an edge. Else atoms are read
    from the file and edges found anew for every batch.

    Attributes
    ----------
    n_atoms, n_edges : (S,) int64
    isolated : (S,) bool, an atom has no neighbour within the cutoff
    energy, virial, cell, pbc, frame, state, target, source : (S, ...) as in `Record`
    material : S strings
    sources : name and sha256 of each source file
    """

    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: NDArray[np.float64]
    virial: NDArray[np.float64]
    frame: NDArray[np.int64]
    target: NDArray[np.float64]

    def __init__(self, path: Path, cutoff: float, in_memory: bool = True) -> None:
        """Open a file that `convert` wrote; cutoff in Å."""
        self.cutoff = cutoff
        file = h5py.File(path, "r")
        self.offset: NDArray[np.int64] = file["offset"][:]
        self.material: list[str] = list(file["material"].asstr()[:])
        self.source: NDArray[np.int32] = file["source"][:]
        self.state: NDArray[np.float64] = file["state"][:]
        self.sources: list[dict[str, str]] = json.loads(file.attrs["sources"])
        for name, _, _ in PER_STRUCTURE:
            setattr(self, name, file[name][:])
        self._per_atom = {
            name: file[name][:] if in_memory else file[name] for name, _, _ in PER_ATOM
        }
        if in_memory:
            file.close()
        self.n_atoms = np.diff(self.offset)
        self._edges: list[_Edges] | None = [] if in_memory else None
        self._find_edges()

    def __len__(self) -> int:
        return len(self.n_atoms)

    def _find_edges(self) -> None:
        self.n_edges = np.zeros(len(self), dtype=np.int64)
        self.isolated = np.zeros(len(self), dtype=bool)
        for s in watched(range(len(self)), "finding neighbours"):
            (i, j), shift = self._neighbors(s)
            self.n_edges[s] = len(i)
            self.isolated[s] = len(np.unique(i)) < self.n_atoms[s]
            if self._edges is not None:
                self._edges.append((np.stack([i, j]).astype(np.int32), shift.astype(np.int8)))

    def _neighbors(self, s: int) -> Edges:
        pos = self.atoms_of("pos", [s])
        return neighbor_list(pos, self.cell[s], self.pbc[s], self.cutoff)

    def atoms_of(self, name: str, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """Rows of a per-atom array (z, pos, forces) of several structures, one after another."""
        array = self._per_atom[name]
        return np.concatenate([array[self.offset[s] : self.offset[s + 1]] for s in ids])

    def batch(
        self, ids: Sequence[int] | NDArray[np.int64], dtype: torch.dtype = torch.float32
    ) -> tuple[Graph, Labels]:
        """The graph and labels of some structures, in the order given; energies are float64."""
        ids = np.asarray(ids)
        counts = self.n_atoms[ids]
        first = np.cumsum(counts) - counts
        edges = [self._neighbors(s) if self._edges is None else self._edges[s] for s in ids]
        n_edges = np.array([shift.shape[0] for _, shift in edges])
        edge_index = np.concatenate([index for index, _ in edges], axis=1).astype(np.int64)
        edge_index += np.repeat(first, n_edges)
        edge_shift = np.concatenate([shift for _, shift in edges]).astype(np.int64)
        graph = Graph(
            z=torch.from_numpy(self.atoms_of("z", ids).astype(np.int64)),
            pos=torch.from_numpy(self.atoms_of("pos", ids)),
            cell=torch.from_numpy(self.cell[ids]),
            pbc=torch.from_numpy(self.pbc[ids]),
            edge_index=torch.from_numpy(edge_index),
            edge_shift=torch.from_numpy(edge_shift),
            batch=torch.from_numpy(np.repeat(np.arange(len(ids)), counts)),
            state=torch.from_numpy(self.state[ids]),
        )
        labels = Labels(
            energy=torch.from_numpy(self.energy[ids]),
            forces=torch.from_numpy(self.atoms_of("forces", ids)),
            virial=torch.from_numpy(self.virial[ids]),
        )
        return graph.to(dtype=dtype), labels.to(dtype=dtype)

    def name(self, s: int) -> str:
        """File and frame of a structure, for messages."""
        return f"{self.sources[self.source[s]]['name']} frame {self.frame[s]} ({self.material[s]})"
