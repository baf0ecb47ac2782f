"""Tiny random checkpoints of SevenNet with what it gives for them, and its public models.

    python -m venv env-sevenn
    env-sevenn/bin/pip install torch==2.13.0
    env-sevenn/bin/pip install e3nn ase braceexpand pyyaml tqdm scikit-learn torch_geometric \
        matscipy pandas requests ninja setuptools
    env-sevenn/bin/pip install --no-deps sevenn==0.13.0
    env-sevenn/bin/python tests/parity/make_sevenn_import.py
    env-sevenn/bin/python tests/parity/make_sevenn_import.py --public FILE.npz

Without arguments it writes `sevenn-tiny*.pth` and `sevenn-tiny*.npz` beside itself. With `--public`
it writes what the models inside sevenn say of the shared structures and of MoS2 into a file that
does not belong into the project; `compare_sevenn.py` compares it with the imported models.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import reference
import sevenn._keys as KEY
import torch
from ase.build import mx2
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from sevenn import _const
from sevenn.atom_graph_data import AtomGraphData
from sevenn.calculator import SevenNetCalculator
from sevenn.checkpoint import SevenNetCheckpoint
from sevenn.model_build import build_E3_equivariant_model
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.train.trainer import Trainer
from sevenn.util import chemical_species_preprocess
from shared_structures import shared_structures

PEER = f"sevenn {version('sevenn')}"
PUBLIC = {"SevenNet-0": "7net-0", "SevenNet-l3i5": "7net-l3i5"}
SHIFTS = [-1.5, 0.25, -3.0, 2.0, -0.75]
COMMON = {
    "cutoff": 4.0,
    "channel": 4,
    "lmax": 1,
    "num_convolution_layer": 2,
    "is_parity": False,
    "self_connection_type": "linear",
    "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5},
    "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 5},
    "weight_nn_hidden_neurons": [5, 6],
    "conv_denominator": 2.0,
    "shift": SHIFTS,
    "scale": 1.7,
}
VARIANTS = {
    # Such as SevenNet-0, written by the version at hand.
    "": {
        "lmax": 2,
        "num_convolution_layer": 3,
        "irreps_manual": ["4x0e", "4x0e+3x1e+2x2e", "4x0e+3x1e+2x2e", "4x0e"],
        "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 3.4},
        "conv_denominator": [4.0, 5.5, 3.0],
    },
    # Written by a version that sorted radial weights differently, with another sign of 3j symbols.
    "-old": {
        "version": "0.9.1",
        "lmax": 2,
        "num_convolution_layer": 3,
        "irreps_manual": ["5x0e", "4x0e+2x1e+2x2e", "4x0e+2x1e+2x2e", "4x0e"],
    },
    # What one gets without saying anything of irreps and self-connections.
    "-parity": {
        "lmax": 2,
        "num_convolution_layer": 4,
        "is_parity": True,
        "self_connection_type": "nequip",
        "channel": 3,
        "shift": -2.0,
        "scale": 2.0,
    },
}


def settings(changes: dict) -> dict:
    """A complete config, as the program `sevenn` would have made it of its input file."""
    symbols = ["H", "C", "S", "Cu", "Mo"]
    config = {
        **_const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG,
        **_const.DEFAULT_DATA_CONFIG,
        **_const.DEFAULT_TRAINING_CONFIG,
        **chemical_species_preprocess(symbols),
        "version": version("sevenn"),
        "_model_type": "E3_equivariant_model",
        KEY.IS_DDP: False,
        KEY.SCHEDULER_PARAM: {"gamma": 0.99},
        KEY.DEVICE: torch.device("cpu"),
        **COMMON,
        **changes,
    }
    n_layers = config["num_convolution_layer"]
    if not isinstance(config["conv_denominator"], list):
        config["conv_denominator"] = [config["conv_denominator"]] * n_layers
    return config


def write_checkpoint(path: Path, config: dict) -> None:
    """A model with random weights in a file, as a training writes it."""
    model = build_E3_equivariant_model(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".coeffs"):
                noise = torch.rand(parameter.shape, generator=generator)
                parameter.mul_(0.9 + 0.2 * noise)
            elif parameter.requires_grad:
                parameter.copy_(1.2 * torch.randn(parameter.shape, generator=generator))
        if config["version"].startswith("0.9"):
            for name, buffer in model.named_buffers():
                if name.endswith(("_w3j_1_1_2", "_w3j_1_2_2", "_w3j_2_2_1")):
                    buffer.neg_()
    trainer = Trainer.from_config(model, config)
    trainer.write_checkpoint(str(path), config=config, epoch=1)


def exact_model(path: Path) -> torch.nn.Module:
    """The model of a checkpoint, computing in float64."""
    model = SevenNetCheckpoint(str(path)).build_model().double().eval()
    model.set_is_batch_data(False)

    def precise(_module: torch.nn.Module, _inputs: tuple, data: dict) -> dict:
        for key in (KEY.NODE_FEATURE, KEY.NODE_ATTR):
            data[key] = data[key].double()
        return data

    # It makes the one-hot elements float32.
    model._modules["onehot_idx_to_onehot"].register_forward_hook(precise)
    return model


def exact_constants(model: torch.nn.Module) -> None:
    """3j symbols that are not rounded to float32, with the sign that they have."""
    from e3nn import o3

    for name, buffer in model.named_buffers():
        if "_w3j_" in name:
            symbol = o3.wigner_3j(*map(int, name.split("_w3j_")[1].split("_")), torch.float64)
            buffer.copy_(symbol * torch.sign((symbol * buffer).sum()))


def make(name: str, changes: dict) -> None:
    """Write a tiny checkpoint and what it gives."""
    config = settings(changes)
    path = reference.FOLDER / f"sevenn-tiny{name}.pth"
    write_checkpoint(path, dict(config))
    model = exact_model(path)
    exact_constants(model)
    energies, forces = [], []
    for atoms in reference.inputs():
        graph = unlabeled_atoms_to_graph(atoms, config["cutoff"], with_shift=False)
        edge_vec = torch.tensor(graph[KEY.EDGE_VEC], dtype=torch.float64)
        data = AtomGraphData.from_numpy_dict(graph)
        for key, value in data.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                data[key] = value.double()
        data[KEY.EDGE_VEC] = edge_vec
        found = model(data)
        energies.append(float(found[KEY.PRED_TOTAL_ENERGY].detach()))
        forces.append(found[KEY.PRED_FORCE].detach().numpy())
    structures = reference.inputs()
    reference.write(f"sevenn-tiny{name}", PEER, {}, {}, structures, energies, forces)


def lattice_constant(calculator: Calculator) -> float:
    """Of a monolayer of 1H-MoS2 in Å, relaxed in the plane."""
    atoms = mx2("MoS2", vacuum=7.5)
    atoms.pbc = True
    atoms.calc = calculator
    cell = FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 1])
    assert BFGS(cell, logfile=None).run(fmax=1e-4, steps=200)
    return float(np.linalg.norm(atoms.cell[0]))


def public(path: Path) -> None:
    """Energies and forces of the public models for the shared structures, and MoS2."""
    content = {"peer": PEER}
    for name, key in PUBLIC.items():
        calculator = SevenNetCalculator(key, device="cpu")
        energies, forces = [], []
        for atoms in shared_structures():
            atoms.calc = calculator
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
        content[f"{name}/energies"] = np.array(energies)
        content[f"{name}/forces"] = np.concatenate(forces)
        content[f"{name}/mos2"] = np.array(lattice_constant(calculator))
    np.savez_compressed(path, **content)


if __name__ == "__main__":
    torch.manual_seed(0)
    if sys.argv[1:2] == ["--public"]:
        public(Path(sys.argv[2]))
    else:
        for name, changes in VARIANTS.items():
            make(name, changes)
