"""Degrees of freedom for optimisers: the atoms and the cell in the plane of a slab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.filters import Filter
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.atoms import in_plane_virial
from mlff2d.errors import StructureError

from ..slabs import require_slab

Array = NDArray[np.floating]

_SQRT2 = np.sqrt(2.0)


class InPlaneCellFilter(Filter):
    r"""The atoms of a slab and the strain of its two periodic lattice vectors, for an optimiser.

    The slab may lie in any plane and have any axis as its vacuum. With x the positions and C the
    in-plane lattice vectors when the filter was made (rows), the structure is

        pos = x exp(S),   C' = C exp(S),   S = Σ_kl s_kl e_k ⊗ e_l,

    e_1 and e_2 being orthonormal axes of the plane and s (2, 2) symmetric. S maps the normal to
    zero, so that strain moves nothing along it, and the vacuum vector is never written to. A
    symmetric S has no rotation. The logarithm of the stretch, unlike the stretch itself, cannot
    turn the cell inside out, however long the step.

    `get_positions` are N rows x and one row n_c (s_11, s_22, √2 s_12), whose norm no choice of
    axes changes; n_c is `cell_factor`. `get_forces` is minus the gradient of the energy with
    respect to these, exact at any strain: forces @ exp(S), and for the last row minus

        dE/ds = L(exp(-S) W),   L(G) = V (Φ ∘ (Vᵀ G V)) Vᵀ,   Φ_ij = (e^λi - e^λj) / (λi - λj),

    W = dE/dstrain in the plane, λ and V the eigenvalues and eigenvectors of s: the derivative of
    the matrix exponential (Daleckii and Krein; Higham, Functions of Matrices, SIAM 2008, th. 3.11).

    Atoms held by `FixAtoms` keep their place in the deforming cell.

    Parameters
    ----------
    atoms : a slab with a calculator, see `mlff2d.atoms.in_plane_virial` for what it must offer;
        changed in place
    cell_factor : Å that a strain of one counts for beside positions, by default √(2N). The energy's
        curvature by strain grows with the number of atoms N, so that with √N the cell is as stiff
        as a bond whatever the size of the cell. (With ASE's N, FIRE takes as many steps for two
        atoms, and twice as many for fifty.)

    Raises
    ------
    StructureError for what is not a slab and for constraints other than `FixAtoms`.
    """

    def __init__(self, atoms: Atoms, cell_factor: float | None = None) -> None:
        super().__init__(atoms, indices=range(len(atoms)))
        canonical = require_slab(atoms)
        for constraint in atoms.constraints:
            if not isinstance(constraint, FixAtoms):
                raise StructureError(
                    f"the constraint {type(constraint).__name__} cannot be kept while the cell "
                    "relaxes; remove it, or keep the cell fixed"
                )
        self.cell_factor = float(np.sqrt(2 * len(atoms)) if cell_factor is None else cell_factor)
        self._periodic = canonical.pbc
        # Atoms beyond the boundary of the vacuum stay there: strain acts on the layer in one piece.
        self._offset = atoms.positions - canonical.pos
        self._reference_cell = atoms.cell.array.copy()
        self._axes = slab.plane_axes(atoms.cell.array, canonical.pbc)
        self._strain = np.zeros((2, 2))

    def __len__(self) -> int:
        """N + 1: the atoms and one row for the cell."""
        return len(self.atoms) + 1

    def iterimages(self) -> Iterator[Atoms]:
        """The atoms, for a trajectory."""
        return self.atoms.iterimages()

    def get_positions(self) -> Array:
        """(N + 1, 3) positions in the undeformed cell in Å, and `cell_factor` times the strain."""
        undeformed = (self.atoms.positions - self._offset) @ self._deformation(-self._strain)
        s = self._strain
        row = [s[0, 0], s[1, 1], _SQRT2 * s[0, 1]]
        return np.vstack([undeformed, self.cell_factor * np.array(row)])

    def set_positions(self, positions: Array, **kwargs: Any) -> None:
        """Deform the cell and move the atoms to what `get_positions` would return as (N + 1, 3)."""
        xx, yy, xy = np.asarray(positions)[-1] / self.cell_factor
        self._strain = np.array([[xx, xy / _SQRT2], [xy / _SQRT2, yy]])
        deformation = self._deformation(self._strain)
        cell = self._reference_cell.copy()
        cell[self._periodic] = cell[self._periodic] @ deformation
        self.atoms.set_cell(cell, scale_atoms=False, apply_constraint=False)
        moved = np.asarray(positions)[:-1] @ deformation + self._offset
        self.atoms.set_positions(moved, apply_constraint=False)

    def get_forces(self, **kwargs: Any) -> Array:
        """(N + 1, 3) minus the gradient of the energy by `get_positions`, in eV/Å.

        Raises StructureError where the calculator gives no virial.
        """
        forces = self.atoms.get_forces(**kwargs) @ self._deformation(self._strain)
        virial = self._axes @ in_plane_virial(self.atoms) @ self._axes.T
        values, vectors = np.linalg.eigh(self._strain)
        # exp(-S) W is not symmetric; only its symmetric part meets a symmetric change of s.
        gradient = vectors.T @ _expm(values, vectors, -1.0) @ virial @ vectors
        mean = np.exp((values[:, None] + values) / 2)
        gradient = vectors @ (mean * _sinhc((values[:, None] - values) / 2) * gradient) @ vectors.T
        row = [gradient[0, 0], gradient[1, 1], (gradient[0, 1] + gradient[1, 0]) / _SQRT2]
        return np.vstack([forces, -np.array(row) / self.cell_factor])

    positions = property(get_positions, set_positions, doc="What an optimiser moves, in Å.")

    def _deformation(self, strain: Array) -> Array:
        """(3, 3) exp(S), the identity along the normal."""
        stretch = _expm(*np.linalg.eigh(strain)) - np.eye(2)
        return np.eye(3) + self._axes.T @ stretch @ self._axes


def _expm(values: Array, vectors: Array, sign: float = 1.0) -> Array:
    return (vectors * np.exp(sign * values)) @ vectors.T


def _sinhc(x: Array) -> Array:
    """sinh(x) / x, one at zero."""
    small = np.abs(x) < 1e-6
    return np.where(small, 1.0, np.sinh(x) / np.where(small, 1.0, x))
