"""CIF files as tables of properties name them: one ordered structure a file."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms

from mlff2d.errors import StructureError
from mlff2d.reading import iter_structures


def read_cif(path: Path) -> Atoms:
    """The first structure of a CIF file.

    Raises StructureError for a file that is missing or unreadable, and for sites that are partly
    occupied: ASE keeps one atom of each such site, which is another structure.
    """
    _, atoms = next(iter_structures(path))
    if isinstance(atoms, StructureError):
        raise atoms
    refuse_disorder(atoms)
    return atoms


def refuse_disorder(atoms: Atoms) -> None:
    """Raise StructureError where a CIF file gave a site no element or several for certain."""
    occupancy = atoms.info.get("occupancy")
    if not isinstance(occupancy, dict):
        return
    for site in occupancy.values():
        if isinstance(site, dict) and (len(site) > 1 or sum(site.values()) < 0.999):
            what = " ".join(f"{symbol} {share:g}" for symbol, share in site.items())
            raise StructureError(
                f"a site is partly occupied ({what}); give an ordered cell of the compound"
            )
