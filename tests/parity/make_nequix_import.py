"""What nequix says of tiny random models, and of its public checkpoints.

The latter on the twenty shared structures, and the lattice constant of MoS2.

    pip install "torch>=2.11,<2.14" ase matscipy e3nn scipy jax equinox jraph optax h5py tqdm \
        pyyaml attrs sympy requests aiohttp torch_geometric xxhash psutil cloudpickle
    pip install --no-deps nequix==0.4.5 e3nn_jax
    python tests/parity/make_nequix_import.py FOLDER_WITH_THE_NQX_FILES

With `--time` behind the folder it measures milliseconds for energy and forces of MoS2 instead, in
float32 on one thread.
"""

import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import reference
import torch
from ase import Atoms
from ase.build import mx2
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from matscipy.neighbours import neighbour_list
from nequix.calculator import NequixCalculator
from nequix.torch_impl.model import NequixTorch
from shared_structures import shared_structures

FOLDER = Path(__file__).parent
CHECKPOINTS = ("nequix-oam-1-pft", "nequix-omat-1")


class Exact(Calculator):
    """nequix's model on PyTorch in float64, into which its own calculator puts float32."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def __init__(self, model: NequixTorch, settings: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.numbers = model.double(), sorted(settings["atomic_numbers"])
        energies = [settings["atom_energies"][str(z)] for z in self.numbers]
        self.model.atom_energies = torch.tensor(energies, dtype=torch.float64)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: tuple[str, ...] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        receiver, neighbour, shift = neighbour_list("ijS", atoms, self.model.cutoff)
        energies, forces, stress = self.model(
            torch.tensor([self.numbers.index(z) for z in atoms.numbers]),
            torch.tensor(atoms.positions),
            torch.tensor(shift, dtype=torch.float64),
            torch.tensor(np.array([neighbour, receiver]), dtype=torch.int64),
            torch.tensor(atoms.cell.array)[None],
            torch.tensor([len(atoms)]),
            torch.tensor([len(receiver)]),
            torch.zeros(len(atoms), dtype=torch.int64),
        )
        self.results = {
            "energy": float(energies.detach().sum()),
            "forces": forces.detach().numpy(),
            "stress": full_3x3_to_voigt_6_stress(stress.detach()[0].numpy()),
        }


TINY = {
    "atomic_numbers": list(reference.ELEMENTS),
    "atom_energies": {str(z): -0.5 - 0.1 * z for z in reference.ELEMENTS},
    "cutoff": 4.5,
    "hidden_irreps": "4x0e+3x1o+2x2e",
    "lmax": 2,
    "n_layers": 3,
    "radial_basis_size": 4,
    "radial_mlp_size": 6,
    "radial_mlp_layers": 2,
    "radial_polynomial_p": 5.0,
    "index_weights": False,
    "layer_norm": True,
    "shift": -1.3,
    "scale": 0.7,
    "avg_n_neighbors": 13.0,
}


def tiny_model(settings: dict[str, Any]) -> NequixTorch:
    """A random model in float64."""
    known = {k: v for k, v in settings.items() if k not in ("atomic_numbers", "atom_energies")}
    model = NequixTorch(n_species=len(settings["atomic_numbers"]), **known)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = 1.0 if "radial" in name or "norm" in name else 1.5
            parameter.copy_(size * torch.randn_like(parameter))
    return model


def as_in_a_file(calc: Exact) -> dict[str, np.ndarray]:
    """The weights in the order of a .nqx file, named by their place in it."""
    model = calc.model
    arrays = [model.atom_energies]
    for layer in model.layers:
        arrays += [part.weights for part in layer.radial_mlp.layers]
        for linear in (layer.linear_1, layer.linear_2, layer.skip):
            arrays += linear.weight_views()
        arrays += [] if layer.layer_norm is None else layer.layer_norm.affine_weight
    arrays += model.readout.weight_views()
    return {f"{k:03d}": array.detach().numpy() for k, array in enumerate(arrays)}


def write_tiny(name: str, settings: dict[str, Any]) -> None:
    """Store a tiny random model and what it gives."""
    torch.set_default_dtype(torch.float64)
    calc = Exact(tiny_model(settings), settings)
    structures = reference.inputs()
    energies, forces = [], []
    for atoms in structures:
        atoms.calc = calc
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    peer, weights = f"nequix {version('nequix')}", as_in_a_file(calc)
    reference.write(name, peer, settings, weights, structures, energies, forces)


def load(file: Path) -> NequixCalculator:
    """nequix's own calculator, on PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        # It writes a copy for PyTorch beside the file.
        copy = Path(folder) / file.name
        copy.write_bytes(file.read_bytes())
        return NequixCalculator(file.stem, model_path=copy, backend="torch", use_kernel=False)


def lattice_constant(calc: Calculator) -> float:
    """Of a 1H monolayer of MoS2 relaxed in its plane, in Å."""
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=7.5)
    atoms.pbc = True
    atoms.calc = calc
    relaxed = FrechetCellFilter(atoms, mask=[True, True, False, False, False, True])
    BFGS(relaxed, logfile=None).run(fmax=1e-4, steps=200)
    return float(atoms.cell.lengths()[0])


def milliseconds(calc: Calculator, size: int) -> float:
    """For energy and forces of size x size cells of MoS2, the best of five."""
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=7.5) * (size, size, 1)
    atoms.pbc = True
    atoms.calc = calc
    times = []
    for k in range(6):
        atoms.rattle(0.01, seed=k)
        start = time.perf_counter()
        atoms.get_forces()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times[1:])


def main() -> None:
    write_tiny("nequix-norm", TINY)
    write_tiny("nequix-no-norm", TINY | {"layer_norm": False})
    torch.set_default_dtype(torch.float32)
    folder = Path(sys.argv[1])
    if sys.argv[2:] == ["--time"]:
        torch.set_num_threads(1)
        calc = load(folder / f"{CHECKPOINTS[0]}.nqx")
        print([round(milliseconds(calc, size), 1) for size in (1, 2, 5)])
        return
    for name in CHECKPOINTS:
        own = load(folder / f"{name}.nqx")
        calc = Exact(own.model, own.config)
        energies, forces = [], []
        for atoms in shared_structures():
            atoms.calc = calc
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
        np.savez_compressed(
            FOLDER / f"import-{name}.npz",
            peer=f"nequix {version('nequix')}",
            energies=np.array(energies),
            forces=np.concatenate(forces),
            lattice_constant=lattice_constant(calc),
        )


if __name__ == "__main__":
    main()
