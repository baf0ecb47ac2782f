"""Tensor products with the edges' harmonics, summed over neighbours by matrix products.

Axes: N atoms, E edges, D places for neighbours of each atom, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor
from torch.nn.functional import linear

from mlff2d.nn.mlp import MLP, ScaledLinear, scaled_silu
from mlff2d.nn.scatter import places, segment_sum
from mlff2d.nn.tensor_product import NeighbourTensorProduct


@dataclass(frozen=True)
class Neighbours:
    """The edges of all atoms, each atom's in as many places as any atom has neighbours.

    Empty places have zeros as harmonics and radial functions. Where there would be too many of
    them, the places are the edges themselves.

    Attributes
    ----------
    n_places
        D, or 0 where places are edges.
    edge_index : (2, P)
        Receiver and neighbour of each of the P = N D places, or of the edges.
    harmonics : (P, (l_max + 1)^2)
        Spherical harmonics.
    radial : (P, n_radial)
        Radial functions.
    """

    n_places: int
    edge_index: Tensor
    harmonics: Tensor
    radial: Tensor

    def sum(self, values: Tensor, n_atoms: int) -> Tensor:
        """(P, C) -> (N, C), over the places of each atom."""
        if self.n_places:
            return values.view(n_atoms, self.n_places, -1).sum(1)
        return segment_sum(values, self.edge_index[0], n_atoms)


def arrange(edge_index: Tensor, harmonics: Tensor, radial: Tensor, n_atoms: int) -> Neighbours:
    """Give every edge a place.

    Parameters
    ----------
    edge_index : (2, E)
        Receivers and neighbours. Receivers that do not ascend keep their list.
    harmonics : (E, (l_max + 1)^2)
    radial : (E, n_radial)
    n_atoms
        N.
    """
    receiver, neighbour = edge_index
    n_edges = len(receiver)
    n_places, place = places(receiver, n_atoms)
    total = n_atoms * n_places
    if total in (0, n_edges):
        return Neighbours(n_places, edge_index, harmonics, radial)
    every = torch.arange(total, device=receiver.device)
    # An empty place may have any neighbour, for it counts with weight zero.
    neighbours = torch.zeros_like(every).index_copy(0, place, neighbour)
    return Neighbours(
        n_places,
        torch.stack([every // n_places, neighbours]),
        harmonics.new_zeros(total, harmonics.shape[1]).index_copy(0, place, harmonics),
        radial.new_zeros(total, radial.shape[1]).index_copy(0, place, radial),
    )


class NeighbourSum(NeighbourTensorProduct):
    """The same sums as its base class, by products of matrices where places allow.

    A message is a product of a factor without channels (harmonics and 3j symbols) and one without
    m3 (radial weights and features). With the neighbours of an atom in a row, their sum is one
    product of matrices, and no message is ever written down.
    """

    def summed(self, x: list[Tensor], network: MLP, neighbours: Neighbours) -> list[Tensor]:
        """Messages of all neighbours, summed.

        Parameters
        ----------
        x : list of (N, 2l+1, C)
            Features of `irreps_in`.
        network
            Makes `n_weights` radial weights, as the base class has them, of the radial functions.
        neighbours
            The edges.

        Returns
        -------
        list of (N, 2l+1, C)
            As the base class does.
        """
        harmonics, index = neighbours.harmonics, neighbours.edge_index
        if self.compiled is not None or not neighbours.n_places:
            return self(x, harmonics, network(neighbours.radial), index)
        n_atoms, n_places = x[0].shape[0], neighbours.n_places
        # Each path's weights by themselves: joined, their gradients would be copied once more.
        hidden, last = _all_but_last(network, neighbours.radial)
        sizes = [mul for mul, group in zip(self.muls, self.groups, strict=True) for _ in group]
        matrices = iter(last.split(sizes))
        collected: dict[o3.Irrep, list[Tensor]] = {ir: [] for _, ir in self.irreps_out}
        for group, mul, coupling in zip(self.groups, self.muls, self.couplings, strict=True):
            source = x[group[0].source].index_select(0, index[1])
            dim = source.shape[1]
            rows = (harmonics @ coupling(harmonics)).view(n_atoms, n_places, -1, dim)
            # (N, all m3, D m1): all that the paths of this group multiply features with.
            matrix = rows.transpose(1, 2).reshape(n_atoms, -1, n_places * dim)
            parts = matrix.split([path.out.dim for path in group], dim=1)
            for path, part in zip(group, parts, strict=True):
                factor = linear(hidden, next(matrices)).unsqueeze(1)
                weighted = (source * factor).view(n_atoms, n_places * dim, mul)
                collected[path.out].append(torch.bmm(part, weighted))
        return [torch.cat(parts, dim=-1) for parts in collected.values()]


def _all_but_last(network: MLP, x: Tensor) -> tuple[Tensor, Tensor]:
    """(P, H) what a network's last layer takes in, and (C_out, H) the matrix of that layer."""
    *first, last = network.layers
    for layer in first:
        x = scaled_silu(layer(x))
    assert isinstance(last, ScaledLinear)
    return x, last.weight * last.factor
