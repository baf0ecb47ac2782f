"""How far atoms that move are from what their model was trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from mlff2d.graph import Graph
from mlff2d.potential import Potential

from ..skin import SkinLists
from ..slabs import Slabs


class NoveltyOf:
    """The novelty of the atoms of slabs, see `Potential.novelty`; in pieces as an `Evaluator` has.

    Parameters
    ----------
    potential : with a domain
    max_edges : looked at at once
    """

    def __init__(self, potential: Potential, max_edges: int) -> None:
        self._potential, self._max_edges = potential, max_edges
        self._lists = SkinLists(potential.cutoff)

    def __call__(self, slabs: Slabs) -> Tensor:
        """(N,) float64, 1 at the 99.9 % quantile of the training set."""
        neighbours = self._lists.get(slabs)
        piece = (torch.cumsum(neighbours.count, 0) - 1) // self._max_edges
        found = torch.full_like(slabs.pos[:, 0], torch.nan)
        for number in torch.unique(piece).tolist():
            structures = piece == number
            atoms = structures[slabs.batch]
            edges = atoms[neighbours.index[0]]
            part, place = slabs.select(structures), torch.cumsum(atoms, 0) - 1
            graph = Graph(
                z=part.z,
                pos=part.pos,
                cell=part.cell,
                pbc=part.pbc,
                edge_index=place[neighbours.index[:, edges]],
                edge_shift=neighbours.shift[edges],
                batch=part.batch,
                state=part.state.to(self._potential.dtype),
            )
            found[atoms] = self._potential.novelty(graph).to(found)
        return found
