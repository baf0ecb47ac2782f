"""Derivatives of an energy by differences, against which analytic ones are judged.

Axes: N atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]
Energies = Callable[[Sequence[Atoms]], Array]
"""Gives the energies in eV of some structures."""

STEP = 1e-4
"""Å, and by strain 1. In float64 what the formula leaves out, h⁴/30 times the fifth derivative, is
then far below the rounding of the energies over h, and both are below 1e-6 of a force."""

STEPS = STEP * np.array([-2.0, -1.0, 1.0, 2.0])
"""Where `central` wants the values."""

CARTESIAN = np.eye(3)


def central(values: ArrayLike) -> Array:
    """First derivative at 0 from values (4, ...) at `STEPS`, exact to fourth order."""
    v = np.asarray(values)
    return (v[0] - 8 * v[1] + 8 * v[2] - v[3]) / (12 * STEP)


def displaced(atoms: Atoms, atom: int, axis: int, by: float) -> Atoms:
    """A copy in which one atom is moved along a Cartesian axis by some Å."""
    moved = atoms.copy()
    moved.positions[atom, axis] += by
    return moved


def strained(atoms: Atoms, strain: Array) -> Atoms:
    """A copy in which positions and lattice vectors r are (1 + ε) r, for a symmetric ε (3, 3)."""
    moved = atoms.copy()
    deformation = np.eye(3) + strain
    moved.set_cell(atoms.cell.array @ deformation)
    moved.positions = atoms.positions @ deformation
    return moved


def numerical_forces(energies: Energies, atoms: Atoms) -> Array:
    """(N, 3) forces in eV/Å from 12 N energies."""
    places = list(np.ndindex(len(atoms), 3))
    moved = [displaced(atoms, atom, axis, step) for step in STEPS for atom, axis in places]
    return -central(energies(moved).reshape(len(STEPS), len(atoms), 3))


def numerical_virial(energies: Energies, atoms: Atoms, axes: ArrayLike = CARTESIAN) -> Array:
    """(K, K) dE/dstrain in eV among K orthonormal axes (K, 3), from 2 K (K + 1) energies."""
    axes = np.asarray(axes)
    pairs = [(a, b) for a in range(len(axes)) for b in range(a + 1)]
    outer = [np.outer(axes[a], axes[b]) for a, b in pairs]
    strains = [(tensor + tensor.T) / 2 for tensor in outer]
    moved = [strained(atoms, step * strain) for step in STEPS for strain in strains]
    slopes = central(energies(moved).reshape(len(STEPS), len(pairs)))
    virial = np.zeros((len(axes), len(axes)))
    for (a, b), slope in zip(pairs, slopes, strict=True):
        virial[a, b] = virial[b, a] = slope
    return virial
