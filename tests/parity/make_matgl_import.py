"""What matgl says of its public M3GNet potentials: the twenty shared structures, and MoS2.

    python -m venv env
    env/bin/pip install torch==2.13.0
    env/bin/pip install matgl==4.1.2
    env/bin/python tests/parity/make_matgl_import.py FOLDER_WITH_THE_CHECKPOINTS

These potentials were trained by matgl 1, whose messages went to the far end of the edge, so that
4.1.2 as it is gives wrong energies for them; that is undone here. matgl 1 in its turn added the
three-body sums to wrong edges. What it says as it is, is stored as well, by the same script in

    python -m venv env
    env/bin/pip install torch==2.13.0
    env/bin/pip install --no-deps dgl==2.1.0 matgl==1.3.0
    env/bin/pip install ase==3.25.0 pymatgen pydantic boto3 scipy networkx requests tqdm psutil \
        pandas torchdata lightning torch_geometric
"""

import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from ase.build import bulk, mx2
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from shared_structures import shared_structures

VERSION = version("matgl")
if VERSION.startswith("1."):
    # Compiled for an older torch, and not needed.
    sys.modules["dgl.graphbolt"] = ModuleType("dgl.graphbolt")

import matgl  # noqa: E402
from matgl.ext.ase import PESCalculator  # noqa: E402

FOLDER = Path(__file__).parent
CHECKPOINTS = ("M3GNet-MP-2021.2.8-PES", "M3GNet-MatPES-PBE-v2025.1-PES")


def lattice_constant(calc: Calculator) -> float:
    """Of a 1H monolayer of MoS2 relaxed in its plane, in Å."""
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=7.5)
    atoms.pbc = True
    atoms.calc = calc
    relaxed = FrechetCellFilter(atoms, mask=[True, True, False, False, False, True])
    BFGS(relaxed, logfile=None).run(fmax=1e-4, steps=200)
    return float(atoms.cell.lengths()[0])


def silicon(calc: Calculator) -> list[float]:
    """Energy of an atom of silicon in its cell, and in two cells as one."""
    energies = []
    for n in (1, 2):
        atoms = bulk("Si", a=5.43) * (n, 1, 1)
        atoms.calc = calc
        energies.append(atoms.get_potential_energy() / len(atoms))
    return energies


def main() -> None:
    """Write what this version says of each checkpoint."""
    old = VERSION.startswith("1.")
    matgl.set_default_dtype("float", 64)
    if not old:
        from make_matgl import far_end
        from matgl.layers import _graph_convolution

        _graph_convolution.M3GNetGraphConv.node_update_ = far_end
    for name in CHECKPOINTS:
        potential = matgl.load_model(Path(sys.argv[1]) / name).double()
        calc = PESCalculator(potential, stress_unit="eV/A3", use_voigt=True)
        energies, forces = [], []
        for atoms in shared_structures():
            atoms.calc = calc
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
        rest = {} if old else {"lattice_constant": lattice_constant(calc)}
        np.savez_compressed(
            FOLDER / f"import-{name}{'-as-it-is' if old else ''}.npz",
            peer=f"matgl {VERSION}",
            energies=np.array(energies),
            forces=np.concatenate(forces),
            silicon=np.array(silicon(calc)),
            **rest,
        )
        print(name, rest, silicon(calc), np.array(energies).dtype, torch.__version__)


if __name__ == "__main__":
    main()
