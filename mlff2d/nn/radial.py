"""Functions of a distance: bases and the envelopes that end them at the cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class BesselBasis(nn.Module):
    """Radial Bessel functions, the l = 0 solutions of Helmholtz's equation in a sphere.

    b_n(r) = sqrt(2 / c) sin(n pi r / c) / r for n = 1..n_basis, with cutoff c; orthonormal under
    the weight r^2 on [0, c]. Gasteiger, Groß, Günnemann, "Directional message passing for
    molecular graphs", ICLR 2020, eq. 7. They are zero at the cutoff, their slope is not: multiply
    by an envelope.

    Parameters
    ----------
    n_basis
        Number of functions.
    cutoff
        In Å.
    """

    orders: Tensor

    def __init__(self, n_basis: int, cutoff: float) -> None:
        super().__init__()
        if n_basis < 1:
            raise ValueError(f"a Bessel basis has at least 1 function, not {n_basis}")
        if not 0.0 < cutoff < math.inf:
            raise ValueError(f"the cutoff must be a positive length in Å, not {cutoff}")
        self.n_basis = n_basis
        self.cutoff = float(cutoff)
        # Whole numbers stay exact when the module changes its dtype.
        self.register_buffer("orders", torch.arange(1.0, n_basis + 1), persistent=False)

    def forward(self, r: Tensor) -> Tensor:
        """(E,) distances in Å, greater than 0 -> (E, n_basis) in Å^-3/2."""
        r = r.unsqueeze(-1)
        waves = torch.sin(self.orders * (math.pi / self.cutoff) * r)
        return math.sqrt(2.0 / self.cutoff) * waves / r


class PolynomialEnvelope(nn.Module):
    """A polynomial that falls from 1 at 0 to 0 at 1 with zero first and second derivative there.

    u(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2), zero beyond 1. Gasteiger,
    Groß, Günnemann, ICLR 2020, eq. 8.

    Parameters
    ----------
    p
        At least 2; a greater one stays near 1 longer.
    """

    def __init__(self, p: int = 6) -> None:
        super().__init__()
        if p < 2:
            raise ValueError(f"the envelope's exponent p must be at least 2, not {p}")
        self.p = int(p)

    def forward(self, x: Tensor) -> Tensor:
        """(...) distances divided by the cutoff -> (...) values in [0, 1]."""
        p = self.p
        # The clamp makes value and derivatives exactly zero from the cutoff on.
        x = x.clamp(max=1.0)
        tail = (p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x
        return 1.0 - x**p * tail
