"""Means over a trajectory with their errors, and thermal expansion from several temperatures.

Axis: T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mlff2d import slab

from ..blocks import block_error
from ..dynamics.corrugation import corrugation
from .tracks import Array, Track

QUANTITIES = {
    "temperature": "K",
    "energy": "eV/atom",
    "area": "Å²/atom",
    "a": "Å",
    "b": "Å",
    "angle": "°",
    "thickness": "Å",
    "corrugation": "Å",
}
"""What is averaged, and its unit; "angle" is that of the lattice vectors in the plane."""

SAME_TEMPERATURE = 0.05
"""Mean temperatures that differ by a smaller share are taken for the same."""


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error; the error is NaN where there are too few frames for one."""

    value: float
    error: float


@dataclass(frozen=True)
class Averages:
    """The means of one replica, or of a part of its trajectory.

    Attributes
    ----------
    name, formula : of the track
    n_frames : T
    start, end : ps, NaN where times are not known
    means : by the names in `QUANTITIES`
    structure : of the track
    """

    name: str
    formula: str
    n_frames: int
    start: float
    end: float
    means: dict[str, Mean]
    structure: int = 0


def averages(track: Track) -> Averages:
    """Means over all frames, with errors from blocks of growing length, see `md.blocks`."""
    series = quantities(track)
    start, end = (np.nan, np.nan) if track.time is None else (track.time[0], track.time[-1])
    return Averages(
        name=track.name,
        formula=track.formula,
        n_frames=len(track),
        start=float(start),
        end=float(end),
        means={
            name: Mean(float(values.mean()), block_error(values)) for name, values in series.items()
        },
        structure=track.structure,
    )


def quantities(track: Track) -> dict[str, Array]:
    """(T,) values of each quantity in `QUANTITIES`."""
    n_atoms = len(track.numbers)
    lengths = np.linalg.norm(track.plane, axis=2)
    cosine = (track.plane[:, 0] * track.plane[:, 1]).sum(1) / lengths.prod(1)
    pbc = torch.from_numpy(track.pbc)
    shapes = list(zip(track.pos, track.cell, strict=True))
    return {
        "temperature": track.temperature,
        "energy": track.energy / n_atoms,
        "area": track.area / n_atoms,
        "a": lengths[:, 0],
        "b": lengths[:, 1],
        "angle": np.degrees(np.arccos(np.clip(cosine, -1, 1))),
        "thickness": np.array([slab.thickness(pos, cell, track.pbc) for pos, cell in shapes]),
        "corrugation": np.array(
            [corrugation(torch.from_numpy(p), torch.from_numpy(c), pbc) for p, c in shapes]
        ),
    }


@dataclass(frozen=True)
class Expansion:
    """How the area of one compound changes with temperature, from a straight line.

    Attributes
    ----------
    formula : of the compound
    temperatures, areas, errors : K, Å²/atom, and the errors of the areas
    area_at_zero : Å²/atom, where the line meets 0 K
    coefficient, coefficient_error : (1/A) dA/dT at the mean temperature in 1/K; of the lattice
        constants of an isotropic layer half of it
    """

    formula: str
    temperatures: Array
    areas: Array
    errors: Array
    area_at_zero: float
    coefficient: float
    coefficient_error: float


def expansions(rows: Sequence[Averages]) -> list[Expansion]:
    """Of each compound whose area changes and that was at two temperatures or more.

    Structures that one run numbers apart, such as two polymorphs, are compounds of their own.
    """
    found = []
    for formula, number in dict.fromkeys((row.formula, row.structure) for row in rows):
        own = [row.means for row in rows if (row.formula, row.structure) == (formula, number)]
        t = np.array([means["temperature"].value for means in own])
        area = np.array([means["area"].value for means in own])
        error = np.array([means["area"].error for means in own])
        known = np.isfinite(t)
        t, area, error = t[known], area[known], error[known]
        if len(t) < 2 or np.ptp(t) <= SAME_TEMPERATURE * t.max():
            continue
        if np.ptp(area) < 1e-9 * area.mean():  # a cell that was held
            continue
        slope, slope_error, offset = _line(t, area, error)
        middle = offset + slope * t.mean()
        found.append(
            Expansion(formula, t, area, error, offset, slope / middle, slope_error / middle)
        )
    return found


def _line(x: Array, y: Array, error: Array) -> tuple[float, float, float]:
    """Slope, its error, and offset of a straight line; weighted where all errors are known.

    Without errors that of the slope is from the scatter around the line, NaN for two points.
    """
    known = bool(np.isfinite(error).all() and (error > 0).all())
    weight = 1 / error**2 if known else np.ones_like(x)
    centre = np.average(x, weights=weight)
    spread = (weight * (x - centre) ** 2).sum()
    slope = (weight * (x - centre) * y).sum() / spread
    offset = np.average(y, weights=weight) - slope * centre
    if known:
        return float(slope), float(spread**-0.5), float(offset)
    scatter = ((y - offset - slope * x) ** 2).sum()
    variance = scatter / (len(x) - 2) / spread if len(x) > 2 else np.nan
    return float(slope), float(np.sqrt(variance)), float(offset)
