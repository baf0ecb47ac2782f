"""Whether the forces and the stress of a calculator are those of its energy, on one structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.derivatives import displaced, strained
from mlff2d.errors import StructureError
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

from .calculators import energy_of, make_job
from .geometry import Setting, prepare
from .settings import LabelSettings
from .worker import sentence

DISPLACEMENT = 0.02
"""Å, by which an atom is moved to either side; the noise of a self-consistent energy is 0.1 meV."""

STRAIN = 0.01
"""By which a lattice is stretched and compressed."""

RATTLE = 0.05
"""Å, of the standard deviation, by which all atoms are moved first: symmetry would hide faults."""

FORCE_TOLERANCE = 0.01
"""eV/Å, up to which a force is the one of the energy."""

STRESS_TOLERANCE = 0.3
"""N/m, the same of a stress; plane waves that change with the cell leave 0.1 to 0.2 N/m."""

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Row:
    """One derivative, in its unit: what the calculator says, and what its energies say.

    Both are means over the way from one side to the other, the former by Simpson's rule, so that
    the curvature of the energy makes no difference between them.
    """

    what: str
    unit: str
    analytic: float
    numeric: float
    tolerance: float

    @property
    def difference(self) -> float:
        """By which the calculator contradicts itself."""
        return self.analytic - self.numeric

    @property
    def fine(self) -> bool:
        """Whether that is within the tolerance; NaN is not."""
        return abs(self.difference) <= self.tolerance


def check(
    settings: LabelSettings,
    atoms: Atoms,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Compare two forces, and the stress along two axes in the plane, with energies: nine points.

    The structure is rattled by `RATTLE` first. One calculator does all points, so that k points
    stay as they are. `progress` is called with the number of points done, and of all. Raises
    StructureError for what is no slab, and where the calculator fails.
    """
    start = atoms.copy()
    start.rattle(RATTLE, seed=0)
    upright = prepare(start, height=15.0, vacuum=10.0)
    if upright.rows is None:
        raise StructureError("the check needs a layer; give one as the first structure")
    if settings.calculator != "gpaw":
        start = upright.atoms  # as it will be computed
    job = make_job(settings, start, folder, "check")
    centre = job.setting.atoms
    done = 0

    def point(moved: Atoms) -> tuple[float, Array, Array]:
        nonlocal done
        moved.calc = job.calculator
        try:
            found = energy_of(moved), moved.get_forces(), moved.get_stress(voigt=False)
        except Exception as error:
            raise StructureError(f"the calculator failed: {sentence(error)}") from error
        done += 1
        progress(done, 9)
        return found

    middle = point(centre.copy())
    rows = [
        _force_row(point, centre, middle[1], int(place), axis)
        for place, axis in _largest(middle[1], 2)
    ]
    return rows + [_stress_row(point, job.setting, middle[2], axis) for axis in (0, 1)]


def _largest(forces: Array, count: int) -> list[tuple[int, int]]:
    """Atom and axis of the largest components, each of another axis."""
    order = np.argsort(-np.abs(forces), axis=0)[0]
    axes = sorted(range(3), key=lambda axis: -abs(forces[order[axis], axis]))
    return [(int(order[axis]), axis) for axis in axes[:count]]


def _force_row(
    point: Callable[[Atoms], tuple[float, Array, Array]],
    centre: Atoms,
    forces: Array,
    atom: int,
    axis: int,
) -> Row:
    ends = []
    for sign in (-1, 1):
        ends.append(point(displaced(centre, atom, axis, sign * DISPLACEMENT)))
    low, high = ends
    mean = (low[1][atom, axis] + 4 * forces[atom, axis] + high[1][atom, axis]) / 6
    numeric = -(high[0] - low[0]) / (2 * DISPLACEMENT)
    what = f"force on {centre.symbols[atom]} {atom} along {'xyz'[axis]}"
    return Row(what, "eV/Å", float(mean), float(numeric), FORCE_TOLERANCE)


def _stress_row(
    point: Callable[[Atoms], tuple[float, Array, Array]],
    setting: Setting,
    stress: Array,
    axis: int,
) -> Row:
    centre = setting.atoms
    volume = centre.get_volume()
    slopes, energies = [], []
    for sign in (-1, 1):
        strain = np.zeros((3, 3))
        strain[axis, axis] = sign * STRAIN
        moved = strained(centre, strain)
        energy, _, there = point(moved)
        # dE/de of a cell that is stretched by 1 + e.
        slopes.append(there[axis, axis] * moved.get_volume() / (1 + sign * STRAIN))
        energies.append(energy)
    mean = (slopes[0] + 4 * stress[axis, axis] * volume + slopes[1]) / 6
    numeric = (energies[1] - energies[0]) / (2 * STRAIN)
    area = volume / centre.cell.lengths()[2]
    unit = EV_PER_ANGSTROM2_IN_N_PER_M / area
    return Row(f"stress along {'xy'[axis]}", "N/m", mean * unit, numeric * unit, STRESS_TOLERANCE)
