"""Whether forces and stress are the derivatives of the energy, from steps of trajectories.

Between two frames of the same atoms that are close to each other

    E₂ - E₁ ≈ -½ Σ (F₁ + F₂)·ΔR + ½ (W₁ + W₂):ε

with ΔR what the atoms move beside the homogeneous strain ε, and W = dE/dε the virial. A fit of the
two terms to the changes of energy has the slopes 1 and 1; a wrong sign or unit makes another slope,
which names it. Frames need not follow each other in time: the energy depends on the place only.

Axes: N atoms, T steps.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.units import Bohr, Hartree, Rydberg, kcal, kJ, mol
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.units import EV_PER_ANGSTROM3_IN_GPA

from .record import Record

Array = NDArray[np.float64]

MAX_MOVE = 0.25
"""Å. Above it the mean of the forces at both ends is too far from the mean along the way."""

MAX_STRAIN = 0.04
MIN_STEPS = 20
_ROWS = 5000  # steps that are kept, a random choice of all
_TRAJECTORIES = 5000  # last records that are kept, as trajectories may be mixed in a file
_RIGHT = (0.7, 1.4)  # slopes that no wrong unit makes; the nearest of those is 1.89
_NEAR = 0.12  # relative distance within which a slope is taken for that of a unit
_CERTAIN = 0.1  # standard error above which nothing is said

_FORCE_FACTORS = {
    "have the wrong sign (they are gradients)": -1.0,
    "are in Ry/Bohr": Rydberg / Bohr,
    "are in Hartree/Bohr": Hartree / Bohr,
    "are in meV/Å": 1e-3,
    "are in kcal/mol/Å": kcal / mol,
    "are in kJ/mol/Å": kJ / mol,
    "are in Hartree or Rydberg per Bohr, and the energies in the same atomic unit": 1 / Bohr,
}
_STRESS_FACTORS = {
    "has the wrong sign (compression positive)": -1.0,
    "is in GPa": 1 / EV_PER_ANGSTROM3_IN_GPA,
    "is in kbar": 0.1 / EV_PER_ANGSTROM3_IN_GPA,
    "is in GPa, compression positive": -1 / EV_PER_ANGSTROM3_IN_GPA,
    "is in kbar, compression positive, as VASP writes it": -0.1 / EV_PER_ANGSTROM3_IN_GPA,
    "is in Ry/Bohr³": Rydberg / Bohr**3,
    "is in Ry/Bohr³, compression positive": -Rydberg / Bohr**3,
    "is in Hartree/Bohr³": Hartree / Bohr**3,
    "is in Hartree/Bohr³, compression positive": -Hartree / Bohr**3,
}
_ENERGY_FACTORS = {
    "are in Rydberg": Rydberg,
    "are in Hartree": Hartree,
    "are in meV": 1e-3,
    "are in kcal/mol": kcal / mol,
    "are in kJ/mol": kJ / mol,
}
_UNITS = {"forces": "eV/Å", "stress": "eV/Å³, tension positive", "energies": "eV"}


@dataclass(frozen=True)
class Slope:
    """How the energy changes against what a label says; 1 where both fit.

    Attributes
    ----------
    label : "forces" or "stress"
    value, error : the slope and its standard error
    n_steps : steps that it was fitted to, without outliers
    """

    label: str
    value: float
    error: float
    n_steps: int

    @property
    def certain(self) -> bool:
        """Whether so much is known that the slope can be judged."""
        return self.n_steps >= MIN_STEPS and self.error < _CERTAIN * max(abs(self.value), 1e-9)

    @property
    def right(self) -> bool:
        return _RIGHT[0] < self.value < _RIGHT[1]

    def __str__(self) -> str:
        return f"{self.label} {self.value:.4g} ± {self.error:.1g} ({self.n_steps} steps)"


class TrajectoryCheck:
    """Takes the records of one source in order and says what is wrong with their labels.

    Needs the same memory however many there are: of the steps a random choice is kept.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._last: OrderedDict[str, Record] = OrderedDict()
        self._rows: list[tuple[float, ...]] = []
        self._seen = 0
        self._random = random.Random(0)

    def add(self, record: Record) -> None:
        """The next record; with the last one of the same trajectory it makes a step."""
        last = self._last.pop(record.trajectory, None)
        self._last[record.trajectory] = record
        if len(self._last) > _TRAJECTORIES:
            self._last.popitem(last=False)
        if last is None or not np.array_equal(last.z, record.z) or (last.pbc != record.pbc).any():
            return
        row = _step(last, record)
        if row is None:
            return
        self._seen += 1
        if len(self._rows) < _ROWS:
            self._rows.append(row)
        elif (place := self._random.randrange(self._seen)) < _ROWS:
            self._rows[place] = row

    def slopes(self) -> list[Slope]:
        """Slopes of the labels that can be judged; see `Slope`."""
        return [] if len(self._rows) < MIN_STEPS else _slopes(_Steps.of(self._rows))

    def sentences(self) -> list[str]:
        """What is wrong, in a sentence each that names the source and what to multiply by."""
        slopes = {slope.label: slope for slope in self.slopes()}
        wrong = [slope for slope in slopes.values() if not slope.right]
        if not wrong:
            return []
        steps = _Steps.of(self._rows)
        if len(wrong) == len(slopes) and (sentence := self._of_energies(wrong, steps)):
            return [sentence]
        return [self._of_label(slope, steps) for slope in wrong]

    def _of_energies(self, wrong: list[Slope], steps: _Steps) -> str | None:
        """The sentence if it is rather the energies that are wrong."""
        per_atom = _slopes(steps.with_total_energies())
        if (steps.n_atoms > 1).any() and per_atom and all(_is_one(s.value) for s in per_atom):
            return self._sentence(wrong[0], "energies", "are per atom", "the number of atoms")
        values = [slope.value for slope in wrong]
        reason = _nearest(1 / values[0], _ENERGY_FACTORS)
        if len(values) == 2 and max(values) < 1.15 * min(values) and reason:
            return self._sentence(wrong[0], "energies", reason, f"{_ENERGY_FACTORS[reason]:.6g}")
        return None

    def _of_label(self, slope: Slope, steps: _Steps) -> str:
        factors = _FORCE_FACTORS if slope.label == "forces" else _STRESS_FACTORS
        if reason := _nearest(slope.value, factors):
            return self._sentence(slope, slope.label, reason, f"{factors[reason]:.6g}")
        if slope.label == "forces":
            if reason := _nearest(1 / slope.value, _ENERGY_FACTORS):
                return self._sentence(slope, "energies", reason, f"{_ENERGY_FACTORS[reason]:.6g}")
        else:
            for other in _slopes(steps.with_virial_as_stress()):
                if other.label == "stress" and _is_one(abs(other.value)):
                    reason = "is given as the virial in eV"
                    sign = "" if other.value > 0 else "-"
                    return self._sentence(
                        slope, "stress", reason, f"{sign}1 over the cell's volume"
                    )
        verb = "do" if slope.label == "forces" else "does"
        reason = f"{verb} not fit the energies, and no unit known here makes such a factor"
        return self._sentence(slope, slope.label, reason, f"{slope.value:.4g}, if you know why,")

    def _sentence(self, slope: Slope, label: str, reason: str, factor: str) -> str:
        of = "the stress says" if slope.label == "stress" else "the forces say"
        return (
            f"{self.source}: along its trajectories the energy changes {slope.value:.4g} times as "
            f"much as {of} ({slope.n_steps} steps): the {label} {reason}; multiply the {label} by "
            f"{factor} to have {_UNITS[label]}."
        )


def _nearest(value: float, factors: Mapping[str, float]) -> str | None:
    """The key of the factor that a slope is close to."""
    key = min(factors, key=lambda name: abs(value / factors[name] - 1))
    return key if abs(value / factors[key] - 1) < _NEAR else None


def _is_one(value: float) -> bool:
    return abs(value - 1) < 2 * _NEAR


@dataclass(frozen=True)
class _Steps:
    """(T,) changes of energy, what forces and stress say of them, atoms, volume of the cell."""

    energy: Array
    by_forces: Array
    by_stress: Array  # 0 where the cell does not change
    n_atoms: Array
    volume: Array

    @classmethod
    def of(cls, rows: list[tuple[float, ...]]) -> _Steps:
        return cls(*np.array(rows).T)

    def with_total_energies(self) -> _Steps:
        """As if the energies were per atom."""
        total = self.energy * self.n_atoms
        return _Steps(total, self.by_forces, self.by_stress, self.n_atoms, self.volume)

    def with_virial_as_stress(self) -> _Steps:
        """As if what is given for the stress were the virial."""
        virial = self.by_stress / self.volume
        return _Steps(self.energy, self.by_forces, virial, self.n_atoms, self.volume)


def _step(old: Record, new: Record) -> tuple[float, ...] | None:
    """A row of `_Steps`, or None where the step is none, too large, or its labels are absent."""
    if not np.isfinite([old.energy, new.energy]).all():
        return None
    if not (np.isfinite(old.forces).all() and np.isfinite(new.forces).all()):
        return None
    first, second = _cell(old), _cell(new)
    if first is None or second is None:
        return None
    middle = (first + second) / 2
    strain = np.linalg.solve(middle, second - first)
    shift = new.pos @ np.linalg.inv(second) - old.pos @ np.linalg.inv(first)
    shift[:, old.pbc] -= np.round(shift[:, old.pbc])
    moved = shift @ middle
    moved -= moved.mean(0)  # a move of the whole changes nothing
    largest, strained = np.linalg.norm(moved, axis=1).max(), np.abs(strain).max()
    if largest > MAX_MOVE or strained > MAX_STRAIN or (largest < 1e-4 and strained < 1e-6):
        return None
    by_forces = -0.5 * np.sum((old.forces + new.forces) * moved)
    by_stress = 0.5 * np.sum((old.virial + new.virial) * strain) if strained > 1e-7 else 0.0
    if not np.isfinite(by_stress):
        return None
    volume = abs(np.linalg.det(old.cell))
    return (new.energy - old.energy, by_forces, by_stress, float(len(old.z)), volume or 1.0)


def _cell(record: Record) -> Array | None:
    """(3, 3) lattice vectors, of a slab with its normal and of a molecule with x, y, z in place of
    those that are not periodic, so that the vacuum is never strained; None for a chain."""
    n_periodic = int(record.pbc.sum())
    if n_periodic == 0:
        return np.eye(3)
    if n_periodic == 1:
        return None
    cell = record.cell.copy()
    if n_periodic == 2:
        cell[~record.pbc] = slab.normal(record.cell, record.pbc)
    return cell


def _slopes(steps: _Steps) -> list[Slope]:
    """Slopes of the labels of which enough is known."""
    terms = {"forces": steps.by_forces, "stress": steps.by_stress}
    terms = {label: term for label, term in terms.items() if (term != 0).sum() >= MIN_STEPS}
    if not terms:
        return []
    values, errors, n_kept = _fit(np.stack(list(terms.values()), axis=1), steps.energy)
    found = (Slope(*row, n_kept) for row in zip(terms, values, errors, strict=True))
    return [slope for slope in found if slope.certain]


def _fit(terms: Array, energy: Array) -> tuple[list[float], list[float], int]:
    """Slopes, standard errors and number of steps that are no outliers.

    Large steps, of which the error of the mean along the way is larger, weigh less. The start is
    the fit of least absolute deviations, which outliers do not draw away.
    """
    scale = np.array([np.median(np.abs(column[column != 0])) for column in terms.T])
    terms = terms / scale
    weight = 1 / (0.3 + np.linalg.norm(terms, axis=1))
    a, b = terms * weight[:, None], energy * weight
    slopes = np.linalg.lstsq(a, b, rcond=None)[0]
    for _ in range(20):
        deviation = np.abs(b - a @ slopes)
        root = 1 / np.sqrt(np.maximum(deviation, 1e-6 + 0.01 * np.median(deviation)))
        slopes = np.linalg.lstsq(a * root[:, None], b * root, rcond=None)[0]
    kept = np.ones(len(b), dtype=bool)
    for _ in range(3):
        deviation = np.abs(b - a @ slopes)
        kept = deviation <= 4 * 1.4826 * np.median(deviation) + 1e-9
        slopes = np.linalg.lstsq(a[kept], b[kept], rcond=None)[0]
    freedom = max(int(kept.sum()) - len(slopes), 1)
    variance = np.sum((b - a @ slopes)[kept] ** 2) / freedom
    covariance = variance * np.linalg.pinv(a[kept].T @ a[kept])
    errors = np.sqrt(np.diagonal(covariance))
    return (slopes / scale).tolist(), (errors / scale).tolist(), int(kept.sum())
