"""Geometry optimisations in the layout of the Alexandria database, pymatgen's dictionaries inside.

Run as a program it writes a large file: python -m tests.alexandria_files big.json.bz2 2000
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import IO, Any

from ase import Atoms
from ase.io.formats import open_with_compression

from tests.relaxations import relaxation
from tests.vasp_files import kbar


def structure(atoms: Atoms) -> dict[str, Any]:
    """As `Structure.as_dict` of pymatgen gives it."""
    a, b, c, alpha, beta, gamma = atoms.cell.cellpar().tolist()
    fractions = atoms.get_scaled_positions(wrap=False)
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": 0,
        "lattice": {
            "matrix": atoms.cell.array.tolist(),
            "pbc": [True, True, True],
            "a": a,
            "b": b,
            "c": c,
            "alpha": alpha,
            "beta": beta,
            "gamma": gamma,
            "volume": atoms.get_volume(),
        },
        "properties": {},
        "sites": [
            {
                "species": [{"element": symbol, "occu": 1}],
                "abc": abc.tolist(),
                "xyz": xyz.tolist(),
                "properties": {},
                "label": symbol,
            }
            for symbol, abc, xyz in zip(atoms.symbols, fractions, atoms.positions, strict=True)
        ],
    }


def run(steps: Sequence[Atoms]) -> dict[str, Any]:
    """One relaxation run; the stress is in kbar, compression positive."""
    return {
        "functional": "PBE",
        "kpoints": [7, 2, 1],
        "PREC": "high",
        "ENMAX": 520.0,
        "ENAUG": 446.842,
        "steps": [
            {
                "structure": structure(atoms),
                "energy": atoms.get_potential_energy(),
                "forces": atoms.get_forces().tolist(),
                "stress": kbar(atoms).tolist(),
            }
            for atoms in steps
        ],
    }


def main(path: str, n_materials: int) -> None:
    """A file of so many materials, with two runs of ten steps each."""
    text = json.dumps([run(relaxation(10)), run(relaxation(10, "Au"))])
    file: IO[str]
    with open_with_compression(path, "wt") as file:  # type: ignore[assignment]
        for number in range(n_materials):
            file.write(("{" if number == 0 else ", ") + f'"agm{number:09d}": {text}')
        file.write("}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
