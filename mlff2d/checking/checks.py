"""What is checked of a potential, each against a bound, on the slabs of `slabs.bundled`.

A check yields measurements; `run` tells the worst of each. A new check is a function with a line in
`CHECKS`. Axes: N atoms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.atoms import symbols
from mlff2d.derivatives import STEP, numerical_forces, numerical_virial
from mlff2d.errors import StructureError
from mlff2d.graph import Graph
from mlff2d.nn.scatter import segment_sum
from mlff2d.potential import Potential
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

from .slabs import TURNS, WAYS, bilayer
from .subject import Subject, parts

Array = NDArray[np.floating]

DERIVATIVE = 1e-6
"""Of the largest component. Differences of fourth order are far more exact in float64, and what is
wrong in a derivative is wrong by more."""

DOUBLE = 1e-9
"""Of the size of a quantity. Rewriting a slab rounds its coordinates to some 1e-15 Å, and a network
in float64 makes up to some thousand times that of it."""

UNIT = 2.0**-24
"""By which float32 rounds a number, relative to it."""

SINGLE_ENERGY = 256 * UNIT
"""Of the size of the energies. A number in a network is a sum of about 100 products, each rounded;
their errors add up as a random walk does, to 10 units a layer. Ten such steps one after the other
make 100 units, and what is left of them where contributions cancel in part is twice as much."""

SINGLE_SLOPE = 8 * SINGLE_ENERGY
"""The same of forces and stress: gradients go through the layers once more, backwards, and the
force on an atom is what is left of the larger forces by all its neighbours."""

NO_ANSWER = "no answer"

APART = 1e-8
"""Å, between either side of the cutoff and the cutoff."""


@dataclass(frozen=True)
class Measurement:
    """How far something is from where it should be, and how far it may be.

    Attributes
    ----------
    quantity, unit : what deviates
    where : the slab, and what was done with it
    value, bound : in the unit; NaN is never within a bound
    """

    quantity: str
    unit: str
    where: str
    value: float
    bound: float

    @property
    def fine(self) -> bool:
        """Whether the value is within the bound."""
        return self.value <= self.bound

    @property
    def share(self) -> float:
        """Of the bound that was used, by which the worst is found; infinite for NaN."""
        if self.bound:
            share = self.value / self.bound
            return math.inf if math.isnan(share) else share
        return 0.0 if self.value == 0 else math.inf


@dataclass(frozen=True)
class Check:
    """What measures, and in words what follows where it is not fine."""

    measure: Callable[[Subject], Iterator[Measurement]]
    consequence: str


def finite(subject: Subject) -> Iterator[Measurement]:
    """Numbers for the slabs and for a bilayer of each element, in both precisions."""
    structures = subject.slabs | {
        f"a bilayer of {symbols([z])}": bilayer(z) for z in subject.elements
    }
    for calculator, dtype in ((subject.exact, "float64"), (subject.single, "float32")):
        bad = [
            name
            for part in parts(list(structures))
            for name, fine in zip(
                part,
                _finite(calculator.potential, subject.graph([structures[name] for name in part])),
                strict=True,
            )
            if not fine
        ]
        told = ", ".join(bad[:4]) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")
        where = f"{told or f'{len(structures)} slabs, of every element'}, {dtype}"
        yield Measurement("slabs with NaN", "", where, len(bad), 0)


def forces(subject: Subject) -> Iterator[Measurement]:
    """All components against differences of the energy, in float64."""
    for name, atoms in subject.slabs.items():
        found = subject.expected[name]["forces"]
        error = np.abs(found - numerical_forces(subject.energies, atoms)).max()
        bound = DERIVATIVE * np.abs(found).max() + _rounding(subject, name)
        yield Measurement("forces", "eV/Å", name, float(error), float(bound))


def stress(subject: Subject) -> Iterator[Measurement]:
    """In the plane against differences by strain, in float64."""
    for name, atoms in subject.slabs.items():
        cell, pbc = atoms.cell.array, atoms.pbc
        unit = EV_PER_ANGSTROM2_IN_N_PER_M / slab.area(cell, pbc)
        numerical = numerical_virial(subject.energies, atoms, slab.plane_axes(cell, pbc)) * unit
        found = subject.expected[name]["stress_2d"]
        error = np.abs(found - (numerical[0, 0], numerical[1, 1], numerical[0, 1])).max()
        bound = DERIVATIVE * np.abs(found).max() + _rounding(subject, name) * unit
        yield Measurement("stress", "N/m", name, float(error), float(bound))


def vacuum(subject: Subject) -> Iterator[Measurement]:
    """Components of the stress along the vacuum are zero to the last bit, in both precisions."""
    for name, atoms in subject.slabs.items():
        for way in ("as built", "vacuum of 12 Å TTT", "vacuum second TTT"):
            written = atoms if way == "as built" else WAYS[way](atoms.copy()).atoms
            for dtype in ("float64", "float32"):
                found = subject.ask(written, f"{name}, {way}", dtype)
                virial = np.concatenate([found["virial"][2], found["virial"][:, 2]])
                where = f"{name}, {way}, {dtype}"
                yield Measurement("virial", "eV", where, float(np.abs(virial).max()), 0.0)
                along = float(np.abs(found["stress"][2:5]).max())
                yield Measurement("stress", "eV/Å³", where, along, 0.0)


def precision(subject: Subject) -> Iterator[Measurement]:
    """float32 against float64."""
    for name, atoms in subject.slabs.items():
        expected, found = subject.expected[name], subject.ask(atoms, name, "float32")
        energy, force, tension = subject.sizes(name)
        bounds = SINGLE_ENERGY * energy, SINGLE_SLOPE * force, SINGLE_SLOPE * tension
        yield from _compared(found, expected, name, bounds)


def compiled(subject: Subject) -> Iterator[Measurement]:
    """Compiled code, where the potential has any, against operations of torch."""
    for name, atoms in subject.slabs.items():
        energy, force, tension = subject.sizes(name)
        single = SINGLE_ENERGY * energy, SINGLE_SLOPE * force, SINGLE_SLOPE * tension
        for dtype, bounds in (("float64", _double(subject, name)), ("float32", single)):
            found = subject.ask(atoms, name, dtype)
            expected = subject.ask(atoms, name, dtype, by_torch=True)
            yield from _compared(found, expected, f"{name}, {dtype}", bounds)


def written(subject: Subject) -> Iterator[Measurement]:
    """One slab, one answer, however vacuum, cell and boundary are written."""
    return _rewritten(subject, [way for way in WAYS if way not in TURNS])


def symmetry(subject: Subject) -> Iterator[Measurement]:
    """The slab mirrored, translated, repeated, its atoms in another order."""
    return _rewritten(subject, TURNS)


def batch(subject: Subject) -> Iterator[Measurement]:
    """All slabs in one batch against one by one, in float64."""
    names = [*subject.slabs, *reversed(subject.slabs)]
    graph = subject.graph([subject.slabs[name] for name in names])
    found = subject.potential(graph, create_graph=False)
    forces = found.forces.cpu().numpy()
    ends = np.cumsum([0, *graph.atoms_per_structure().tolist()])
    for k, name in enumerate(names):
        atoms, expected = subject.slabs[name], subject.expected[name]
        answer = {
            "energy": float(found.energy[k]),
            "forces": forces[ends[k] : ends[k + 1]],
            "stress_2d": slab.stress_2d(found.virial[k].cpu().numpy(), atoms.cell.array, atoms.pbc),
        }
        yield from _compared(answer, expected, f"{name}, place {k}", _double(subject, name))


def cutoff(subject: Subject) -> Iterator[Measurement]:
    """Energy and forces on both sides of every cutoff that the settings name.

    An atom is above the topmost atom of a slab, and no other is nearer to it.
    """
    config = subject.potential.model.config
    radii = {getattr(config, f.name) for f in fields(config) if f.name.endswith("cutoff")}
    for radius in sorted(radii):
        for name, atoms in subject.slabs.items():
            where = f"{name}, an atom at {radius:g} Å"
            sides = [_above(atoms, radius + side) for side in (-APART, APART)]
            inside, outside = (subject.ask(side, where) for side in sides)
            energy = abs(inside["energy"] - outside["energy"])
            force = float(np.abs(inside["forces"] - outside["forces"]).max())
            # Over 2e-8 Å forces of 50 eV/Å and force constants of 500 eV/Å² change no more.
            yield Measurement("energy", "eV", where, energy, 100 * APART + subject.noise(name))
            yield Measurement("forces", "eV/Å", where, force, 1000 * APART)


CHECKS = {
    "finite numbers": Check(finite, "structures with these elements cannot be computed"),
    "forces = -dE/dr": Check(
        forces, "relaxations miss the minimum, and dynamics gain or lose energy"
    ),
    "stress = dE/dstrain": Check(
        stress, "lattice constants and elastic constants are not those of the energy"
    ),
    "nothing along vacuum": Check(vacuum, "optimisers of the cell move the vacuum"),
    "float32 = float64": Check(precision, "only dtype float64 is to be trusted"),
    "compiled = torch": Check(
        compiled, 'compiled code computes something else; use MLFF2DCalculator(..., compile="no")'
    ),
    "one slab, one answer": Check(
        written, "one material from two files has two energies, and formation energies are off"
    ),
    "mirrored, repeated": Check(
        symmetry, "results depend on where a slab lies and how large its cell is"
    ),
    "batched = single": Check(batch, "`mlff2d relax` and `mlff2d md` compute something else"),
    "smooth at cutoff": Check(
        cutoff, "dynamics gain energy and relaxations get stuck where atoms pass the cutoff"
    ),
}


@dataclass(frozen=True)
class Finding:
    """The worst measurement of one quantity in a check, of how many cases."""

    check: str
    worst: Measurement
    cases: int


def run(
    subject: Subject, checks: dict[str, Check], started: Callable[[str], None] = lambda name: None
) -> list[Finding]:
    """Do checks; `started` is called with the name of each.

    Where the potential has no answer, the quantity is `NO_ANSWER` and the place is what it said.
    With no answer for the slabs as they are, the checks that are left are left out.
    """
    found: list[Finding] = []
    for name, check in checks.items():
        started(name)
        try:
            found += _worst(name, check.measure(subject))
        except StructureError as error:
            found.append(Finding(name, Measurement(NO_ANSWER, "", str(error), math.nan, 0.0), 1))
            if not subject.has_answers:
                break
    return found


def _worst(check: str, measurements: Iterable[Measurement]) -> list[Finding]:
    by_quantity: dict[tuple[str, str], list[Measurement]] = {}
    for m in measurements:
        by_quantity.setdefault((m.quantity, m.unit), []).append(m)
    return [
        Finding(check, max(some, key=lambda m: m.share), len(some)) for some in by_quantity.values()
    ]


def _finite(potential: Potential, graph: Graph) -> list[bool]:
    """Of each structure, whether energy, forces and virial are."""
    found = potential(graph, create_graph=False)
    forces = segment_sum(found.forces.abs().sum(1), graph.batch, graph.n_structures)
    total = found.energy.abs() + forces + found.virial.abs().sum((1, 2))
    fine: list[bool] = total.isfinite().tolist()
    return fine


def _rewritten(subject: Subject, ways: Iterable[str]) -> Iterator[Measurement]:
    for name, atoms in subject.slabs.items():
        for way in ways:
            other = WAYS[way](atoms.copy())
            found = subject.ask(other.atoms, f"{name}, {way}")
            first = subject.expected[name]
            source = np.arange(len(atoms)) if other.source is None else other.source
            expected = {
                "energy": first["energy"] * len(source) / len(atoms),
                "forces": first["forces"][source] @ other.rotation.T,
                "stress_2d": first["stress_2d"],
            }
            yield from _compared(found, expected, f"{name}, {way}", _double(subject, name))


def _compared(
    found: dict[str, Any],
    expected: dict[str, Any],
    where: str,
    bounds: tuple[float, float, float],
) -> Iterator[Measurement]:
    n_atoms = len(expected["forces"])
    energy = abs(found["energy"] - expected["energy"]) / n_atoms
    yield Measurement("energy", "eV/atom", where, energy, bounds[0])
    for (name, key, unit), bound in zip(_VECTORS, bounds[1:], strict=True):
        deviation = float(np.abs(found[key] - expected[key]).max())
        yield Measurement(name, unit, where, deviation, bound)


_VECTORS = (("forces", "forces", "eV/Å"), ("stress", "stress_2d", "N/m"))


def _double(subject: Subject, name: str) -> tuple[float, float, float]:
    """Bounds of energy per atom, forces and stress, where only rounding in float64 may differ."""
    energy, force, tension = (DOUBLE * size for size in subject.sizes(name))
    return energy + subject.noise(name), force, tension


def _rounding(subject: Subject, name: str) -> float:
    """What that makes of a difference of energies, in eV/Å, and by strain in eV."""
    return subject.noise(name) / STEP


def _above(atoms: Atoms, distance: float) -> Atoms:
    top = int(np.argmax(atoms.positions[:, 2]))
    probe = atoms + atoms[[top]]
    probe.positions[-1, 2] += distance
    return probe
