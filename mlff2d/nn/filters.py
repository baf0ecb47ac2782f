"""What SchNet and PaiNN share: radial functions with an envelope, dense layers, the readout."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mlff2d.nn.radial import BesselBasis, GaussianBasis, PolynomialEnvelope, cosine_cutoff

RADIAL = ("bessel", "gaussian")
ENVELOPES = ("polynomial", "cosine")


def shifted_softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x) - ln 2, zero at zero; Schütt et al., "SchNet", NeurIPS 2017, section 4."""
    return softplus(x) - math.log(2.0)


class Dense(nn.Linear):
    """A linear layer that starts with Xavier's uniform weights and no bias.

    Glorot and Bengio, AISTATS 2010, eq. 16.
    """

    def reset_parameters(self) -> None:
        """Draw new weights."""
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class RadialFilterBasis(nn.Module):
    """Functions of the distance that filters are made of, and the envelope that ends the filters.

    Parameters
    ----------
    kind
        "gaussian": exp(-(r - mu_k)^2 / (2 d^2)), centres mu_k from 0 to the cutoff, d apart;
        "bessel": sin(n pi r / c) / r in 1/Å, cutoff c.
    n_basis
        Number of functions, at least 2 Gaussians.
    cutoff
        In Å.
    envelope
        "polynomial": 1 - 28 x^6 + 48 x^7 - 21 x^8, x = r / c, with two derivatives of zero at the
        cutoff; "cosine": (1 + cos(pi x)) / 2, whose curvature jumps there.
    """

    def __init__(self, kind: str, n_basis: int, cutoff: float, envelope: str) -> None:
        super().__init__()
        self.cutoff = float(cutoff)
        self.basis: GaussianBasis | BesselBasis
        if kind == "gaussian":
            self.basis, self.scale = GaussianBasis(n_basis, 0.0, self.cutoff), 1.0
        else:
            self.basis, self.scale = BesselBasis(n_basis, self.cutoff), math.sqrt(self.cutoff / 2)
        self.polynomial = PolynomialEnvelope(6) if envelope == "polynomial" else None

    def forward(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) distances in Å, greater than 0 -> (E, n_basis) functions, (E, 1) envelope."""
        if self.polynomial is not None:
            envelope = self.polynomial(r / self.cutoff)
        else:
            envelope = cosine_cutoff(r, self.cutoff)
        functions = self.basis(r)
        if self.scale != 1.0:
            functions = functions * self.scale
        return functions, envelope.unsqueeze(1)


class AtomwiseReadout(nn.Module):
    """Energies of atoms from their features: two layers, the hidden one half as wide.

    Parameters
    ----------
    channels
        C, features of an atom.
    activation
        Between the layers.
    """

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.hidden = Dense(channels, hidden)
        self.out = Dense(hidden, 1)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) -> (N, 1)."""
        return self.out(self.activation(self.hidden(features)))


def joined(layer: nn.Linear) -> Tensor:
    """(n_out, n_in + 1) weight and bias in one, for inputs whose last channel is one."""
    return torch.cat([layer.weight, layer.bias.unsqueeze(1)], dim=1)
