"""Features that rotate: their layout, spherical harmonics, linear maps and the gate.

Features of irreps "64x0e+32x1o" are a list with one tensor (N, 2l+1, C) for each term, channels
last, so that every loop over channels runs over contiguous memory. Within 2l+1 the order, signs
and norms are e3nn's, in whose language (`e3nn.o3`) irreps are written (Geiger & Smidt,
arXiv:2207.09453).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from e3nn import o3
from torch import Tensor, nn

from mlff2d.nn.constant import Constant
from mlff2d.nn.mlp import scaled_silu, scaled_tanh


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics of l = 0..l_max with |Y_l|^2 = 2l + 1 ("component" norm of e3nn).

    Y_l is the coupling of Y_(l-1) with Y_1 to the greatest l, which needs no other constants than
    the Clebsch-Gordan coefficients and is a polynomial in the unit vector.

    Parameters
    ----------
    l_max
        Greatest degree, at least 0.
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        self.couplings = nn.ModuleList(_raising(degree) for degree in range(2, l_max + 1))

    def forward(self, unit: Tensor) -> Tensor:
        """(E, 3) unit vectors -> (E, (l_max + 1)^2), l ascending."""
        parts = [unit.new_ones(unit.shape[0], 1)]
        if self.l_max > 0:
            parts.append(math.sqrt(3.0) * unit)
        for coupling in self.couplings:
            pairs = parts[-1].unsqueeze(-1) * unit.unsqueeze(-2)
            parts.append(pairs.flatten(1) @ coupling(unit))
        return torch.cat(parts, dim=1)


def _raising(degree: int) -> Constant:
    """(3 (2l - 1), 2l + 1) matrix from Y_(l-1) and a unit vector to Y_l."""
    matrix = o3.wigner_3j(degree - 1, 1, degree, dtype=torch.float64)
    # Along e3nn's polar axis, which is y, only m = 0 remains and Y_l = sqrt(2l + 1).
    along = matrix[degree - 1, 1, degree] * math.sqrt(2 * degree - 1)
    return Constant((matrix * math.sqrt(2 * degree + 1) / along).flatten(0, 1))


def alike(n: int, *shape: int) -> Tensor:
    """(n, *shape) random numbers of unit variance, of which rows share half the variance.

    For parameters of each element. With independent rows whatever is learnt of one element says
    nothing of the others; with a common part they learn together what they have in common.
    """
    return (torch.randn(1, *shape) + torch.randn(n, *shape)) * math.sqrt(0.5)


class IrrepsLinear(nn.Module):
    """A linear map between features, which mixes only channels of the same irrep.

    As in e3nn, weights are of unit variance and scaled when they are used; see `ScaledLinear`.

    Parameters
    ----------
    irreps_in, irreps_out
        Each irrep once. An output irrep that the input lacks is an error of the caller
        (ValueError).
    gain
        Standard deviation of the output for input of unit variance, at the start.
    """

    def __init__(self, irreps_in: o3.Irreps, irreps_out: o3.Irreps, gain: float = 1.0) -> None:
        super().__init__()
        self.sources = [_position(irreps_in, ir) for _, ir in irreps_out]
        self.weights = nn.ParameterList(
            torch.randn(irreps_in[k].mul, mul)
            for k, (mul, _) in zip(self.sources, irreps_out, strict=True)
        )
        self.factors = [gain / math.sqrt(irreps_in[k].mul) for k in self.sources]

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """List of (N, 2l+1, C_in) -> list of (N, 2l+1, C_out)."""
        parts = zip(self.sources, self.weights, self.factors, strict=True)
        return [x[k] @ (weight * factor) for k, weight, factor in parts]

    def matrix(self, k: int) -> Tensor:
        """(C_in, C_out) float64 matrix of an output irrep, its factor included."""
        return self.weights[k].detach().double() * self.factors[k]

    def matrices(self, _: Tensor | None = None) -> list[Tensor]:
        """(1, C_in, C_out) float64 matrices of all output irreps."""
        return [self.matrix(k)[None] for k in range(len(self.weights))]


class ElementLinear(nn.Module):
    """A linear map of node features with another matrix for each element.

    The fully connected tensor product of the features with the one-hot element. With a `rank`,
    the matrices of all elements are combinations of that many: W_z = sum_k a_zk W_k, the product
    with a learnt vector of element attributes instead of the one-hot one.

    Parameters
    ----------
    n_elements
        Number of elements.
    irreps_in, irreps_out
        Each irrep once; an output irrep that the input lacks gets None.
    rank
        Number of attributes, 0 for one matrix for each element.
    gain
        Standard deviation of the output for input of unit variance, at the start.
    """

    def __init__(
        self,
        n_elements: int,
        irreps_in: o3.Irreps,
        irreps_out: o3.Irreps,
        rank: int = 0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.sources = _sources(irreps_in, irreps_out)
        self.attributes = nn.Parameter(alike(n_elements, rank)) if rank else None
        self.weights = nn.ParameterList()
        self.factors: list[float] = []
        for k, (mul, _) in zip(self.sources, irreps_out, strict=True):
            if k is not None:
                n_in = irreps_in[k].mul
                shape = (n_in, mul)
                self.weights.append(
                    torch.randn(rank, *shape) if rank else alike(n_elements, *shape)
                )
                self.factors.append(gain / math.sqrt(n_in * max(rank, 1)))

    def forward(self, x: list[Tensor], element: Tensor) -> list[Tensor | None]:
        """List of (N, 2l+1, C_in) and (N,) row numbers -> list of (N, 2l+1, C_out) or None."""
        if self.attributes is not None:
            attributes = self.attributes.index_select(0, element)
            return _combined(x, attributes, self.sources, self.weights, self.factors)
        weights = iter(zip(self.weights, self.factors, strict=True))
        out: list[Tensor | None] = []
        for k in self.sources:
            if k is None:
                out.append(None)
                continue
            weight, factor = next(weights)
            out.append((x[k] * factor) @ weight.index_select(0, element))
        return out

    def matrices(self, _: Tensor | None = None) -> list[Tensor]:
        """(n_elements, C_in, C_out) float64 matrices of the output irreps that are not None."""
        weights = self.weights
        if self.attributes is not None:
            return _mixed(self.attributes, weights, self.factors)
        return [w.detach().double() * f for w, f in zip(weights, self.factors, strict=True)]


class AttributeLinear(nn.Module):
    """A linear map of node features whose matrix is a combination with the node's attributes.

    y = sum_k a_k W_k x, the fully connected tensor product of the features with K scalars.

    Parameters
    ----------
    n_attributes
        K.
    irreps_in, irreps_out
        Each irrep once; an output irrep that the input lacks gets None.
    gain
        Standard deviation of the output for inputs of unit variance, at the start.
    """

    def __init__(
        self, n_attributes: int, irreps_in: o3.Irreps, irreps_out: o3.Irreps, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.sources = _sources(irreps_in, irreps_out)
        shapes = [
            (n_attributes, irreps_in[k].mul, mul)
            for k, (mul, _) in zip(self.sources, irreps_out, strict=True)
            if k is not None
        ]
        self.weights = nn.ParameterList(torch.randn(shape) for shape in shapes)
        self.factors = [gain / math.sqrt(k * n_in) for k, n_in, _ in shapes]

    def forward(self, x: list[Tensor], attributes: Tensor) -> list[Tensor | None]:
        """List of (N, 2l+1, C_in) and (N, K) -> list of (N, 2l+1, C_out) or None."""
        return _combined(x, attributes, self.sources, self.weights, self.factors)

    def matrices(self, attributes: Tensor) -> list[Tensor]:
        """(N, C_in, C_out) float64, for (N, K) attributes, of outputs that are not None."""
        return _mixed(attributes, self.weights, self.factors)


def _mixed(attributes: Tensor, weights: Iterable[Tensor], factors: list[float]) -> list[Tensor]:
    """For (N, K) attributes and (K, C_in, C_out) weights the (N, C_in, C_out) float64 matrices."""
    by = attributes.detach().double()
    return [
        torch.einsum("nk,kio->nio", by, weight.detach().double()) * factor
        for weight, factor in zip(weights, factors, strict=True)
    ]


def _sources(irreps_in: o3.Irreps, irreps_out: o3.Irreps) -> list[int | None]:
    """Where the input has each output irrep, None where it lacks it."""
    present = {ir: k for k, (_, ir) in enumerate(irreps_in)}
    return [present.get(ir) for _, ir in irreps_out]


def _combined(
    x: list[Tensor],
    attributes: Tensor,
    sources: list[int | None],
    weights: Iterable[Tensor],
    factors: list[float],
) -> list[Tensor | None]:
    """Each (N, 2l+1, C_in) times the (N, K) attributes' combination of K matrices."""
    rest = iter(zip(weights, factors, strict=True))
    out: list[Tensor | None] = []
    for k in sources:
        if k is None:
            out.append(None)
            continue
        weight, factor = next(rest)
        pairs = attributes[:, None, :, None] * (x[k] * factor).unsqueeze(2)
        out.append(pairs.flatten(2) @ weight.flatten(0, 1))
    return out


class RMSNorm(nn.Module):
    """Features of an atom divided by their root mean square, times a learnt scale of each channel.

    One root for all irreps, each of which counts the same. An irrep that a symmetry of the
    surroundings makes zero then stays small near there; a root of its own would blow it up.

    Zhang and Sennrich, "Root mean square layer normalization", NeurIPS 2019.

    Parameters
    ----------
    irreps
        Of the features, each irrep once.
    epsilon
        Added to the mean square, so that features of zero have a finite slope, which is its
        inverse square root.
    """

    def __init__(self, irreps: o3.Irreps, epsilon: float = 1e-2) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weights = nn.ParameterList(torch.ones(mul) for mul, _ in irreps)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """List of (N, 2l+1, C) -> the same."""
        squares = [part.square().mean(dim=(1, 2), keepdim=True) for part in x]
        inverse = torch.rsqrt(torch.stack(squares).mean(dim=0) + self.epsilon)
        return [part * (inverse * w) for part, w in zip(x, self.weights, strict=True)]


class Gate(nn.Module):
    """The gate nonlinearity: SiLU on 0e, tanh on 0o, l > 0 times the SiLU of an extra 0e each.

    Parameters
    ----------
    irreps_out
        What comes out, each irrep once. `irreps_in` is what goes in: the same with one 0e more for
        each channel of l > 0, behind the 0e that stay.
    """

    def __init__(self, irreps_out: o3.Irreps) -> None:
        super().__init__()
        self.irreps_out = irreps_out
        self.gated = [k for k, (_, ir) in enumerate(irreps_out) if ir.l > 0]
        self.n_gates = sum(irreps_out[k].mul for k in self.gated)
        self.even = _position(irreps_out, o3.Irrep("0e"))
        self.irreps_in = o3.Irreps(
            (mul + (self.n_gates if k == self.even else 0), ir)
            for k, (mul, ir) in enumerate(irreps_out)
        )

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """List of (N, 2l+1, C) of `irreps_in` -> the same of `irreps_out`."""
        sizes = [self.irreps_out[k].mul for k in self.gated]
        kept, *gates = scaled_silu(x[self.even]).split(
            [self.irreps_out[self.even].mul, *sizes], dim=-1
        )
        gate = dict(zip(self.gated, gates, strict=True))
        out = []
        for k, _ in enumerate(self.irreps_out):
            if k == self.even:
                out.append(kept)
            else:
                out.append(x[k] * gate[k] if k in gate else scaled_tanh(x[k]))
        return out


def _position(irreps: o3.Irreps, irrep: o3.Irrep) -> int:
    """Where an irrep stands. Raises ValueError if it is missing."""
    for k, (_, ir) in enumerate(irreps):
        if ir == irrep:
            return k
    raise ValueError(f"{irrep} is not among {irreps}")
