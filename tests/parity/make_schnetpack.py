"""Tiny random SchNet and PaiNN models of schnetpack, with energies and forces.

    python -m venv env
    env/bin/pip install torch==2.13.0
    env/bin/pip install --no-deps schnetpack==2.0.4
    env/bin/pip install numpy ase tqdm pytorch-lightning torchmetrics hydra-core h5py tensorboard \
        hydra-colorlog rich fasteners dirsync torch-ema matscipy
    env/bin/python tests/parity/make_schnetpack.py
"""

import typing
from typing import Any

import numpy as np
import torch
import torch.utils.data.dataloader
from ase.neighborlist import neighbor_list
from reference import inputs, write

# schnetpack 2.0.4 imports this type variable, which newer versions of torch have no more.
torch.utils.data.dataloader.T_co = typing.TypeVar("T_co", covariant=True)  # type: ignore[attr-defined]

from schnetpack import properties  # noqa: E402
from schnetpack.atomistic import Atomwise, PairwiseDistances  # noqa: E402
from schnetpack.nn import BesselRBF, CosineCutoff, GaussianRBF, shifted_softplus  # noqa: E402
from schnetpack.representation import PaiNN, SchNet  # noqa: E402

MAX_Z = 43

MODELS: dict[str, dict[str, Any]] = {
    "schnet": {"radial": "gaussian", "n_atom_basis": 6, "n_filters": 5},
    "schnet-shared": {"radial": "bessel", "n_atom_basis": 5, "shared_interactions": True},
    "painn": {"radial": "gaussian", "n_atom_basis": 6},
    "painn-shared": {
        "radial": "bessel",
        "n_atom_basis": 5,
        "shared_interactions": True,
        "shared_filters": True,
        "epsilon": 1e-3,
    },
    "painn-filters": {"radial": "bessel", "n_atom_basis": 4, "shared_filters": True},
}
COMMON = {"n_interactions": 3, "n_rbf": 7, "cutoff": 5.0}


def build(name: str, settings: dict[str, Any]) -> torch.nn.ModuleDict:
    """A float64 model with random weights everywhere."""
    own = {k: v for k, v in settings.items() if k not in ("radial", "n_rbf", "cutoff")}
    n_rbf, cutoff = settings["n_rbf"], settings["cutoff"]
    gaussian = settings["radial"] == "gaussian"
    rbf = GaussianRBF(n_rbf, cutoff) if gaussian else BesselRBF(n_rbf, cutoff)
    kind, activation = (
        (SchNet, shifted_softplus) if "schnet" in name else (PaiNN, torch.nn.functional.silu)
    )
    representation = kind(
        radial_basis=rbf, cutoff_fn=CosineCutoff(cutoff), max_z=MAX_Z, activation=activation, **own
    )
    readout = Atomwise(settings["n_atom_basis"], activation=activation, output_key="energy")
    model = torch.nn.ModuleDict({"representation": representation, "readout": readout}).double()
    # The peer makes its constants in float32.
    if gaussian:
        rbf.offsets.copy_(torch.linspace(0.0, cutoff, n_rbf, dtype=torch.float64))
        rbf.widths.fill_(cutoff / (n_rbf - 1))
    else:
        rbf.freqs.copy_(torch.arange(1, n_rbf + 1, dtype=torch.float64) * torch.pi / cutoff)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def main() -> None:
    """Write every reference."""
    for seed, (name, special) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        settings = {**COMMON, **special}
        torch.set_default_dtype(torch.float32)
        model = build(name, settings)
        torch.set_default_dtype(torch.float64)
        structures, energies, forces = inputs(), [], []
        for atoms in structures:
            i, j, shift = neighbor_list("ijS", atoms, settings["cutoff"])
            batch = {
                properties.Z: torch.from_numpy(atoms.numbers.copy()),
                properties.R: torch.tensor(atoms.positions, requires_grad=True),
                properties.idx_i: torch.from_numpy(i),
                properties.idx_j: torch.from_numpy(j),
                properties.offsets: torch.from_numpy(shift @ atoms.cell.array),
                properties.idx_m: torch.zeros(len(atoms), dtype=torch.int64),
            }
            positions = batch[properties.R]
            batch = model["representation"](PairwiseDistances()(batch))
            energy = model["readout"](batch)["energy"].sum()
            (gradient,) = torch.autograd.grad(energy, positions)
            energies.append(float(energy.detach()))
            forces.append(-gradient.numpy())
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        write(
            f"schnetpack-{name}",
            "schnetpack 2.0.4",
            settings,
            weights,
            structures,
            energies,
            forces,
        )
        print(name, energies, np.abs(np.concatenate(forces)).max())


if __name__ == "__main__":
    main()
