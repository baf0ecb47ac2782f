"""SevenNet's public models, imported, against what sevenn says of them.

The models are inside the package sevenn and do not come into the project. Where they are, this
prints the greatest differences on the twenty shared structures, and the lattice constants of MoS2:

    python -m tests.parity.compare_sevenn FILE.npz FOLDER_OF_SEVENN/pretrained_potentials

FILE.npz is what `make_sevenn_import.py --public FILE.npz` has written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from ase.build import mx2

from mlff2d.atoms import to_graph
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.importers import sevennet
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.potential import Potential
from tests.parity.shared_structures import shared_structures

FILES = {
    "SevenNet-0": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "SevenNet-l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
}


def results(potential: Potential) -> tuple[np.ndarray, np.ndarray]:
    """Energies of the shared structures, and all their forces."""
    energies, forces = [], []
    for atoms in shared_structures():
        graph = to_graph(atoms, potential.cutoff).to(dtype=potential.dtype)
        found = potential(graph, virial=False)
        energies.append(float(found.energy))
        assert found.forces is not None
        forces.append(found.forces.double().numpy())
    return np.array(energies), np.concatenate(forces)


def lattice_constant(potential: Potential) -> float:
    """Of a monolayer of 1H-MoS2 in Å, relaxed in the plane."""
    atoms = mx2("MoS2", vacuum=7.5)
    calculator = MLFF2DCalculator(potential, dtype="float64")
    result = relax(atoms, calculator, RelaxSettings(fmax=1e-4, smax=1e-4))
    assert result.status == "converged"
    return float(result.atoms.cell.lengths()[0])


def main(stored: Path, folder: Path) -> None:
    """Print the table; the peer computes in float32."""
    torch.set_num_threads(1)
    print("model          precision  |dE| eV   |dF| eV/Å  a(MoS2) Å  the peer's")
    with np.load(stored) as peer:
        for name, file in FILES.items():
            potential = sevennet.convert(folder / file).potential
            for dtype in (torch.float32, torch.float64):
                potential = potential.to(dtype)
                energies, forces = results(potential)
                d_energy = np.abs(energies - peer[f"{name}/energies"]).max()
                d_force = np.abs(forces - peer[f"{name}/forces"]).max()
                line = f"{name:14} {str(dtype)[6:]:10} {d_energy:.1e}   {d_force:.1e}"
                if dtype == torch.float64:
                    found, expected = lattice_constant(potential), float(peer[f"{name}/mos2"])
                    line += f"    {found:.5f}    {expected:.5f}"
                print(line)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
