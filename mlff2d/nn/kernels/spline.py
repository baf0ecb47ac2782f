"""Functions of a distance as splines with even knots, as exact as float32 is.

A table of polynomials (`mlff2d.nn.kernels.table`) is six times as large, which matters where there
are many functions and these are smooth.

Axes: K distances, W functions, n cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlff2d.nn.kernels.table import RadialWeights, deviation, precision, with_slope

_CELLS = (32, 64, 96, 128, 192, 256, 384, 512)
_ROUNDING = 1e-6
"""Part of the greatest value, or slope, that a spline may err by where the function errs less."""

BASIS = (
    (1, 26, 66, 26, 1, 0),
    (-5, -50, 0, 50, 5, 0),
    (10, 20, -60, 20, 10, 0),
    (-10, 20, 0, -20, 10, 0),
    (5, -20, 30, -20, 5, 0),
    (-1, 5, -10, 10, -5, 1),
)
"""120 times the six splines of degree 5 in a cell, by powers of the place within it."""


@dataclass(frozen=True)
class RadialSpline:
    """Splines of degree 5.

    Attributes
    ----------
    rows : (n + 6, W) float32
        Coefficients; six from its number on belong to a cell. The last row is for what rounding
        puts beyond the cutoff.
    scale
        Cells in an Å.
    """

    rows: Tensor
    scale: float

    def __call__(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """(K,) distances in Å -> (K, W) values and slopes."""
        place = r * self.scale
        n_cells = self.rows.shape[0] - 6
        rows = self.rows[:-1].to(r.dtype)
        return _basis(place, n_cells) @ rows, _basis(place, n_cells, slope=True) @ rows * self.scale


def radial_spline(
    function: Callable[[torch.dtype], RadialWeights], cutoff: float
) -> RadialSpline | None:
    """Splines of a function that is zero from the cutoff on, for float32.

    With as few cells as it takes to err by no more than the function itself when it is computed in
    float32, or than a few times float32's rounding; None where that is too many.

    Parameters
    ----------
    function
        Gives the function in a precision, float32 or float64.
    cutoff
        In Å.
    """
    r, exact, noise = precision(function, cutoff)
    greatest = [float(part.abs().max()) for part in exact]
    # What a value is rounded by is felt in slopes over about an Å.
    rounding = [_ROUNDING * greatest[0], _ROUNDING * max(greatest)]
    for n_cells in _CELLS:
        spline = _spline(function(torch.float64), cutoff, n_cells)
        found = spline(r)
        errors = [deviation(a, b) for a, b in zip(found, exact, strict=True)]
        if all(e <= max(n, r) for e, n, r in zip(errors, noise, rounding, strict=True)):
            return spline
    return None


def _spline(function: RadialWeights, cutoff: float, n_cells: int) -> RadialSpline:
    """Values are exact at all knots and in the middle of the end cells, slopes at both ends."""
    knots = torch.arange(n_cells + 1, dtype=torch.float64)
    knots[0] = 1e-3  # not at 0, where sin(r) / r has no number
    places = torch.cat([knots, knots.new_tensor([0.5, n_cells - 0.5])])
    scale = n_cells / cutoff
    value, slope = with_slope(lambda place: function(place / scale), places)
    ends = [0, n_cells]
    known = torch.cat([value, slope[ends]])
    rows = torch.cat([_basis(places, n_cells), _basis(places[ends], n_cells, slope=True)])
    found = torch.linalg.solve(rows, known)
    return RadialSpline(torch.cat([found, torch.zeros_like(found[:1])]).float(), scale)


def _basis(place: Tensor, n_cells: int, slope: bool = False) -> Tensor:
    """(K,) places in cells -> (K, n + 5) values of all splines there, or their slopes."""
    cell = place.long().clamp(0, n_cells - 1)
    s = (place - cell).unsqueeze(1)
    power = torch.arange(6, dtype=place.dtype)
    powers = power * s ** (power - 1.0).clamp_min(0.0) if slope else s**power
    values = powers @ torch.tensor(BASIS, dtype=place.dtype) / 120.0
    zeros = place.new_zeros(place.shape[0], n_cells + 5)
    return zeros.scatter(1, cell.unsqueeze(1) + torch.arange(6), values)
