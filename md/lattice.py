"""The two-dimensional Bravais lattice that the symmetry of a layer belongs to."""

from __future__ import annotations

import logging

import moyopy
import numpy as np
from ase import Atoms

from mlff2d import slab
from mlff2d.atoms import canonical_slab

SYMPREC = 0.05
"""Å. Well above what a relaxation to 0.02 eV/Å leaves, well below a distortion of interest."""

# moyopy warns of every supercell, which is no news to those who made it.
logging.getLogger("moyo").setLevel(logging.ERROR)

LATTICES = {
    "mp": "oblique",
    "op": "rectangular",
    "oc": "centred rectangular",
    "tp": "square",
    "hp": "hexagonal",
}


def lattice_type(atoms: Atoms, symprec: float = SYMPREC) -> str:
    """Lattice type of the layer group of a slab: one of `LATTICES`, "" where none was found.

    The lattice of the group, not of the cell: a 2x1 cell of hexagonal MoS2 is hexagonal, and a
    hexagonal cell whose atoms break every symmetry is oblique. Atoms equivalent within `symprec` Å
    count as equivalent. Raises StructureError for a structure that `mlff2d.atoms.check` refuses and
    ValueError for what is not a slab.
    """
    canonical = canonical_slab(atoms)
    first, second = atoms.cell.array[canonical.pbc]
    n = np.cross(first, second) / np.linalg.norm(np.cross(first, second))
    x = first / np.linalg.norm(first)
    # moyopy wants the plane to be xy. The third vector only has to hold the layer.
    frame = np.array([x, np.cross(n, x), n])
    pos = canonical.pos @ frame.T
    height = np.ptp(pos[:, 2]) + slab.MIN_VACUUM
    cell = np.array([frame @ first, frame @ second, [0.0, 0.0, height]])
    cell[:2, 2] = 0.0
    fractional = np.linalg.solve(cell.T, (pos - [0, 0, pos[:, 2].min()]).T).T
    try:
        dataset = moyopy.MoyoLayerDataset(
            moyopy.Cell(cell.tolist(), fractional.tolist(), atoms.numbers.tolist()),
            symprec=symprec,
        )
    except ValueError:
        return ""
    return LATTICES[moyopy.LayerGroupType(dataset.number).bravais_class]
