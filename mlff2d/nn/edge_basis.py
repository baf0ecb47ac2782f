"""What a radial network is fed: Bessel functions of the distance, ended by an envelope."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlff2d.nn.radial import BesselBasis, PolynomialEnvelope


class XPLORSwitch(nn.Module):
    """1 up to a distance, then a polynomial in r^2 that falls to 0 at the cutoff.

    s(r) = (c^2 - r^2)^2 (c^2 + 2 r^2 - 3 a^2) / (c^2 - a^2)^3 between the start a and the cutoff
    c. Value and slope are continuous, the curvature jumps at both ends. Named after the program
    X-PLOR (Brünger, 1992), which ends non-bonded forces with it.

    Parameters
    ----------
    start, cutoff
        In Å, 0 < start < cutoff.
    """

    def __init__(self, start: float, cutoff: float) -> None:
        super().__init__()
        if not 0.0 < start < cutoff:
            raise ValueError(f"the switch must start between 0 and {cutoff} Å, not at {start}")
        self.start = float(start)
        self.cutoff = float(cutoff)

    def forward(self, r: Tensor) -> Tensor:
        """(...) distances in Å -> (...) values in [0, 1]."""
        a2, c2 = self.start**2, self.cutoff**2
        # The slope is zero at both ends, where the clamp makes it zero too.
        r2 = r.clamp(self.start, self.cutoff).square()
        return (c2 - r2).square() * (c2 + 2.0 * r2 - 3.0 * a2) / (c2 - a2) ** 3


class EdgeBasis(nn.Module):
    """Bessel functions times an envelope.

    The functions are scaled to a mean square of 1 in a uniform gas, before the envelope:
    sqrt(2/3) c sin(n pi r / c) / r with cutoff c.

    Parameters
    ----------
    n_basis
        Number of functions.
    cutoff
        In Å.
    envelope_p
        Exponent of the polynomial envelope.
    switch_start
        In Å; above 0 an XPLOR switch from there on takes the place of the polynomial.
    trainable
        Whether the n, whole numbers at the start, are parameters. The functions then need not be
        zero at the cutoff; the envelope is.
    """

    def __init__(
        self,
        n_basis: int,
        cutoff: float,
        envelope_p: int = 6,
        switch_start: float = 0.0,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.bessel = BesselBasis(n_basis, cutoff)
        if trainable:
            orders = self.bessel.orders
            del self.bessel.orders
            self.bessel.register_parameter("orders", nn.Parameter(orders))
        self.polynomial = None if switch_start else PolynomialEnvelope(envelope_p)
        self.switch = XPLORSwitch(switch_start, cutoff) if switch_start else None
        self.scale = cutoff**1.5 / math.sqrt(3.0)

    def forward(self, r: Tensor) -> Tensor:
        """(E,) distances in Å, greater than 0 -> (E, n_basis), zero from the cutoff on."""
        if self.polynomial is not None:
            envelope = self.polynomial(r / self.bessel.cutoff)
        else:
            assert self.switch is not None
            envelope = self.switch(r)
        return torch.mul(self.bessel(r), (self.scale * envelope).unsqueeze(1))
