"""Small alloys whose energies are known by construction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import mx2
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.training.alloys.config import SystemConfig
from mlff2d.training.alloys.system import System, build_system
from mlff2d.training.generation.alloys import Alloy, Sublattice, distinct

ENDS = {"Mo": -22.10, "W": -22.25, "Nb": -21.76}
"""eV per formula unit."""


def parent_file(folder: Path, formula: str = "MoS2") -> Path:
    """A 1H layer in a file."""
    path = folder / f"{formula}.extxyz"
    ase.io.write(path, mx2(formula, "2H", 3.18, 3.13, vacuum=8.0))
    return path


def pairs(atoms: Atoms, species: str, reach: float = 1.1) -> float:
    """Mean number of neighbours of the same kind, among the sites of a hexagonal lattice.

    Counted over sites with `species` or not, at up to `reach` lattice constants, as +1 for like and
    -1 for unlike: what a cluster expansion with pairs describes exactly.
    """
    metal = atoms[[k for k, s in enumerate(atoms.symbols) if s != "S"]]
    a = np.sqrt(2 / np.sqrt(3) * abs(np.linalg.det(atoms.cell.array[:2, :2])) / len(metal))
    spin = np.where(np.array(list(metal.symbols)) == species, 1, -1)
    total = 0.0
    span = range(-6, 7)
    for i, j in np.ndindex(len(metal), len(metal)):
        for m in span:
            for n in span:
                vector = (
                    metal.positions[j] - metal.positions[i] + m * atoms.cell[0] + n * atoms.cell[1]
                )
                if 0.1 < np.linalg.norm(vector[:2]) < reach * a:
                    total += spin[i] * spin[j]
    return total / len(metal)


def ising(species: tuple[str, str], coupling: float = 0.004) -> Callable[[Atoms], float]:
    """Energy in eV per site: that of the end members, and `coupling` for each like neighbour."""

    def energy(atoms: Atoms) -> float:
        symbols = list(atoms.symbols)
        n = sum(symbols.count(one) for one in species)
        ideal = sum(symbols.count(one) / n * ENDS[one] for one in species)
        return ideal + coupling * (pairs(atoms, species[1]) - 6)

    return energy


def system_config(folder: Path, species: tuple[str, ...] = ("Mo", "W")) -> SystemConfig:
    """The alloy of MoS2 with these species."""
    return SystemConfig(parent=parent_file(folder), sublattice="Mo", species=species, phase="1H")


def frames(
    folder: Path,
    energy: Callable[[Atoms], float],
    species: tuple[str, ...] = ("Mo", "W"),
    max_sites: int = 4,
) -> list[Atoms]:
    """All distinct cells with an energy each, as if DFT had relaxed them."""
    parent = ase.io.read(parent_file(folder))
    made = list(distinct(Alloy(parent, [Sublattice("Mo", species)], phase="1H"), max_sites))
    for atoms in made:
        n = len(atoms) // 3
        atoms.calc = SinglePointCalculator(atoms, energy=energy(atoms) * n)
    return made


def ising_system(folder: Path, coupling: float = 0.004, max_sites: int = 4) -> System:
    """MoWS2 with the energies of `ising`."""
    energy = ising(("Mo", "W"), coupling)
    return build_system(
        system_config(folder), frames(folder, energy, max_sites=max_sites), 0.1, 0.5
    )
