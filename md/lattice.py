"""The two-dimensional Bravais lattice that the symmetry of a layer belongs to."""

from __future__ import annotations

import moyopy
from ase import Atoms

from mlff2d.atoms import canonical_slab
from mlff2d.symmetry import layer_group

SYMPREC = 0.05
"""Å. Well above what a relaxation to 0.02 eV/Å leaves, well below a distortion of interest."""

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
    if canonical.axis is None:
        raise ValueError("it is not a slab")
    return lattice_of_group(
        layer_group(atoms.numbers, canonical.pos, atoms.cell.array, canonical.pbc, symprec)
    )


def lattice_of_group(group: int) -> str:
    """Lattice type of a layer group, "" of none (0)."""
    return LATTICES[moyopy.LayerGroupType(group).bravais_class] if group else ""
