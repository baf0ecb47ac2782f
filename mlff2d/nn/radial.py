"""Functions of a distance: bases and the envelopes that end them at the cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlff2d.nn.constant import Constant


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


class GaussianBasis(nn.Module):
    """Gaussians on an even grid, exp(-gamma (r - mu_k)^2), mu_k from `start` to `stop`.

    Schütt et al., "SchNet", NeurIPS 2017, section 4; Xie and Grossman, Phys. Rev. Lett. 120,
    145301 (2018). They do not end anywhere: multiply by an envelope.

    Parameters
    ----------
    n_basis
        Number of Gaussians, at least 2.
    start, stop
        First and last centre, in Å.
    gamma
        In Å^-2; None for 1 / (2 d^2), with d the distance of two centres.
    """

    def __init__(self, n_basis: int, start: float, stop: float, gamma: float | None = None) -> None:
        super().__init__()
        if n_basis < 2 or not start < stop:
            raise ValueError(
                f"a Gaussian basis has at least 2 centres from a lower to a higher distance, not "
                f"{n_basis} from {start} to {stop}"
            )
        self.centres = Constant(torch.linspace(start, stop, n_basis, dtype=torch.float64))
        self.gamma = 0.5 * ((n_basis - 1) / (stop - start)) ** 2 if gamma is None else float(gamma)

    def forward(self, r: Tensor) -> Tensor:
        """(...) -> (..., n_basis)."""
        return torch.exp(-self.gamma * (r.unsqueeze(-1) - self.centres(r)).square())


def cosine_cutoff(r: Tensor, cutoff: float) -> Tensor:
    """Behler's cutoff function (1 + cos(pi r / c)) / 2, zero beyond c, of any shape.

    Behler, J. Chem. Phys. 134, 074106 (2011), eq. 4. Value and slope are continuous at the cutoff,
    the curvature jumps.
    """
    return 0.5 * (1.0 + torch.cos(math.pi / cutoff * r.clamp(max=cutoff)))
