"""Neighbours of many slabs at once, kept while they are right.

The rule is that of `mlff2d.neighbors.SkinList`, for every structure on its own: its list, made with
cutoff + skin, is made again when σ_min(F) (cutoff + skin) - 2u falls below the cutoff, F being the
deformation of its cell since and u the farthest that an atom moved on top of it. What is handed
out are the edges within the cutoff, in one order, so that nothing shows when a list was made.

Axes: S structures, N atoms, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlff2d.neighbors import neighbor_list
from mlff2d.slab import batched_complete_cell

from .slabs import Slabs


@dataclass(frozen=True)
class Neighbours:
    """Edges of slabs.

    Attributes
    ----------
    index : (2, E) int64 receiver and neighbour among all atoms, ordered by receiver, then by
        neighbour, then by shift
    shift : (E, 3) int64 cells between them
    distance : (E,) float64 Å
    count : (S,) int64 edges of each structure
    troubles : key -> why a structure has no edges (NaN, a degenerate cell)
    """

    index: Tensor
    shift: Tensor
    distance: Tensor
    count: Tensor
    troubles: dict[int, str]


@dataclass(frozen=True)
class _List:
    """The list of one structure, and the geometry that it was made for."""

    index: Tensor  # (2, E)
    shift: Tensor  # (E, 3)
    pos: Tensor  # (N, 3)
    cell: Tensor  # (3, 3), NaN where there is no list
    pbc: Tensor  # (3,)
    trouble: str


@dataclass(frozen=True)
class _Joined:
    """The lists of several structures, in their order."""

    key: Tensor  # (S,)
    batch: Tensor  # (N,)
    pbc: Tensor  # (S, 3)
    pos: Tensor  # (N, 3)
    unbox: Tensor  # (S, 3, 3), inverses of the completed cells
    index: Tensor  # (2, E)
    shift: Tensor  # (E, 3)
    troubles: dict[int, str]

    def is_of(self, slabs: Slabs) -> bool:
        return (
            torch.equal(self.key, slabs.key)
            and torch.equal(self.batch, slabs.batch)
            and torch.equal(self.pbc, slabs.pbc)
        )


class SkinLists:
    """Neighbour lists of slabs, each known by its key and forgotten when it does not come again.

    Parameters
    ----------
    cutoff, skin : Å

    Attributes
    ----------
    n_builds : lists made so far
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        if cutoff <= 0 or skin < 0:
            raise ValueError(f"cutoff must be positive and skin not negative: {cutoff}, {skin}")
        self.cutoff = cutoff
        self.skin = skin
        self.n_builds = 0
        self._lists: dict[int, _List] = {}
        self._joined: _Joined | None = None

    def get(self, slabs: Slabs) -> Neighbours:
        """Edges within the cutoff. Raises ValueError where two structures have the same key."""
        joined = self._joined
        if joined is None or not joined.is_of(slabs):
            joined = self._joined = self._join(slabs, self._strangers(slabs))
        outdated = self._outdated(joined, slabs)
        if outdated:
            joined = self._joined = self._join(slabs, outdated)
        return self._within(joined, slabs)

    def _strangers(self, slabs: Slabs) -> list[int]:
        """Structures without a list, or with one of another kind of structure."""
        found = []
        for s, (key, n_atoms) in enumerate(
            zip(slabs.key.tolist(), slabs.n_atoms.tolist(), strict=True)
        ):
            known = self._lists.get(key)
            if (
                known is None
                or len(known.pos) != n_atoms
                or not torch.equal(known.pbc, slabs.pbc[s])
            ):
                found.append(s)
        return found

    def _join(self, slabs: Slabs, to_build: list[int]) -> _Joined:
        keys = slabs.key.tolist()
        if len(set(keys)) < len(keys):
            raise ValueError("two structures have the same key; give each one of its own")
        n_atoms = slabs.n_atoms
        first = torch.cumsum(n_atoms, 0) - n_atoms
        if to_build:
            firsts, lengths = first.tolist(), n_atoms.tolist()
        for s in to_build:
            atoms = slice(firsts[s], firsts[s] + lengths[s])
            self._lists[keys[s]] = self._build(slabs.pos[atoms], slabs.cell[s], slabs.pbc[s])
        lists = [self._lists[key] for key in keys]
        self._lists = dict(zip(keys, lists, strict=True))
        index = torch.cat([known.index for known in lists], dim=1)
        n_edges = torch.tensor([known.index.shape[1] for known in lists], device=index.device)
        box = batched_complete_cell(torch.stack([known.cell for known in lists]), slabs.pbc)
        return _Joined(
            key=slabs.key,
            batch=slabs.batch,
            pbc=slabs.pbc,
            pos=torch.cat([known.pos for known in lists]),
            unbox=torch.linalg.inv_ex(box).inverse,
            index=index + first.repeat_interleave(n_edges),
            shift=torch.cat([known.shift for known in lists]),
            troubles={key: x.trouble for key, x in self._lists.items() if x.trouble},
        )

    def _build(self, pos: Tensor, cell: Tensor, pbc: Tensor) -> _List:
        """The list of one structure; of its tensors copies are kept, for their owner moves them."""
        self.n_builds += 1
        geometry = pos.cpu().numpy(), cell.cpu().numpy(), pbc.cpu().numpy()
        index, shift = np.empty((2, 0), np.int64), np.empty((0, 3), np.int64)
        trouble = ""
        if np.isfinite(geometry[0]).all() and np.isfinite(geometry[1]).all():
            try:
                index, shift = neighbor_list(*geometry, self.cutoff + self.skin)
            except ValueError as error:
                trouble = str(error)
        else:
            trouble = "positions or cell became NaN or infinite"
        return _List(
            index=torch.from_numpy(index).to(pos.device),
            shift=torch.from_numpy(shift).to(pos.device),
            pos=pos.clone(),
            cell=torch.full_like(cell, torch.nan) if trouble else cell.clone(),
            pbc=pbc.clone(),
            trouble=trouble,
        )

    def _outdated(self, joined: _Joined, slabs: Slabs) -> list[int]:
        """Structures whose list may lack an edge; those without any list are none of them."""
        deformation = joined.unbox @ batched_complete_cell(slabs.cell, slabs.pbc)
        carried = (joined.pos.unsqueeze(1) @ deformation[slabs.batch]).squeeze(1)
        moved = torch.zeros_like(slabs.cell[:, 0, 0]).scatter_reduce(
            0, slabs.batch, (slabs.pos - carried).norm(dim=1).nan_to_num(nan=torch.inf), "amax"
        )
        shrink = torch.linalg.svdvals(deformation.nan_to_num(0.0, 0.0, 0.0))[:, -1]
        right = shrink * (self.cutoff + self.skin) - 2 * moved >= self.cutoff
        return torch.nonzero(~right).squeeze(1).tolist()

    def _within(self, joined: _Joined, slabs: Slabs) -> Neighbours:
        i, j = joined.index
        structure = slabs.batch.index_select(0, i)
        cell = slabs.cell.index_select(0, structure)
        vectors = torch.bmm(joined.shift.to(cell.dtype).unsqueeze(1), cell).squeeze(1)
        vectors += slabs.pos.index_select(0, j) - slabs.pos.index_select(0, i)
        distance = vectors.norm(dim=1)
        near = torch.nonzero(distance < self.cutoff).squeeze(1)
        return Neighbours(
            index=joined.index.index_select(1, near),
            shift=joined.shift.index_select(0, near),
            distance=distance.index_select(0, near),
            count=torch.bincount(structure.index_select(0, near), minlength=slabs.n_structures),
            troubles=joined.troubles,
        )
