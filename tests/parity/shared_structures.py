"""Twenty varied monolayers of the shared data, on which imported models must equal their peers.

Neither this file nor the stored results hold the structures; only who has the data can run these.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

FILE = Path(__file__).parents[3] / "shared" / "data" / "monolayers_2dmatpedia.extxyz.gz"
MAX_ATOMS = 12


def shared_structures(n: int = 20) -> list[Atoms]:
    """Monolayers evenly spaced through the file, rattled, pbc TTT with 15 Å of vacuum."""
    with gzip.open(FILE, "rt") as file:
        frames = ase.io.read(io.StringIO(file.read()), ":", format="extxyz")
    small = [atoms for atoms in frames if len(atoms) <= MAX_ATOMS]
    chosen = []
    for k in np.linspace(0, len(small) - 1, n).astype(int):
        atoms = small[k].copy()
        atoms.info = {}
        atoms.rattle(0.05, seed=int(k))
        atoms.center(vacuum=7.5, axis=2)
        atoms.pbc = True
        chosen.append(atoms)
    return chosen
