"""The line graph: which bonds end where another begins, and the angles between them.

Axes: E edges, E' edges within the angle cutoff, T pairs of bonds that share an atom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LineGraph:
    """A graph whose nodes are the edges of another one.

    Each of its own edges leads from a bond u -> v to a bond v -> w. Among them are pairs with
    w = u, a bond and the way back along it, with an angle of 0: as Choudhary and DeCost have them.

    Attributes
    ----------
    receivers, neighbours : (T,) int64
        Rows, among all E edges, of the bond v -> w that is told and of the bond u -> v that tells;
        ascending by the former where the edges are.
    cosines : (T,)
        Of the angle uvw at the atom that the two bonds share.
    """

    receivers: Tensor
    neighbours: Tensor
    cosines: Tensor


def line_graph(
    edge_vec: Tensor, r: Tensor, edge_index: Tensor, n_atoms: int, cutoff: float
) -> LineGraph:
    """The line graph of the edges shorter than a cutoff.

    An edge with receiver i and neighbour j is the bond j -> i, the way that messages take.

    Parameters
    ----------
    edge_vec : (E, 3)
        From receiver to neighbour in Å, none of length zero.
    r : (E,)
        Their lengths.
    edge_index : (2, E)
        Receivers and neighbours, in any order; a pair appears once for each periodic image.
    n_atoms
        N.
    cutoff
        In Å.
    """
    rows = (r < cutoff).nonzero().squeeze(-1)
    rows = rows.index_select(0, edge_index[0].index_select(0, rows).argsort(stable=True))
    near, shared = edge_index.index_select(1, rows)
    # The bonds that end at an atom lie side by side; a bond meets all that end where it begins.
    ends = torch.bincount(near, minlength=n_atoms)
    first = ends.cumsum(0) - ends
    partners = ends.index_select(0, shared)
    told = torch.repeat_interleave(partners)
    before = partners.cumsum(0) - partners
    count = torch.arange(len(told), device=told.device) - before.index_select(0, told)
    receivers = rows.index_select(0, told)
    neighbours = rows.index_select(0, first.index_select(0, shared).index_select(0, told) + count)
    # No clamp at ±1: it would cut off the curvature at straight angles. The vector of the bond
    # that is told points to the shared atom, that of the other away from it.
    direction = edge_vec / r.unsqueeze(-1)
    cosines = -(direction.index_select(0, receivers) * direction.index_select(0, neighbours)).sum(1)
    return LineGraph(receivers, neighbours, cosines)
