"""Relaxations in batches beside those of ASE, step by step."""

import gzip
import io
from collections.abc import Sequence

import ase.io
import ase.optimize
import numpy as np
from ase import Atoms
from ase.build import fcc111
from ase.constraints import FixAtoms

from mlff2d.calculator import MLFF2DCalculator
from mlff2d.md.evaluator import Evaluator
from mlff2d.md.relaxation import lbfgs
from mlff2d.md.relaxation.filters import InPlaneCellFilter
from mlff2d.md.relaxation.flight import Flight, join
from mlff2d.md.relaxation.relax import _LBFGS
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.md.slabs import one_slab
from mlff2d.potential import Potential
from tests.shared import DATA
from tests.standins import copper, rotated

Way = list[tuple[np.ndarray, np.ndarray, float]]
"""Positions, cell and energy at each step."""


def sheets() -> list[Atoms]:
    """Copper of several sizes, in any orientation, an atom of one of them held."""
    single = fcc111("Cu", (1, 1, 1), a=3.5, vacuum=6.0)
    held = copper(layers=3, scale=0.98, seed=3)
    held.set_constraint(FixAtoms([2]))
    turned = rotated(copper(seed=1), 5)
    cyclic = copper(layers=1, scale=1.02, seed=2)
    cyclic.set_cell(np.roll(cyclic.cell.array, 1, axis=0))
    cyclic.pbc = np.roll(cyclic.pbc, 1)
    return [copper(), single, held, turned, cyclic]


def batched_ways(
    potential: Potential, frames: Sequence[Atoms], settings: RelaxSettings, n_steps: int
) -> list[Way]:
    """The way of each structure, all moved together."""
    evaluator = Evaluator(potential, max_edges=10**9)
    parts = [Flight.starting(one_slab(a, key), settings) for key, a in enumerate(frames)]
    flight = join(parts)
    ways: list[Way] = [[] for _ in frames]
    for step in range(n_steps + 1):
        if step:
            flight = flight.moved(settings)
        flight = flight.evaluated(evaluator(flight.slabs), settings)
        for s, way in enumerate(ways):
            pos = flight.slabs.pos[flight.slabs.atoms_of(s)].numpy()
            way.append((pos, flight.slabs.cell[s].numpy(), float(flight.energy[s])))
    return ways


def ase_way(potential: Potential, atoms: Atoms, settings: RelaxSettings, n_steps: int) -> Way:
    """The way of one structure by ASE's optimiser."""
    slabs = one_slab(atoms, 0)
    atoms = atoms.copy()
    atoms.positions, atoms.pbc = slabs.pos.numpy(), slabs.pbc[0].numpy()
    atoms.calc = MLFF2DCalculator(potential, device="cpu", dtype="float64")
    movable = InPlaneCellFilter(atoms, settings.cell, settings.pressure, settings.symmetry)
    if settings.optimizer == "fire":
        optimizer = ase.optimize.FIRE(movable, logfile=None)
    else:
        optimizer = _LBFGS(movable, logfile=None, memory=lbfgs.MEMORY)
    return [
        (atoms.positions.copy(), atoms.cell.array.copy(), float(atoms.get_potential_energy()))
        for _ in optimizer.irun(fmax=0.0, steps=n_steps)
    ]


def apart(one: Way, other: Way) -> float:
    """The largest difference of any number of two ways."""
    assert len(one) == len(other)
    pairs = [
        (np.asarray(x), np.asarray(y))
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
    ]
    return max(float(np.abs(x - y).max()) for x, y in pairs)


def monolayers(number: int, max_atoms: int = 12) -> list[Atoms]:
    """Every k-th small monolayer of the shared data, without reading the others."""
    with gzip.open(DATA / "monolayers_2dmatpedia.extxyz.gz", "rt") as file:
        lines = file.read().split("\n")
    blocks, at = [], 0
    while at < len(lines) and lines[at].strip():
        end = at + int(lines[at]) + 2
        if end - at - 2 <= max_atoms:
            blocks.append("\n".join(lines[at:end]))
        at = end
    return [ase.io.read(io.StringIO(b), format="extxyz") for b in blocks[:: len(blocks) // number]]


def strained_monolayers(number: int) -> list[Atoms]:
    """The same away from rest."""
    rng = np.random.default_rng(0)
    frames = monolayers(number)[:number]
    for atoms in frames:
        atoms.set_cell(atoms.cell.array * [[1.02], [0.99], [1]], scale_atoms=True)
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
    return frames
