"""What a relaxation reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

# The help of `mlff2d relax` lists the statuses and must not wait for ASE.
if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.floating]

CONVERGED = "converged"
MAX_STEPS = "max-steps"
EXPLODED = "exploded"
DETACHED = "detached"
MERGED = "merged"
REBUILT = "rebuilt"
FAILED = "failed"

STATUSES = {
    CONVERGED: "forces and stress are below their thresholds, and it is still the layer given",
    REBUILT: "they are, but the coordination of atoms or the layer group changed",
    MAX_STEPS: "the steps did not suffice",
    MERGED: "the layer is bonded to its own image across the vacuum of its cell",
    DETACHED: "the layer fell apart, or a fragment left",
    EXPLODED: "a force, the cell or an atom left all bounds",
    FAILED: "the relaxation could not begin",
}
"""Every status and what it says; a relaxation has the lowest in this list that is true of it."""


@dataclass(frozen=True)
class RelaxResult:
    """What a relaxation reached.

    Attributes
    ----------
    atoms : the last geometry with finite forces, its energy, forces and, where the cell has a
        volume, stress attached; periodicity, vacuum vector and the image of each atom as given
    status : a key of `STATUSES` but "failed"
    reason : a sentence where the status is not "converged", else ""
    met : whether forces and stress are below their thresholds at this geometry, whatever else
        befell the layer
    steps : steps taken
    energy : eV
    fmax : largest force on an atom in eV/Å
    stress_2d : (3,) in-plane stress (xx, yy, xy) in N/m in the axes of `mlff2d.slab.plane_axes`;
        NaN where the cell was fixed and the calculator gives no stress
    smax : what `RelaxSettings.smax` is compared with, in N/m; of a fixed cell the largest absolute
        principal value of the in-plane stress
    area_before, area_after : Å² per atom
    thickness : extent of the nuclei along the normal in Å
    symmetrized : Å, the farthest that an atom was moved before the first step to make the start
        symmetric; 0 where that was not asked for
    layer_group_before, layer_group_after : number, 0 where none was found, or looked for: of an
        exploded layer and of more than `mlff2d.md.relaxation.outcome.MAX_ATOMS` atoms
    lattice_before, lattice_after : see `mlff2d.md.lattice`
    """

    atoms: Atoms
    status: str
    reason: str
    met: bool
    steps: int
    energy: float
    fmax: float
    stress_2d: Array
    smax: float
    area_before: float
    area_after: float
    thickness: float
    symmetrized: float
    layer_group_before: int
    layer_group_after: int
    lattice_before: str
    lattice_after: str
