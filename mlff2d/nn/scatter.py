"""Sums over the edges of a node or the nodes of a structure."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_EMPTY = 0.5
"""Empty places for each edge, beyond which edges stay in a list."""


def segment_sum(src: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum rows that share an index: out[k] = sum of src[e] with index[e] = k.

    Parameters
    ----------
    src : (E, ...)
        Rows to sum; E may be 0.
    index : (E,) int64
        Row of the result that each row goes to, in 0..n-1; any order.
    n
        Number of rows of the result.

    Returns
    -------
    (n, ...), zero where nothing goes.
    """
    return src.new_zeros((n, *src.shape[1:])).index_add(0, index, src)


def places(receiver: Tensor, n_atoms: int) -> tuple[int, Tensor]:
    """A table for edges with as many places for each atom as any atom has edges.

    Parameters
    ----------
    receiver : (E,) int64
        Atom of each edge.
    n_atoms
        N.

    Returns
    -------
    D, the places of an atom, and (E,) int64, the place of each edge among all N D of them. D is 0
    where a list serves better, for receivers do not ascend or too many places would be empty.
    """
    n_edges = receiver.shape[0]
    if not n_edges or bool((receiver[1:] < receiver[:-1]).any()):
        return 0, receiver
    degree = torch.bincount(receiver, minlength=n_atoms)
    n_places = int(degree.max())
    if n_atoms * n_places > (1.0 + MAX_EMPTY) * n_edges:
        return 0, receiver
    first = degree.cumsum(0) - degree
    count = torch.arange(n_edges, device=receiver.device)
    return n_places, receiver * n_places + count - first[receiver]
