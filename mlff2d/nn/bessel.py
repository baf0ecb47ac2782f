"""Spherical Bessel functions, and the two radial bases that M3GNet makes of them."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from mlff2d.nn.constant import Constant


def spherical_bessel(degree: int, x: Tensor) -> Tensor:
    """The spherical Bessel function j_degree of positive x, of any shape.

    Two ways, because neither is good everywhere: the upward recurrence
    j_(l+1) = (2l + 1) / x j_l - j_(l-1) loses all digits for x < l, and the power series
    (DLMF 10.53.1) needs many terms for large x.
    """
    if degree == 0:
        return torch.sin(x) / x
    # Each way is fed arguments that suit it: what `where` throws away must be finite too, or its
    # derivative is NaN.
    is_small = x < degree
    series = _series(degree, torch.where(is_small, x, 0.0))
    return torch.where(is_small, series, _recurrence(degree, torch.where(is_small, degree, x)))


def _recurrence(degree: int, x: Tensor) -> Tensor:
    """j_degree(x), degree >= 1, upward from j_0 and j_1."""
    inverse = 1.0 / x
    previous = torch.sin(x) * inverse
    current = (previous - torch.cos(x)) * inverse
    for order in range(1, degree):
        previous, current = current, (2 * order + 1) * inverse * current - previous
    return current


def _series(degree: int, x: Tensor) -> Tensor:
    """j_degree(x) for x below `degree`, to float64 precision, as a polynomial by Horner's rule."""
    n_terms = 10 + degree
    half_square = -0.5 * x * x
    total = torch.ones_like(x)
    for k in range(n_terms, 0, -1):
        total = 1.0 + half_square / (k * (2 * degree + 2 * k + 1)) * total
    return total * x**degree / math.prod(range(1, 2 * degree + 2, 2))


@lru_cache
def _roots(l_max: int, n: int) -> Tensor:
    # The roots of j_l lie between those of j_(l-1): bisection, all of them at once.
    roots = math.pi * torch.arange(1, n + l_max + 1, dtype=torch.float64)
    rows = [roots[:n]]
    for degree in range(1, l_max + 1):
        low, high = roots[:-1], roots[1:]
        sign_low = spherical_bessel(degree, low).sign()
        for _ in range(60):
            middle = 0.5 * (low + high)
            is_below = spherical_bessel(degree, middle).sign() == sign_low
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        roots = 0.5 * (low + high)
        rows.append(roots[:n])
    return torch.stack(rows)


def spherical_bessel_roots(l_max: int, n: int) -> Tensor:
    """(l_max + 1, n) float64: row l has the first n positive roots of j_l."""
    return _roots(l_max, n).clone()


class SphericalBesselBasis(nn.Module):
    """Spherical Bessel functions that vanish at the cutoff, normalised in the sphere.

    b_ln(r) = sqrt(2 / c^3) / |j_(l+1)(z_ln)| j_l(z_ln r / c) with z_ln the n-th root of j_l and c
    the cutoff. Chen and Ong, Nat. Comput. Sci. 2, 718 (2022), eq. 2. They are zero at the cutoff,
    their slope is not: multiply by an envelope. Zero beyond the cutoff.

    Parameters
    ----------
    n_radial
        Roots for each degree.
    n_degrees
        Degrees l = 0 .. n_degrees - 1.
    cutoff
        In Å.
    """

    def __init__(self, n_radial: int, n_degrees: int, cutoff: float) -> None:
        super().__init__()
        self.n_degrees = n_degrees
        self.n_radial = n_radial
        self.cutoff = float(cutoff)
        roots = spherical_bessel_roots(n_degrees - 1, n_radial)
        slopes = torch.stack([spherical_bessel(degree + 1, z) for degree, z in enumerate(roots)])
        self.frequency = Constant(roots / self.cutoff)
        self.norm = Constant((math.sqrt(2.0 / self.cutoff**3) / slopes.abs()).flatten())

    def forward(self, r: Tensor) -> Tensor:
        """(E,) distances in Å, greater than 0 -> (E, n_degrees n_radial) in Å^-3/2, l slowest."""
        frequency = self.frequency(r)
        columns = [
            spherical_bessel(degree, r.unsqueeze(-1) * frequency[degree])
            for degree in range(self.n_degrees)
        ]
        inside = (r < self.cutoff).to(r.dtype).unsqueeze(-1)
        return torch.cat(columns, dim=-1) * self.norm(r) * inside


class SmoothRadialBasis(nn.Module):
    """Orthonormal functions of which value, slope and curvature vanish at the cutoff.

    Sums of two neighbouring l = 0 Bessel functions, made orthonormal under the weight r^2 on
    [0, c]. Kocer, Mason and Erturk, J. Chem. Phys. 150, 154102 (2019), eqs. 3 to 8. Zero beyond
    the cutoff.

    Parameters
    ----------
    n_radial
        Number of functions.
    cutoff
        In Å.
    """

    def __init__(self, n_radial: int, cutoff: float) -> None:
        super().__init__()
        self.n_radial = n_radial
        self.cutoff = float(cutoff)
        orders = torch.arange(1, n_radial + 2, dtype=torch.float64)
        self.frequency = Constant(orders * math.pi / self.cutoff)
        self.mix = Constant(_smooth_mix(n_radial, self.cutoff))

    def forward(self, r: Tensor) -> Tensor:
        """(E,) distances in Å, greater than 0 -> (E, n_radial) in Å^-3/2."""
        x = r.unsqueeze(-1) * self.frequency(r)
        inside = (r < self.cutoff).to(r.dtype).unsqueeze(-1)
        return torch.sin(x) / x @ self.mix(r) * inside


def _smooth_mix(n_radial: int, cutoff: float) -> Tensor:
    """(n_radial + 1, n_radial) weights of sinc((m + 1) pi r / c) in each smooth function."""
    rows: list[Tensor] = []
    d = 1.0
    for n in range(n_radial):
        g = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
        row = torch.zeros(n_radial + 1, dtype=torch.float64)
        scale = (n + 1) * (n + 2) / math.hypot(n + 1, n + 2)
        row[n : n + 2] = (-1) ** n * math.sqrt(2.0) * math.pi / cutoff**1.5 * scale
        if n > 0:
            previous_d, d = d, 1.0 - g / d
            row = (row + math.sqrt(g / previous_d) * rows[-1]) / math.sqrt(d)
        rows.append(row)
    return torch.stack(rows, dim=1)
