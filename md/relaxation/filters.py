"""Degrees of freedom for optimisers: the atoms and the cell in the plane of a slab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.filters import Filter
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.atoms import in_plane_virial
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

from ..slabs import one_slab
from . import cell as strain
from .symmetry import symmetrized

Array = NDArray[np.floating]


class InPlaneCellFilter(Filter):
    r"""The atoms of a slab and the strain of its two periodic lattice vectors, for an optimiser.

    The slab may lie in any plane and have any axis as its vacuum; the vacuum vector is never
    written to, and strain moves nothing along the normal. With x the positions and C the in-plane
    lattice vectors when the filter was made (rows), the structure is

        pos = x exp(G),   C' = C exp(G),   G = Σ_k q_k B_k;

    see `cell` for the B_k and the gradient by q. `get_positions` are N rows x and one row
    √(2N) q: the energy's curvature by strain grows with the number of atoms N, so that with √N the
    cell is as stiff as a bond whatever its size. (With ASE's N, FIRE takes as many steps for two
    atoms, and twice as many for fifty.) `get_forces` is minus the gradient of the energy plus
    pressure times area by these.

    Atoms held by `FixAtoms` keep their place in the deforming cell.

    Parameters
    ----------
    atoms : a slab with a calculator, see `mlff2d.atoms.in_plane_virial` for what it must offer;
        changed in place
    cell : which strain is free, a key of `mlff2d.md.relaxation.settings.CELLS`
    pressure : N/m
    symmetry : keep the layer group; the atoms are first moved to where it is exact

    Attributes
    ----------
    symmetrized : Å, the farthest that an atom was moved for that, beside the strain of the cell

    Raises
    ------
    StructureError for what is not a slab, for constraints other than `FixAtoms`, and for a cell and
    a symmetry that contradict each other.
    """

    def __init__(
        self, atoms: Atoms, cell: str = "full", pressure: float = 0.0, symmetry: bool = False
    ) -> None:
        super().__init__(atoms, indices=range(len(atoms)))
        slabs = one_slab(atoms, key=0)
        # Atoms beyond the boundary of the vacuum stay there: strain acts on the layer in one piece.
        self._offset = atoms.positions - slabs.pos.numpy()
        self.symmetrized = 0.0
        self._orbits = None
        if symmetry:
            found = symmetrized(slabs)
            slabs, self._orbits, self.symmetrized = found.slabs, found.orbits, found.moved
        self._axes = strain.plane_axes(slabs.cell, slabs.pbc)
        self.basis = (
            found.basis(cell) if symmetry else strain.basis(slabs.cell, slabs.pbc, self._axes, cell)
        )
        self._start, self._free, self._pressure = slabs, cell, pressure
        self.cell_factor = float(np.sqrt(2 * len(atoms)))
        self._strained(np.zeros(strain.N_COORDINATES))
        self._known: tuple[Any, Array, Array] = (None, np.empty(0), np.empty(0))
        if symmetry:
            self.set_positions(np.vstack([slabs.pos.numpy(), np.zeros(3)]))

    def __len__(self) -> int:
        """N + 1: the atoms and one row for the cell."""
        return len(self.atoms) + 1

    def iterimages(self) -> Iterator[Atoms]:
        """The atoms, for a trajectory."""
        return self.atoms.iterimages()

    def get_positions(self) -> Array:
        """(N + 1, 3) positions in the undeformed cell in Å, and √(2N) times the strain."""
        undeformed = (self.atoms.positions - self._offset) @ self._back
        return np.vstack([undeformed, self.cell_factor * self._q.numpy()])

    def set_positions(self, positions: Array, **kwargs: Any) -> None:
        """Deform the cell and move the atoms to what `get_positions` would return as (N + 1, 3)."""
        self._strained(np.asarray(positions)[-1] / self.cell_factor)
        cell, periodic = self.atoms.cell.array.copy(), self._start.pbc[0].numpy()
        cell[periodic] = self._start.cell[0].numpy()[periodic] @ self._deformation
        self.atoms.set_cell(cell, scale_atoms=False, apply_constraint=False)
        moved = np.asarray(positions)[:-1] @ self._deformation + self._offset
        self.atoms.set_positions(moved, apply_constraint=False)

    def get_potential_energy(self, **kwargs: Any) -> float:
        """The energy, plus pressure times area, in eV."""
        work = self._pressure / EV_PER_ANGSTROM2_IN_N_PER_M * self._area()
        return float(self.atoms.get_potential_energy(**kwargs)) + work

    def get_forces(self, **kwargs: Any) -> Array:
        """(N + 1, 3) minus the gradient of the energy by `get_positions`, in eV/Å.

        Raises StructureError where the calculator gives no virial, unless the cell is fixed.
        """
        # Optimisers of ASE ask three times a step.
        here = np.vstack([self.atoms.positions, self.atoms.cell.array])
        calculator, there, forces = self._known
        if kwargs or calculator is not self.atoms.calc or not np.array_equal(there, here):
            forces = self._gradient(**kwargs)
            self._known = (None if kwargs else self.atoms.calc, here, forces)
        return forces.copy()

    positions = property(get_positions, set_positions, doc="What an optimiser moves, in Å.")

    def _gradient(self, **kwargs: Any) -> Array:
        forces = self.atoms.get_forces(**kwargs)
        if self._orbits is not None:
            forces = self._orbits.project(torch.from_numpy(forces), self._start).numpy()
        forces = forces @ self._deformation.T
        if self._free == "fixed":
            return np.vstack([forces, np.zeros(3)])
        virial = strain.enthalpy_virial(
            torch.from_numpy(in_plane_virial(self.atoms))[None],
            torch.tensor([self._area()], dtype=torch.float64),
            self._axes,
            self._pressure,
        )
        gradient = strain.gradient(self._q, self.basis, self._axes, virial)
        return np.vstack([forces, -gradient.numpy() / self.cell_factor])

    def _strained(self, q: Array) -> None:
        """Set the coordinates (3,) of the cell."""
        self._q = torch.from_numpy(np.array(q)[None])
        there, back = (strain.deformation(x, self.basis, self._axes) for x in (self._q, -self._q))
        self._deformation: Array = there[0].numpy()
        self._back: Array = back[0].numpy()

    def _area(self) -> float:
        return slab.area(self.atoms.cell.array, self._start.pbc[0].numpy())
