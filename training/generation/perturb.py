"""Frames about a structure: atoms rattled, the lattice strained or scaled in the plane."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms

from .layers import info_of_parent, standard

NEAR = 0.03
"""Å. Up to here a rattled frame is called near."""

RATTLED = 0.15
"""Å. Up to here it is called rattled, and hot beyond."""

SCALED_RATTLE = 0.05
"""Å. By how much the atoms of scaled frames are moved."""


def perturbed(
    atoms: Atoms,
    rattle: Sequence[tuple[float, float]] = (),
    strain: Sequence[float] = (0.0,),
    scale: Sequence[tuple[float, float]] = (),
    n: int = 1,
    supercell: tuple[int, int] = (1, 1),
    seed: int = 0,
) -> Iterator[Atoms]:
    """`n` frames for each entry of `rattle`, then `n` for each of `scale`.

    Parameters
    ----------
    rattle : Å, standard deviations of each component of the displacements; of each frame it is
        drawn evenly between two numbers
    strain : standard deviations of the three components of a symmetric strain of the plane, one
        for each entry of `rattle`, or one for all
    scale : factors on the lattice, drawn likewise; the thickness changes along with it or against
        it, by chance, and atoms are moved by `SCALED_RATTLE`
    supercell : repetitions along both lattice vectors
    seed : a frame depends on it, on the structure and on its own place alone

    `info` keeps what describes the parent, and gets mode (near, rattled, hot, scaled), parent,
    and the numbers drawn. Raises StructureError for what is no layer.
    """
    parent = standard(atoms)
    info = info_of_parent(atoms, supercell)
    digest = _digest(parent)
    cell = parent * (*supercell, 1)
    strains = list(strain) * len(rattle) if len(strain) == 1 else list(strain)
    for place, (size, width) in enumerate(zip(rattle, strains, strict=True)):
        for k in range(n):
            rng = np.random.default_rng([seed, digest, 0, place, k])
            moved = float(rng.uniform(*size))
            frame = _moved(_deformed(cell, np.eye(2) + _strain(width, rng)), moved, rng)
            frame.info = info | {"mode": _mode(moved), "rattle": moved, "strain": width}
            yield frame
    for place, factors in enumerate(scale):
        for k in range(n):
            rng = np.random.default_rng([seed, digest, 1, place, k])
            factor = float(rng.uniform(*factors))
            thick = factor if rng.random() < 0.5 else 1 / factor
            frame = _moved(_deformed(cell, factor * np.eye(2), thick), SCALED_RATTLE, rng)
            frame.info = info | {"mode": "scaled", "rattle": SCALED_RATTLE}
            frame.info |= {"scale": factor, "thickness_scale": thick}
            yield frame


def _mode(rattle: float) -> str:
    return "near" if rattle <= NEAR else "rattled" if rattle <= RATTLED else "hot"


def _digest(atoms: Atoms) -> int:
    """A number made of a structure as a file keeps it, so that reading it back changes nothing."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(atoms.numbers.astype("<i8").tobytes())
    for values in (atoms.cell.array[:2], atoms.get_scaled_positions(wrap=False)[:, :2]):
        digest.update((np.round(values, 4) + 0.0).astype("<f8").tobytes())
    return int.from_bytes(digest.digest())


def _strain(width: float, rng: np.random.Generator) -> np.ndarray:
    """(2, 2) symmetric, each of the three components normal."""
    xx, yy, xy = rng.normal(0.0, width, 3)
    return np.array([[xx, xy], [xy, yy]])


def _deformed(atoms: Atoms, plane: np.ndarray, thick: float = 1.0) -> Atoms:
    """A copy with the plane deformed and heights about the middle scaled; rows times `plane`."""
    deformed = atoms.copy()
    cell = deformed.cell.array.copy()
    cell[:2, :2] = cell[:2, :2] @ plane
    pos = deformed.positions.copy()
    pos[:, :2] = pos[:, :2] @ plane
    middle = cell[2, 2] / 2
    pos[:, 2] = middle + (pos[:, 2] - middle) * thick
    deformed.set_cell(cell)
    deformed.positions = pos
    return deformed


def _moved(atoms: Atoms, size: float, rng: np.random.Generator) -> Atoms:
    """A copy in the standard form with each component moved by a normal random number."""
    moved = atoms.copy()
    moved.positions += rng.normal(0.0, size, (len(atoms), 3))
    return standard(moved, float(atoms.cell.array[2, 2]), keep_cell=True)
