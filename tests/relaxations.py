"""A short relaxation of a slab by EMT, as the steps of a run with exact labels."""

from __future__ import annotations

from functools import cache

import numpy as np
from ase import Atoms
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE


@cache
def relaxation(n_steps: int, second: str = "Ag", seed: int = 0) -> list[Atoms]:
    """Up to `n_steps` steps of cell and atoms of two layers of Cu with an atom of another metal."""
    atoms = fcc111("Cu", (2, 1, 2), vacuum=6.0)
    symbols = atoms.get_chemical_symbols()
    symbols[-1] = second
    atoms.set_chemical_symbols(symbols)
    atoms.pbc = True
    atoms.info.clear()
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    atoms.set_cell(atoms.cell @ (np.eye(3) + np.diag([0.03, -0.03, 0])), scale_atoms=True)
    atoms.calc = EMT()
    steps: list[Atoms] = []

    def keep() -> None:
        steps.append(labelled(atoms))

    in_plane = FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 1])
    optimizer = FIRE(in_plane, logfile=None)
    optimizer.attach(keep)
    optimizer.run(fmax=1e-4, steps=n_steps - 1)
    return steps


def labelled(atoms: Atoms) -> Atoms:
    """A copy with energy, forces and stress of EMT."""
    copy = atoms.copy()
    copy.calc = EMT()
    labels = {
        "energy": copy.get_potential_energy(),
        "forces": copy.get_forces(),
        "stress": copy.get_stress(),
    }
    copy.calc = SinglePointCalculator(copy, **labels)
    return copy
