"""Sums over pairs of neighbours, without ever listing the pairs.

Axes: N atoms, E edges, E' edges within the three-body cutoff, B = n_degrees n_radial three-body
functions (degree l slowest), M = n_degrees^2 n_radial the same for each order m of the spherical
harmonics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from e3nn.o3 import spherical_harmonics
from torch import Tensor, nn

from mlff2d.nn.bessel import SmoothRadialBasis, SphericalBesselBasis
from mlff2d.nn.constant import Constant
from mlff2d.nn.radial import PolynomialEnvelope
from mlff2d.nn.scatter import segment_sum

MAX_DEGREES = 13
"""e3nn has spherical harmonics of so many degrees, l = 0 to 12."""


@dataclass(frozen=True)
class Neighbourhoods:
    """What of the three-body terms depends on positions alone; see `ThreeBodyBasis`.

    Attributes
    ----------
    rows : (E',) int64
        The edges within the three-body cutoff, as rows of all edges.
    receivers, neighbours : (E',) int64
        Their atoms.
    n_atoms
        N.
    density : (E', M)
        What the neighbour k adds to the density around its receiver i:
        b_ln(r_ik) f_c(r_ik) Y_lm(ik).
    probe : (E', M)
        What the edge ij projects that density on: f_c(r_ij) Y_lm(ij), with sqrt(V) and the factor
        of Y_l^0.
    spread : (B, M)
        Repeats three-body functions over their orders m; transposed it sums over m.
    """

    rows: Tensor
    receivers: Tensor
    neighbours: Tensor
    n_atoms: int
    density: Tensor
    probe: Tensor
    spread: Tensor

    def sums(self, weights: Tensor) -> Tensor:
        """(N, B) weights of the neighbours k -> (E', B) sums s_ij."""
        own = (weights @ self.spread).index_select(0, self.neighbours) * self.density
        density = segment_sum(own, self.receivers, self.n_atoms)
        # An edge makes no pair with itself.
        others = density.index_select(0, self.receivers) - own
        return (others * self.probe) @ self.spread.T


class ThreeBodyBasis(nn.Module):
    """M3GNet's many-body sums over the neighbours k of the receiver i of an edge ij.

    s_ij,ln = f_c(r_ij) sum_{k != j} sqrt(V) b_ln(r_ik) Y_l^0(theta_jik) f_c(r_ik) w_k,ln: Chen and
    Ong, Nat. Comput. Sci. 2, 718 (2022), eq. 2, with b_ln from `SphericalBesselBasis`,
    f_c(r) = 1 - 10 x^3 + 15 x^4 - 6 x^5, x = r / c3, and w_k of the neighbour's features. Not in
    the paper is V, the volume of the sphere of radius c: b_ln Y_l^0 is orthonormal in it, and with
    sqrt(V) of mean square 1, a number of the size that the layers after it are made for.

    By the addition theorem Y_l^0(theta_jik) = sqrt((2l + 1) / 4 pi) sum_m Y_lm(ij) Y_lm(ik) (with
    sum_m Y_lm^2 = 1), so the sum over k is done once for each atom rather than for each edge: work
    and memory grow with the number of edges, not of pairs of edges, and no angle is ever computed.

    Parameters
    ----------
    n_radial, n_degrees
        Radial functions for each degree l = 0 .. n_degrees - 1.
    cutoff
        c, at which the radial functions are zero, in Å.
    threebody_cutoff
        c3, beyond which an edge takes no part, in Å; at most `cutoff`.
    smooth
        Take the n_radial n_degrees functions of `SmoothRadialBasis`, of which each degree has
        n_radial, in the place of b_ln.
    """

    def __init__(
        self,
        n_radial: int,
        n_degrees: int,
        cutoff: float,
        threebody_cutoff: float,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        self.cutoff = float(threebody_cutoff)
        self.degrees = list(range(n_degrees))
        self.n_functions = n_radial * n_degrees
        self.radial: SmoothRadialBasis | SphericalBesselBasis
        if smooth:
            self.radial = SmoothRadialBasis(self.n_functions, cutoff)
        else:
            self.radial = SphericalBesselBasis(n_radial, n_degrees, cutoff)
        self.envelope = PolynomialEnvelope(3)
        degree = torch.tensor(
            [deg for deg in self.degrees for _ in range((2 * deg + 1) * n_radial)]
        )
        function = degree * n_radial + torch.arange(n_radial).repeat(n_degrees**2)
        self.spread = Constant(torch.eye(self.n_functions)[function].T)
        self.spread_harmonics = Constant(torch.eye(n_degrees**2).repeat_interleave(n_radial, 1))
        # sqrt(V (2 l + 1) / 4 pi)
        self.norm = Constant(torch.sqrt((2 * degree.double() + 1) * cutoff**3 / 3.0))

    def forward(
        self, edge_vec: Tensor, r: Tensor, edge_index: Tensor, n_atoms: int
    ) -> Neighbourhoods:
        """(E, 3) vectors and (E,) lengths in Å, greater than 0, (2, E) receivers and neighbours.

        With the two rows of `edge_index` exchanged the sums of an edge are about its other end.
        """
        rows = (r < self.cutoff).nonzero().squeeze(-1)
        r = r.index_select(0, rows)
        receivers, neighbours = edge_index.index_select(1, rows)
        harmonics = spherical_harmonics(
            self.degrees, edge_vec.index_select(0, rows), normalize=True, normalization="norm"
        )
        falloff = self.envelope(r / self.cutoff).unsqueeze(-1)
        harmonics = (harmonics * falloff) @ self.spread_harmonics(r)
        return Neighbourhoods(
            rows=rows,
            receivers=receivers,
            neighbours=neighbours,
            n_atoms=n_atoms,
            density=(self.radial(r) @ self.spread(r)) * harmonics,
            probe=harmonics * self.norm(r),
            spread=self.spread(r),
        )
