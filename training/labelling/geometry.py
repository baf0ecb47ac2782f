"""The cell in which a slab is computed: reduced in its plane, upright, and as high as it must be.

A skewed cell would be sampled badly by k points chosen by the lengths of its vectors, and vacuum
costs plane waves. The frame that is returned has the lattice vectors, the orientation and the order
of atoms of the structure given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.atoms import canonical_slab
from mlff2d.errors import StructureError

Array = NDArray[np.floating]

MIRROR_TOLERANCE = 0.5
"""Å. The two faces of a layer are alike where its atoms, each with one of its element, lie as far
below its middle as above it within this; rattled by 0.15 Å an alike layer stays one."""


@dataclass(frozen=True)
class Setting:
    """How a structure is computed, and the way back.

    Attributes
    ----------
    atoms : what is computed: a slab has its plane in xy, pbc (T, T, F) and is in the middle
    frame : the structure as its labels will belong to it: of a slab the vacuum vector is that of
        `atoms`, turned back
    rotation : (3, 3) whose rows are the axes of `atoms` in the frame of the structure
    combination : (2, 2) integers: lattice vectors in the plane of `atoms` from those of the frame
    rows : places of the lattice vectors in the plane in the frame, in cyclic order
    """

    atoms: Atoms
    frame: Atoms
    rotation: Array
    combination: NDArray[np.int64]
    rows: tuple[int, int] | None

    @staticmethod
    def as_it_is(atoms: Atoms) -> Setting:
        """What is computed as it stands."""
        plain = atoms.copy()
        plain.set_constraint()
        return Setting(plain, plain.copy(), np.eye(3), np.eye(2, dtype=np.int64), None)

    def back(self, computed: Atoms, forces: Array, stress: Array) -> tuple[Atoms, Array, Array]:
        """A geometry (of these atoms, its cell perhaps relaxed), forces (N, 3), stress (3, 3).

        All in the frame of the structure given; the stress is of the same volume.
        """
        r = self.rotation
        there = self.frame.copy()
        moved = computed.positions - self.atoms.positions
        there.positions += moved @ r
        if self.rows is None:
            there.set_cell(computed.cell)
        else:
            strained = computed.cell.array[:2] - self.atoms.cell.array[:2]
            cell = there.cell.array.copy()
            cell[list(self.rows)] += np.linalg.inv(self.combination) @ strained @ r
            there.set_cell(cell)
        return there, forces @ r, r.T @ stress @ r


def prepare(atoms: Atoms, height: float, vacuum: float) -> Setting:
    """The setting of a slab or a bulk crystal; the latter is computed as it stands.

    A slab gets a cell of `height` Å, or of its thickness and `vacuum` Å where that is more. Raises
    StructureError for what no potential can work on, and for what is neither.
    """
    canonical = canonical_slab(atoms)
    if canonical.axis is None:
        if not atoms.pbc.all() or slab.empty_axes(atoms.positions, atoms.cell.array):
            raise StructureError(
                "it is neither a layer nor a bulk crystal: which axis is the vacuum cannot be told "
                f"(pbc {atoms.pbc.tolist()}); set pbc to False along it, and to True in the plane"
            )
        return Setting.as_it_is(atoms)
    return _upright(atoms, canonical, height, vacuum)


def _upright(atoms: Atoms, canonical: slab.Slab, height: float, vacuum: float) -> Setting:
    axis = canonical.axis
    assert axis is not None
    rows = ((axis + 1) % 3, (axis + 2) % 3)
    cell = atoms.cell.array
    combination = reduction(cell[list(rows)])
    plane = combination @ cell[list(rows)]
    n = slab.normal(cell, canonical.pbc)
    x = plane[0] / np.linalg.norm(plane[0])
    rotation = np.array([x, np.cross(n, x), n])
    heights = canonical.pos @ n
    tall = max(height, float(np.ptp(heights)) + vacuum)
    # What stands far enough from both ends of its cell is left where it is.
    sign = -1.0 if cell[axis] @ n < 0 else 1.0
    middle = (heights.max() + heights.min()) / 2
    shift = sign * tall / 2 - middle
    if abs(shift) < 1.0:
        shift = 0.0
    frame = atoms.copy()
    frame.set_constraint()
    frame.pbc = canonical.pbc
    frame.positions = canonical.pos + shift * n
    whole = cell.copy()
    whole[axis] = sign * tall * n
    frame.set_cell(whole)
    computed = frame.copy()
    # The third axis of what is computed points along the normal, wherever that of the frame does.
    offset = 0.0 if sign > 0 else tall
    computed.positions = frame.positions @ rotation.T + np.array([0.0, 0.0, offset])
    computed.set_cell(np.vstack([plane @ rotation.T, [0.0, 0.0, tall]]))
    computed.pbc = (True, True, False)
    return Setting(computed, frame, rotation, combination, rows)


def reduction(plane: Array) -> NDArray[np.int64]:
    """(2, 2) integers of determinant 1 that make two lattice vectors (2, 3) the shortest ones.

    Lagrange's reduction, as Euclid's algorithm; vectors that are the shortest already stay.
    """
    combination = np.eye(2, dtype=np.int64)
    vectors = np.array(plane, dtype=float)
    while True:
        short, long = np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")
        overlap = vectors[long] @ vectors[short] / (vectors[short] @ vectors[short])
        # At half a vector both choices are as short, which rounding must not decide anew.
        times = 0 if abs(overlap) <= 0.5 + 1e-6 else round(float(overlap))
        if times == 0:
            return combination
        combination[long] -= times * combination[short]
        vectors[long] -= times * vectors[short]


def faces_differ(atoms: Atoms) -> bool:
    """Whether the two faces of a layer in xy differ; see `MIRROR_TOLERANCE`."""
    z = atoms.positions[:, 2]
    # About the middle at which the two come closest, element by element.
    elements = [np.sort(z[atoms.numbers == number]) for number in np.unique(atoms.numbers)]
    sums = np.concatenate([heights + heights[::-1] for heights in elements])
    return bool(np.ptp(sums) > 2 * MIRROR_TOLERANCE)


def grid(atoms: Atoms, k_length: float) -> tuple[int, int, int]:
    """Numbers of k points ceil(k_length / |a_i|) along periodic lattice vectors, else 1."""
    lengths = atoms.cell.lengths()
    # A length such as 3.0 that is a rounding error shorter keeps its number.
    counts = np.where(atoms.pbc, np.ceil(k_length / np.maximum(lengths, 1e-9) - 1e-9), 1)
    first, second, third = counts.astype(int).tolist()
    return first, second, third
