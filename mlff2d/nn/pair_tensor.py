"""Tensors of pairs of atoms, and their product with the surroundings of the first of the two.

Axes: N atoms, E edges, C channels. A tensor of irreps "0e+1o+2e" is (E, C, 1 + 3 + 5): each irrep
once, one after another, in e3nn's order, signs and norms.
"""

from __future__ import annotations

import math

import torch
from e3nn import o3
from torch import Tensor, nn

from mlff2d.nn.constant import Constant
from mlff2d.nn.irreps import SCALAR


def tensor_track(l_max: int, parity: bool, n_layers: int) -> list[o3.Irreps]:
    """What goes into each of `n_layers` products with Y_0..Y_lmax, and the scalar after the last.

    Every irrep up to l_max that the products can reach and from which they lead to the scalar; the
    scalar stands first.

    Parameters
    ----------
    l_max
        Of the harmonics and of all tensors.
    parity
        Whether pseudo-tensors (0o, 1e, 2o, ...) are among them.
    n_layers
        At least 1.

    Returns
    -------
    list of n_layers + 1 irreps
    """
    harmonics = [o3.Irrep(degree, (-1) ** degree) for degree in range(l_max + 1)]
    every = [o3.Irrep(degree, p) for degree in range(l_max + 1) for p in (1, -1)]
    allowed = every if parity else harmonics
    reached = [harmonics]
    for _ in range(n_layers - 1):
        found = {out for ir in reached[-1] for y in harmonics for out in ir * y}
        reached.append([ir for ir in allowed if ir in found])
    track = [[SCALAR]]
    for irreps in reversed(reached):
        # Coupling is symmetric: an irrep leads to another if that one leads to it.
        leads = {ir for out in track[0] for y in harmonics for ir in out * y}
        track.insert(0, [ir for ir in irreps if ir in leads])
    return [o3.Irreps([(1, ir) for ir in irreps]) for irreps in track]


class SurroundingsProduct(nn.Module):
    """Tensors of edges times a tensor of the atom that they start from, channel by channel.

    The tensor product of Musaelian et al., Nat. Commun. 14, 579 (2023), which is linear in what it
    takes from the neighbours, so that they are summed before. With a learnt weight for each path
    (l1, l2) -> l3 and channel, and Wigner's 3j symbol normalised to 1,

        out[e, c, m3] = sum over paths of sqrt(2 l3 + 1) w[path, c]
                        sum_{m1, m2} 3j[m1, m2, m3] x[e, c, m1] y[i(e), c, m2].

    What belongs to the atom is contracted once for each atom, not for each edge: weights, symbols
    and y make a matrix (m1) x (m3) for each channel of an atom, which its edges share.

    Parameters
    ----------
    irreps_in, irreps_atom, irreps_out
        Of x, y and the result, each irrep once.
    channels
        C.
    """

    path_of: Tensor

    def __init__(
        self, irreps_in: o3.Irreps, irreps_atom: o3.Irreps, irreps_out: o3.Irreps, channels: int
    ) -> None:
        super().__init__()
        parts = (irreps_in, irreps_atom, irreps_out)
        n_in, n_atom, n_out = self.dims = tuple(irreps.dim for irreps in parts)
        symbols = torch.zeros(n_in, n_atom, n_out, dtype=torch.float64)
        path_of = torch.zeros(symbols.shape, dtype=torch.int64)
        n_paths = 0
        for (_, out), at_out in zip(irreps_out, irreps_out.slices(), strict=True):
            for (_, first), at_first in zip(irreps_in, irreps_in.slices(), strict=True):
                for (_, second), at_second in zip(irreps_atom, irreps_atom.slices(), strict=True):
                    if out in first * second:
                        symbol = o3.wigner_3j(first.l, second.l, out.l, dtype=torch.float64)
                        symbols[at_first, at_second, at_out] = math.sqrt(out.dim) * symbol
                        path_of[at_first, at_second, at_out] = n_paths
                        n_paths += 1
        # No element belongs to two paths.
        self.symbols = Constant(symbols.transpose(0, 1).flatten())
        self.register_buffer("path_of", path_of.transpose(0, 1).flatten(), persistent=False)
        self.weight = nn.Parameter(torch.randn(channels, n_paths))

    def forward(
        self, x: Tensor, y: Tensor, receiver: Tensor, n_places: int, place: Tensor
    ) -> Tensor:
        """Products of all edges.

        Parameters
        ----------
        x : (E, C, dim in)
        y : (N, C, dim atom)
        receiver : (E,)
            Atom of each edge.
        n_places, place
            As `places` gives them for the receivers.

        Returns
        -------
        (E, C, dim out)
        """
        n_in, n_atom, n_out = self.dims
        weights = self.weight.index_select(1, self.path_of) * self.symbols(x)
        weights = weights.view(-1, n_atom, n_in * n_out)
        matrices = torch.bmm(y.transpose(0, 1), weights).transpose(0, 1).contiguous()
        if n_places and n_out > 1:
            return _by_atom(x, matrices.view(-1, n_in, n_out), n_places, place)
        matrices = matrices.index_select(0, receiver).unflatten(2, (n_in, n_out))
        # Tens of thousands of tiny matrices: a batched product takes twice as long.
        return (x.unsqueeze(3) * matrices).sum(2)


def _by_atom(x: Tensor, matrices: Tensor, n_places: int, place: Tensor) -> Tensor:
    """(E, C, n_in) times the (N C, n_in, n_out) matrices of their atoms, which are not copied."""
    channels, n_in = x.shape[1:]
    n_atoms, n_out = matrices.shape[0] // channels, matrices.shape[2]
    total = n_atoms * n_places
    rows = x if total == len(x) else x.new_zeros(total, *x.shape[1:]).index_copy(0, place, x)
    rows = rows.view(n_atoms, n_places, channels, n_in).transpose(1, 2)
    found = torch.bmm(rows.reshape(-1, n_places, n_in), matrices)
    found = found.view(n_atoms, channels, n_places, n_out).transpose(1, 2)
    found = found.reshape(total, channels, n_out)
    return found if total == len(x) else found.index_select(0, place)
