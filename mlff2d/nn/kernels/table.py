"""Functions of a distance as piecewise polynomials, as exact as float32 is.

The cells are even in u = r / (r + 1 Å), so that they are short where networks of a distance are
steep.

Axes: K distances, W functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RadialWeights = Callable[[Tensor], Tensor]
"""From distances (K,) in Å to (K, W), in their dtype."""

_CELLS = (256, 512, 1024, 2048)
_SHORTEST = 0.3  # Å; no two nuclei are closer
_PROBES = 500


@dataclass(frozen=True)
class RadialTable:
    """Polynomials of degree 5 in each cell.

    Attributes
    ----------
    cells : (n + 1, 6, W) float32
        Coefficients, from the constant on, in the place within the cell, 0 to 1. The last cell is
        for what rounding puts beyond the cutoff.
    scale
        A distance r in Å is at place scale * r / (r + 1), whose whole part is the cell.
    """

    cells: Tensor
    scale: float

    def __call__(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """(K,) distances in Å -> (K, W) values and slopes."""
        place = self.scale * r / (r + 1.0)
        number = place.long()
        s = (place - number).unsqueeze(1)
        value = slope = torch.zeros_like(s)
        for coefficient in self.cells.to(r.dtype)[number].flip(1).unbind(1):
            slope = value + s * slope
            value = coefficient + s * value
        return value, slope * (self.scale / (r + 1.0).square()).unsqueeze(1)


def radial_table(
    function: Callable[[torch.dtype], RadialWeights], cutoff: float
) -> RadialTable | None:
    """A table of a function that is zero from the cutoff on, for float32.

    With as many cells as it takes to err by no more than the function itself when it is computed in
    float32, or None where that is too many.

    Parameters
    ----------
    function
        Gives the function in a precision, float32 or float64.
    cutoff
        In Å.
    """
    r, exact, noise = precision(function, cutoff)
    for n_cells in _CELLS:
        table = _table(function(torch.float64), cutoff, n_cells)
        found = table(r)
        errors = [deviation(a, b) for a, b in zip(found, exact, strict=True)]
        if all(error <= n for error, n in zip(errors, noise, strict=True)):
            return table
    return None


def precision(
    function: Callable[[torch.dtype], RadialWeights], cutoff: float
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[float, float]]:
    """Some distances in Å, values and slopes there, and how far these are off in float32."""
    # Any distances would do; these are the same everywhere.
    r = _SHORTEST + (cutoff - _SHORTEST) * (torch.arange(_PROBES) + 0.5) / _PROBES
    exact = with_slope(function(torch.float64), r.double())
    rounded = with_slope(function(torch.float32), r)
    return r.double(), exact, (deviation(rounded[0], exact[0]), deviation(rounded[1], exact[1]))


def _table(function: RadialWeights, cutoff: float, n_cells: int) -> RadialTable:
    """Values and slopes are exact at both ends of a cell and in its middle."""
    scale = n_cells * (cutoff + 1.0) / cutoff
    place = 0.5 * torch.arange(2 * n_cells + 1, dtype=torch.float64)
    place[0] = 1e-3  # not at 0, where sin(r) / r has no number
    value, slope = with_slope(lambda place: function(place / (scale - place)), place)
    known = [part[k : 2 * n_cells + k : 2] for k in range(3) for part in (value, slope)]
    power = torch.arange(6, dtype=torch.float64)
    rows = []
    for s in torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64):
        rows += [s**power, power * s ** (power - 1.0).clamp_min(0.0)]
    from_known = torch.linalg.inv(torch.stack(rows))
    cells = torch.einsum("ck,knw->ncw", from_known, torch.stack(known))
    beyond = torch.zeros_like(cells[:1])
    return RadialTable(torch.cat([cells, beyond]).float(), scale)


def with_slope(function: RadialWeights, x: Tensor) -> tuple[Tensor, Tensor]:
    """(K, W) values and derivatives."""
    # By v, of the gradient of (values, v): what computes forward takes half a second to load.
    with torch.enable_grad():
        x = x.clone().requires_grad_(True)
        value = function(x)
        v = torch.zeros_like(value, requires_grad=True)
        (gradient,) = torch.autograd.grad(value, x, v, create_graph=True)
        (slope,) = torch.autograd.grad(gradient.sum(), v)
    return value.detach(), slope


def deviation(found: Tensor, exact: Tensor) -> float:
    """The greatest difference."""
    return float((found - exact).abs().max())
