"""The tensor product of neighbours' features with spherical harmonics, summed over neighbours."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn

from mlff2d.nn.constant import Constant
from mlff2d.nn.scatter import segment_sum

Sum = Callable[[list[Tensor], Tensor, Tensor, Tensor], list[Tensor] | None]
"""As `NeighbourTensorProduct.forward`; None for what it was not made for."""


@dataclass(frozen=True)
class Path:
    """One coupling of input term `source` with Y_l to an output irrep."""

    source: int
    degree: int
    out: o3.Irrep


def find_paths(
    irreps_in: o3.Irreps, l_max: int, wanted: Collection[o3.Irrep], parity: bool = True
) -> list[Path]:
    """All couplings of the input with Y_0..Y_lmax that end in a wanted irrep, by input term.

    Without `parity` an odd Y_l counts as even, like all features: rotations are respected, mirrors
    are not.
    """
    vector = -1 if parity else 1
    return [
        Path(k, degree, out)
        for k, (_, ir) in enumerate(irreps_in)
        for degree in range(l_max + 1)
        for out in ir * o3.Irrep(degree, vector**degree)
        if out in wanted
    ]


class NeighbourTensorProduct(nn.Module):
    """Messages sum_j w(r_ij) CG (x_j, Y(r_ij)), channel by channel ("uvu" with one Y of each l).

    Batzner et al., Nat. Commun. 13, 2453 (2022), eq. 6. A path from (l1, l2) to l3 gives, with
    Wigner's 3j symbol normalised to 1,

        m[i, m3, c] = sqrt(2 l3 + 1) sum_{j, m1, m2} 3j[m1, m2, m3] w[ij, c] x[j, m1, c] Y[ij, m2].

    For l1 > 0 all paths of one input irrep go together: Y and the 3j symbols make one matrix
    (m3 of all paths) x (m1) for each edge, which a batched product applies to x. Large tensors are
    split and never joined: the second derivative of a join fills whole tensors with zeros.

    Parameters
    ----------
    irreps_in
        Features of the neighbours, each irrep once.
    l_max
        Greatest degree of the spherical harmonics.
    wanted
        Irreps that messages are needed for.
    parity
        Whether an odd Y_l is odd; see `find_paths`.

    Attributes
    ----------
    compiled
        The same by compiled code, where it was made; see `mlff2d.compiled.train_compiled`.
    """

    compiled: Sum | None = None

    def __init__(
        self,
        irreps_in: o3.Irreps,
        l_max: int,
        wanted: Collection[o3.Irrep],
        parity: bool = True,
    ) -> None:
        super().__init__()
        self.irreps_in = irreps_in
        self.l_max = l_max
        self.paths = find_paths(irreps_in, l_max, wanted, parity)
        self.groups = [
            [p for p in self.paths if p.source == k] for k in sorted({p.source for p in self.paths})
        ]
        self.muls = [irreps_in[group[0].source].mul for group in self.groups]
        self.couplings = nn.ModuleList(
            Constant(_coupling(irreps_in[group[0].source].ir, group, l_max))
            for group in self.groups
        )
        self.degrees = [2 * degree + 1 for degree in range(l_max + 1)]
        self.n_weights = sum(irreps_in[p.source].mul for p in self.paths)
        outs = sorted({p.out for p in self.paths})
        self.irreps_out = o3.Irreps(
            (sum(irreps_in[p.source].mul for p in self.paths if p.out == out), out) for out in outs
        )

    def forward(
        self, x: list[Tensor], harmonics: Tensor, weights: Tensor, edge_index: Tensor
    ) -> list[Tensor]:
        """Messages of all neighbours, summed.

        Parameters
        ----------
        x : list of (N, 2l+1, C)
            Features of `irreps_in`.
        harmonics : (E, (l_max + 1)^2)
            Spherical harmonics of the edges.
        weights : (E, n_weights)
            Radial weights, paths in the order of `paths`, channels of a path together.
        edge_index : (2, E)
            Receivers and neighbours.

        Returns
        -------
        list of (N, 2l+1, C)
            Messages of `irreps_out`; the channels of one irrep are its paths, one after another.
        """
        if self.compiled is not None:
            found = self.compiled(x, harmonics, weights, edge_index)
            if found is not None:
                return found
        receiver, neighbour = edge_index
        n_nodes, n_edges = x[0].shape[0], harmonics.shape[0]
        by_degree = [y.unsqueeze(-1) for y in harmonics.split(self.degrees, dim=1)]
        collected: dict[o3.Irrep, list[Tensor]] = {ir: [] for _, ir in self.irreps_out}
        sizes = [mul * len(group) for mul, group in zip(self.muls, self.groups, strict=True)]
        for group, mul, coupling, radial in zip(
            self.groups, self.muls, self.couplings, weights.split(sizes, dim=1), strict=True
        ):
            source = x[group[0].source].index_select(0, neighbour)
            factors = radial.view(n_edges, len(group), 1, mul).unbind(1)
            if source.shape[1] == 1:
                scaled = [source * w for w in factors]
                coupled = [
                    xw * by_degree[p.degree] if p.degree else xw
                    for p, xw in zip(group, scaled, strict=True)
                ]
            else:
                dims = [p.out.dim for p in group]
                matrix = (harmonics @ coupling(harmonics)).view(n_edges, sum(dims), source.shape[1])
                parts = torch.bmm(matrix, source).split(dims, dim=1)
                coupled = [z * w for z, w in zip(parts, factors, strict=True)]
            for path, message in zip(group, coupled, strict=True):
                collected[path.out].append(segment_sum(message, receiver, n_nodes))
        return [torch.cat(parts, dim=-1) for parts in collected.values()]


def path_symbol(ir_in: o3.Irrep, path: Path) -> Tensor:
    """(2 l2 + 1, 2 l3 + 1, 2 l1 + 1) float64 what Y_l2 is multiplied with to couple l1 to l3."""
    symbol = o3.wigner_3j(ir_in.l, path.degree, path.out.l, dtype=torch.float64)
    return symbol.permute(1, 2, 0) * path.out.dim**0.5


def _coupling(ir_in: o3.Irrep, group: list[Path], l_max: int) -> Tensor:
    """((l_max + 1)^2, sum of (2 l3 + 1) x (2 l1 + 1)) couplings of Y with one input irrep."""
    n_out = sum(p.out.dim for p in group)
    matrix = torch.zeros((l_max + 1) ** 2, n_out, ir_in.dim, dtype=torch.float64)
    first = 0
    for path in group:
        low = path.degree**2
        matrix[low : low + 2 * path.degree + 1, first : first + path.out.dim] = path_symbol(
            ir_in, path
        )
        first += path.out.dim
    return matrix.flatten(1)
