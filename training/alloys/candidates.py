"""Cells of an alloy without DFT results, whose formation energies are predicted."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ase import Atoms

from mlff2d.errors import StructureError

from ..generation.alloys import distinct, divisors, quasirandom, random_cells
from .config import CellsConfig
from .system import Configuration, System, configuration, free_name

MOST = 300_000
"""Arrangements that are looked through at most; about one of thirty is distinct."""


def candidates(system: System, cells: CellsConfig, seed: int) -> Iterator[Configuration]:
    """Distinct configurations without DFT results, of the sizes asked for.

    No two have one name, and none that of a configuration of the system. Quasirandom cells that
    cannot be made are noted in `system.notes`. Raises StructureError where not even the parent has
    as few shared sites as `cells.max_sites`, and where cells of that many are too many.
    """
    seen = {system.lattice.fingerprint(one.ideal) for one in system.configurations}
    taken = {one.name for one in system.configurations}
    for atoms in _made(system, cells, seed):
        ideal = system.lattice.on_sites(atoms)
        fingerprint = system.lattice.fingerprint(ideal)
        if fingerprint not in seen:
            seen.add(fingerprint)
            yield configuration(system, ideal, free_name(str(atoms.info["config"]), taken))


def _made(system: System, cells: CellsConfig, seed: int) -> Iterator[Atoms]:
    if system.alloy.n_sites > cells.max_sites:
        raise StructureError(
            f"{system.name}: the smallest cell has {system.alloy.n_sites} shared sites, and "
            f"cells.max_sites is {cells.max_sites}; give at least {system.alloy.n_sites}"
        )
    _refuse_many(system, cells.max_sites)
    yield from distinct(system.alloy, cells.max_sites)
    for size in cells.sizes:
        if cells.sqs:
            for one in quasirandom(system.alloy, size, cells.shares, cells.sqs, seed):
                if isinstance(one, Atoms):
                    yield one
                    continue
                # What follows names options of another command.
                why = str(one).partition(";")[0]
                note = (
                    f"no quasirandom cells of {size} primitive cells: {why}; change cells.sizes "
                    "or cells.shares"
                )
                if note not in system.notes:
                    system.notes.append(note)
        if cells.random:
            yield from random_cells(system.alloy, size, cells.shares, cells.random, seed)


def _refuse_many(system: System, max_sites: int) -> None:
    """Raise StructureError where there are more cells than can be looked through."""
    n_sites, ways = system.alloy.n_sites, prod(map(len, system.lattice.species))
    arrangements = 0
    for cells in range(1, max_sites // n_sites + 1):
        arrangements += sum(divisors(cells)) * ways**cells
        if arrangements > MOST:
            raise StructureError(
                f"{system.name}: cells of up to {max_sites} shared sites are too many to make them "
                f"all; give cells.max_sites of at most {(cells - 1) * n_sites}, and larger cells "
                "by cells.random or cells.sqs"
            )
