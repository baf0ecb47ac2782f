"""Labelled structures of HDF5 files with their edges, and batches of graphs from them.

Axes: N atoms, E edges, S structures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d.graph import Graph, Labels

from ..console import watched
from .frames import Arrays, Edges, Frames, Ids, count_edges, find_edges, make_batch
from .workers import Workers

IN_MEMORY = 2e9
"""Bytes up to which structures and edges are held in memory, unless a config says."""

_EDGE_BYTES = 11
_ARRAY_BYTES = 300  # of the two arrays of edges of a structure beside their content
_BLOCK = 1024  # structures whose edges are counted at a time


class Coded(Sequence[str]):
    """S strings as codes into a table of names.

    Attributes
    ----------
    codes : (S,) int32
    names : the different strings
    """

    def __init__(self, codes: NDArray[np.int32], names: list[str]) -> None:
        self.codes, self.names = codes, names

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, s: Any) -> Any:
        if isinstance(s, slice):
            return [self.names[code] for code in self.codes[s]]
        return self.names[self.codes[s]]


class Dataset:
    """The structures of HDF5 files, one file after another, ready to be batched.

    Of every structure only small numbers are in memory. With `in_memory` all of it is, and edges
    once they were found; else atoms are read from the files and edges found anew for every batch.

    Attributes
    ----------
    offset : (S + 1,) atoms before each structure
    n_atoms : (S,) int64
    energy : (S,) eV; NaN where absent, and so below
    source : (S,) int32 index into `sources`, which has name and sha256 of each source
    frame : (S,) int32 index in its source
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        cutoff: float,
        in_memory: bool | None = None,
        workers: int = 0,
    ) -> None:
        """Open files that `convert` wrote; cutoff in Å.

        `in_memory` None: where that takes less than `IN_MEMORY` and no processes make the batches.
        With `workers` so many processes make them. Raises StructureError for a file that is none.
        """
        paths = [paths] if isinstance(paths, Path) else list(paths)
        self.cutoff = cutoff
        self.frames = Frames(paths)
        self.workers = Workers(self.frames, cutoff, workers) if workers else None
        self.offset = self.frames.offset
        self.n_atoms = np.diff(self.offset)
        self.energy: NDArray[np.float64] = self.frames.column("energy")
        self.frame: NDArray[np.int32] = self.frames.column("frame")
        self.sources, self.source = self._number_sources()
        self._most = np.inf if in_memory else IN_MEMORY - self.frames.nbytes()
        keep = in_memory or (in_memory is None and not workers)
        self._edges: list[Edges | None] | None = [None] * len(self) if keep else None
        if keep:
            self._hold(int(self.n_edges.sum()))
        if self._edges is not None:
            self.frames.load()

    def __len__(self) -> int:
        return len(self.n_atoms)

    def _number_sources(self) -> tuple[list[dict[str, str]], NDArray[np.int32]]:
        sources: list[dict[str, str]] = []
        numbers = self.frames.column("source")
        for f, head in enumerate(self.frames.heads("sources")):
            numbers[self.frames.first[f] : self.frames.first[f + 1]] += len(sources)
            sources += json.loads(head)
        return sources, numbers

    @cached_property
    def material(self) -> Coded:
        """S strings: what the split keeps together. The same name is the same code."""
        return Coded(*self.frames.coded("material"))

    @cached_property
    def level(self) -> Coded:
        """S strings: the level of theory, "" where it is not known."""
        return Coded(*self.frames.coded("level"))

    @cached_property
    def trajectory(self) -> Coded:
        """S strings: what the steps of one run share. Each source has codes of its own."""
        codes = self.frames.column("trajectory")
        names: list[str] = []
        for f, more in enumerate(self.frames.names("trajectory")):
            codes[self.frames.first[f] : self.frames.first[f + 1]] += len(names)
            names += more
        return Coded(codes, names)

    @cached_property
    def target(self) -> NDArray[np.float64]:
        """(S,) the property to learn."""
        return self.frames.column("target")

    @cached_property
    def layer_group(self) -> NDArray[np.uint8]:
        """(S,) number of the layer group, 1 to 80; 0 where there is none."""
        return self.frames.column("layer_group")

    @cached_property
    def fingerprint(self) -> NDArray[np.uint64]:
        """(S,) the same for structures that are the same to 1e-4 Å."""
        return self.frames.column("fingerprint")

    @cached_property
    def max_force(self) -> NDArray[np.float32]:
        """(S,) largest absolute component of a force, eV/Å."""
        return self.frames.column("max_force")

    @cached_property
    def stress_2d(self) -> NDArray[np.float64]:
        """(S, 3) in-plane stress xx, yy, xy in N/m; NaN for what is no slab too."""
        return self.frames.column("stress_2d")

    @cached_property
    def max_stress_kbar(self) -> NDArray[np.float64]:
        """(S,) largest absolute component of the stress in kbar of the cell as given."""
        return self.frames.column("max_stress_kbar")

    def shift_energies(self, source_ids: Sequence[int], shift: Mapping[int, float]) -> None:
        """Add energies in eV by atomic number to the energies of the structures of some sources."""
        per_element = np.zeros(256)
        for z, energy in shift.items():
            per_element[z] = energy
        chosen = np.flatnonzero(np.isin(self.source, list(source_ids)))
        for k in range(0, len(chosen), _BLOCK):
            ids = chosen[k : k + _BLOCK]
            first = np.cumsum(self.n_atoms[ids]) - self.n_atoms[ids]
            self.energy[ids] += np.add.reduceat(per_element[self.atoms_of("z", ids)], first)

    @property
    def n_edges(self) -> NDArray[np.int64]:
        """(S,) edges within the cutoff; found at the first use and then kept beside the file."""
        return self._edge_counts[0]

    @property
    def isolated(self) -> NDArray[np.bool_]:
        """(S,) whether an atom has no neighbour within the cutoff; found with `n_edges`."""
        return self._edge_counts[1]

    @cached_property
    def _edge_counts(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        counts, isolated = [], []
        for f, content in enumerate(self.frames.heads("content")):
            path = self.frames.paths[f]
            known = path.with_name(f"{path.stem}.edges-{self.cutoff:g}.npz")
            found = _read_counts(known, content)
            if found is None:
                ids = np.arange(self.frames.first[f], self.frames.first[f + 1])
                found = self._counted(ids)
                _keep_counts(known, content, *found)
            counts.append(found[0])
            isolated.append(found[1])
        return np.concatenate(counts).astype(np.int64), np.concatenate(isolated)

    def _counted(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        counts, isolated = np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=bool)
        blocks = [ids[k : k + _BLOCK] for k in range(0, len(ids), _BLOCK)]
        done = 0
        for n_edges, alone in watched(self._iter_counts(blocks), "finding neighbours", len(blocks)):
            counts[done : done + len(n_edges)] = n_edges
            isolated[done : done + len(n_edges)] = alone
            done += len(n_edges)
        return counts, isolated

    def _iter_counts(
        self, blocks: Sequence[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        if self.workers is not None and len(blocks) > 1:
            yield from self.workers.count_edges(blocks)
            return
        so_far = 0
        for ids in blocks:
            edges = find_edges(self.frames, ids, self.cutoff)
            n_edges, isolated = count_edges(edges, self.n_atoms[ids])
            so_far += int(n_edges.sum())
            self._hold(so_far)
            if self._edges is not None:
                self._edges[ids[0] : ids[-1] + 1] = edges
            yield n_edges, isolated

    def _hold(self, n_edges: int) -> None:
        """Give up holding all in memory where so many edges are too many."""
        if n_edges * _EDGE_BYTES + len(self) * _ARRAY_BYTES > self._most:
            self._edges = None

    def atoms_of(self, name: str, ids: Ids) -> NDArray[Any]:
        """Rows of a per-atom array (z, pos, forces) of several structures, one after another."""
        return self.frames.atoms(name, ids)

    def rows_of(self, name: str, ids: Ids) -> NDArray[Any]:
        """(len(ids), ...) of cell, pbc, virial or state of several structures."""
        return self.frames.rows(name, ids)

    def batch(self, ids: Ids, dtype: torch.dtype = torch.float32) -> tuple[Graph, Labels]:
        """The graph and labels of some structures, in the order given; energies are float64."""
        edges = None
        if self._edges is not None:
            edges = [self._edges_of(int(s), self._edges) for s in ids]
        return self.wrap(ids, make_batch(self.frames, ids, self.cutoff, edges), dtype)

    def _edges_of(self, s: int, known: list[Edges | None]) -> Edges:
        edges = known[s]
        if edges is None:
            (edges,) = find_edges(self.frames, [s], self.cutoff)
            known[s] = edges
        return edges

    def wrap(self, ids: Ids, arrays: Arrays, dtype: torch.dtype) -> tuple[Graph, Labels]:
        """Graph and labels from the arrays that `make_batch` made of these structures."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        graph = Graph(
            z=tensors["z"].long(),
            pos=tensors["pos"],
            cell=tensors["cell"],
            pbc=tensors["pbc"],
            edge_index=tensors["edge_index"].long(),
            edge_shift=tensors["edge_shift"].long(),
            batch=tensors["batch"],
            state=tensors["state"],
        )
        labels = Labels(
            energy=torch.from_numpy(self.energy[np.asarray(ids)]),
            forces=tensors["forces"],
            virial=tensors["virial"],
        )
        return graph.to(dtype=dtype), labels.to(dtype=dtype)

    def name(self, s: int) -> str:
        """Source and frame of a structure, for messages."""
        return f"{self.sources[self.source[s]]['name']} frame {self.frame[s]} ({self.material[s]})"


def _read_counts(path: Path, content: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
    """What was counted before for a file of this content, or None."""
    try:
        with np.load(path) as known:
            if str(known["content"]) == content:
                return known["n_edges"], known["isolated"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass  # not there, or cut off: it is made anew
    return None


def _keep_counts(
    path: Path, content: str, n_edges: NDArray[np.int64], isolated: NDArray[np.bool_]
) -> None:
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
    try:
        np.savez(unfinished, content=content, n_edges=n_edges.astype(np.int32), isolated=isolated)
        os.replace(unfinished, path)
    except OSError:  # a folder that is read only: they are counted again the next time
        unfinished.unlink(missing_ok=True)
