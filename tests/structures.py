"""Structures that several tests use, built here from textbook geometry."""

import numpy as np
from ase import Atoms
from ase.build import mx2
from scipy.spatial.transform import Rotation


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
    atoms, rotation = mos2(), np.eye(3)
    if name.startswith("c="):
        atoms = mos2(float(name[2:].removesuffix(" TTT")))
        atoms.pbc = (True, True, name.endswith("TTT"))
    elif name == "no third vector":
        atoms.cell[2] = 0.0
    elif name == "short third vector":
        atoms.cell[2] = (0.0, 0.0, 1.0)
    elif name == "tilted":
        atoms.cell[2] = (5.0, -3.0, 22.0)
    elif name == "tilted TTT":
        atoms.cell[2] = (5.0, -3.0, 22.0)
        atoms.pbc = True
    elif name == "left-handed":
        atoms.cell[2] *= -1
    elif name == "swapped":
        atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    elif name == "vacuum first":
        atoms.set_cell(atoms.cell.array[[2, 0, 1]])
        atoms.pbc = (False, True, True)
    elif name == "vacuum second TTT":
        atoms.set_cell(atoms.cell.array[[0, 2, 1]])
        atoms.pbc = True
    elif name.startswith("straddling"):
        atoms.positions[:, 2] += 10.0
        atoms.pbc = True
        atoms.wrap()
        atoms.pbc = (True, True, name.endswith("TTT"))
    elif name == "another in-plane cell":
        atoms.set_cell([atoms.cell[0], atoms.cell[1] + 2 * atoms.cell[0], atoms.cell[2]])
    elif name == "rotated":
        rotation = turn(atoms)
    elif name == "axes permuted":
        rotation = np.eye(3)[[2, 0, 1]]
        atoms.set_cell(atoms.cell.array @ rotation.T)
        atoms.positions = atoms.positions @ rotation.T
    return atoms, rotation


VARIANTS = ["c=8", "c=15", "c=30", "c=8 TTT", "c=15 TTT", "c=30 TTT", "no third vector"]
VARIANTS += ["short third vector", "tilted", "tilted TTT", "left-handed", "swapped"]
VARIANTS += ["vacuum first", "vacuum second TTT", "straddling", "straddling TTT"]
VARIANTS += ["another in-plane cell", "rotated", "axes permuted"]
