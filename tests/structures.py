"""Structures that several tests use, built here from textbook geometry."""

import numpy as np
from ase import Atoms
from ase.build import mx2
from scipy.spatial.transform import Rotation

from mlff2d.checking.slabs import TURNS, WAYS


def mos2(height: float = 20.0, rattle: float = 0.08, seed: int = 0) -> Atoms:
    """A 2x1 cell of 1H-MoS2, rattled, in the middle of a cell of the given height, pbc TTF."""
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None) * (2, 1, 1)
    atoms.rattle(rattle, seed=seed)
    atoms.set_cell([*atoms.cell[:2], [0, 0, height]])
    atoms.center(axis=2)
    atoms.pbc = (True, True, False)
    return atoms


def random_crystal(
    rng: np.random.Generator, n_atoms: int, pbc: tuple[bool, bool, bool], numbers: list[int]
) -> Atoms:
    """Atoms at random in a skewed cell, no two closer than 1.5 Å, periodic images included."""
    cell = 6.0 * np.eye(3) + rng.uniform(-1.5, 1.5, (3, 3))
    atoms = Atoms(cell=cell, pbc=pbc)
    while len(atoms) < n_atoms:
        trial = atoms + Atoms([int(rng.choice(numbers))], rng.uniform(0, 1, (1, 3)) @ cell)
        d = trial.get_all_distances(mic=True)
        if (d[np.triu_indices(len(trial), 1)] > 1.5).all():
            atoms = trial
    return atoms


def turn(atoms: Atoms, seed: int = 3) -> np.ndarray:
    """Rotate a structure with its cell, in place; the rotation (3, 3)."""
    rotation = Rotation.random(rng=seed).as_matrix()
    atoms.set_cell(atoms.cell.array @ rotation.T)
    atoms.positions = atoms.positions @ rotation.T
    return rotation


def variant(name: str) -> tuple[Atoms, np.ndarray]:
    """The slab of `mos2()` written another way, and the rotation that was applied."""
    way = WAYS[name](mos2())
    return way.atoms, way.rotation


VARIANTS = [name for name in WAYS if name not in TURNS]
