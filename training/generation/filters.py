"""What is no structure worth a calculation, each as a sentence that says why, or None."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from mlff2d.atoms import canonical_slab
from mlff2d.contacts import BROKEN, Contacts

from .options import CLOSEST, MAX_ATOMS


def too_many(atoms: Atoms, most: int = MAX_ATOMS) -> str | None:
    """That a structure has more atoms than wanted."""
    return f"{len(atoms)} atoms, more than {most}" if len(atoms) > most else None


def too_close(atoms: Atoms, fraction: float = CLOSEST) -> str | None:
    """That two atoms are closer than a fraction of the sum of their covalent radii (Cordero)."""
    contacts = _contacts(atoms)
    if contacts.ratio.min(initial=np.inf) >= fraction:
        return None
    k = int(np.argmin(contacts.ratio))
    pair = " and ".join(str(atoms.symbols[i]) for i in (contacts.i[k], contacts.j[k]))
    return (
        f"{pair} are {contacts.distance[k]:.2f} Å apart, {contacts.ratio[k]:.2f} times the sum of "
        "their radii"
    )


def falls_apart(atoms: Atoms) -> str | None:
    """That a structure is not one layer, connected in both directions of the plane.

    Two atoms are connected up to `BROKEN` times the sum of their covalent radii. Layers that only
    van der Waals forces hold together, as in a bilayer, are several.
    """
    contacts = _contacts(atoms)
    pieces = contacts.n_pieces(BROKEN)
    if pieces > 1:
        return f"it is {pieces} pieces"
    dimension = contacts.dimension()
    if dimension < 2:
        return f"it is {('a molecule', 'a chain')[dimension]}, not connected to its images"
    return None


def _contacts(atoms: Atoms) -> Contacts:
    layer = canonical_slab(atoms)
    flat = Atoms(atoms.numbers, layer.pos, cell=atoms.cell, pbc=layer.pbc)
    return Contacts(flat, layer.pbc)
