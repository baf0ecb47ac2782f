"""Whether what came out of a relaxation, or is on its way, is still the layer that went in.

What counts as a bond is told by `mlff2d.contacts`.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.contacts import BONDED, BROKEN, COLLAPSED, Contacts

_GAP_GROWTH = 1.0  # Å


class Layer:
    """A slab in one piece along its normal, and which of its atoms are near each other.

    Parameters
    ----------
    atoms : in the form of `mlff2d.slab.canonical`; not to be changed afterwards
    pbc : (3,) periodicity, False along the vacuum
    """

    def __init__(self, atoms: Atoms, pbc: NDArray[np.bool_]) -> None:
        self.atoms = atoms
        self.pbc = np.asarray(pbc, dtype=bool)

    @cached_property
    def contacts(self) -> Contacts:
        """Pairs of atoms that may be bonded, those with periodic images in the plane included."""
        return Contacts(self.atoms, self.pbc)

    @cached_property
    def normal(self) -> NDArray[np.floating]:
        """(3,) unit normal."""
        return slab.normal(self.atoms.cell.array, self.pbc)

    @cached_property
    def heights(self) -> NDArray[np.floating]:
        """(N,) Å along the normal."""
        return np.asarray(self.atoms.positions @ self.normal)

    @property
    def thickness(self) -> float:
        """Å between the lowest and the highest nucleus."""
        return float(np.ptp(self.heights))

    @cached_property
    def widest_gap(self) -> float:
        """Å, the largest difference of heights of two atoms with none between them."""
        return float(np.diff(np.sort(self.heights)).max(initial=0.0))


def collapsed(layer: Layer) -> str:
    """A sentence on the two atoms that fell onto each other, "" where none did."""
    contacts = layer.contacts
    if contacts.ratio.min(initial=np.inf) >= COLLAPSED:
        return ""
    k = int(np.argmin(contacts.ratio))
    i, j = contacts.i[k], contacts.j[k]
    return (
        f"atoms {i} ({layer.atoms.symbols[i]}) and {j} ({layer.atoms.symbols[j]}) fell onto each "
        f"other ({contacts.distance[k]:.2f} Å)"
    )


def detached(before: Layer, after: Layer) -> str:
    """A sentence on how a layer fell apart, "" where it did not.

    It did where bonds of the start are broken such that there are more pieces than before, or
    where a vacuum opened inside it, as between the layers of a bilayer that drift apart.
    """
    if len(before.contacts.not_in(after.contacts)):
        pieces = after.contacts.n_pieces(BROKEN), before.contacts.n_pieces(BONDED)
        if pieces[0] > pieces[1]:
            return f"the layer fell into {pieces[0]} pieces ({pieces[1]} before)"
    gap_before, gap_after = before.widest_gap, after.widest_gap
    if gap_after > max(slab.MIN_VACUUM, gap_before + _GAP_GROWTH):
        return f"parts of the slab drifted {gap_after:.1f} Å apart ({gap_before:.1f} Å before)"
    return ""


def merged(before: Layer, after: Layer, vacuum: NDArray[np.floating]) -> str:
    """A sentence on how a layer bonded to its own image across the vacuum, "" where it did not.

    `vacuum` is the third lattice vector (3,) as the structure was given, periodic or not. Where it
    held no vacuum at the start it says nothing about images.
    """
    height = abs(float(vacuum @ before.normal))
    if height - before.thickness < slab.MIN_VACUUM:
        return ""
    reach = 2 * BONDED * float(covalent_radii[after.atoms.numbers].max())
    if height - after.thickness > reach:
        return ""
    stacked = after.atoms.copy()
    axis = int(np.flatnonzero(~after.pbc)[0])
    stacked.cell[axis] = vacuum
    contacts = Contacts(stacked, np.ones(3, dtype=bool))
    bonds = np.flatnonzero((contacts.ratio < BONDED) & (contacts.shift[:, axis] != 0))
    if not len(bonds):
        return ""
    k = bonds[np.argmin(contacts.ratio[bonds])]
    i, j = contacts.i[k], contacts.j[k]
    return (
        f"atom {i} ({after.atoms.symbols[i]}) is bonded to {j} ({after.atoms.symbols[j]}) of the "
        f"layer's image across the vacuum ({contacts.distance[k]:.2f} Å); give the cell more vacuum"
    )


def recoordinated(before: Layer, after: Layer) -> str:
    """A sentence on bonds that were made or broken, "" where none were."""
    changes = []
    for what, here, other in (
        ("made", after.contacts, before.contacts),
        ("broken", before.contacts, after.contacts),
    ):
        found = here.not_in(other)
        if len(found):
            symbols = before.atoms.symbols
            i, j = here.i[found[0]], here.j[found[0]]
            plural = f"{len(found)} bonds were" if len(found) > 1 else "a bond was"
            changes.append(f"{plural} {what} ({symbols[i]} {i} and {symbols[j]} {j})")
    return ", ".join(changes)
