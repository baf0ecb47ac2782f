"""Energies and forces of tiny random NequIP models in the package nequip.

pip install torch==2.13.0
pip install nequip==0.19.1
python tests/parity/make_nequip.py
"""

from importlib.metadata import version

import numpy as np
import reference
import torch
from ase import Atoms
from ase.data import chemical_symbols
from e3nn.math import normalize2mom
from nequip.data import compute_neighborlist_, from_ase
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state
from torch import nn

SYMBOLS = [chemical_symbols[z] for z in reference.ELEMENTS]
COMMON = {
    "type_names": SYMBOLS,
    "r_max": 4.5,
    "avg_num_neighbors": 11.0,
    "per_type_energy_shifts": {s: -1.0 - 0.3 * k for k, s in enumerate(SYMBOLS)},
    "per_type_energy_scales": 1.7,
}
VARIANTS = {
    # All irreps of both parities; a pseudoscalar needs this many layers to be felt.
    "parity": {
        "num_layers": 6,
        "l_max": 2,
        "parity": True,
        "num_features": 2,
        "type_embed_num_features": 3,
        "radial_mlp_depth": 2,
        "radial_mlp_width": 5,
        "num_bessels": 4,
        "polynomial_cutoff_p": 5,
    },
    # As the standard models: natural parity, fewer channels for greater l.
    "natural": {
        "num_layers": 3,
        "l_max": 2,
        "parity": False,
        "num_features": [6, 4, 3],
        "radial_mlp_depth": 1,
        "radial_mlp_width": 8,
        "num_bessels": 5,
        "bessel_trainable": True,
        "readout_mlp_hidden_layers_depth": 1,
        "readout_mlp_hidden_layers_width": 7,
    },
}


def evaluate(model: nn.Module, atoms: Atoms) -> tuple[float, np.ndarray]:
    """Total energy and forces."""
    data = compute_neighborlist_(from_ase(atoms), COMMON["r_max"])
    data["atom_types"] = torch.tensor([SYMBOLS.index(s) for s in atoms.symbols])
    out = model(data)
    return float(out["total_energy"].detach()), out["forces"].detach().numpy()


def main() -> None:
    set_global_state()
    gains = {
        "silu_gain": normalize2mom(nn.functional.silu).cst,
        "tanh_gain": normalize2mom(torch.tanh).cst,
    }
    for name, variant in VARIANTS.items():
        settings = {**COMMON, **variant}
        model = NequIPGNNModel(seed=1, model_dtype="float64", **settings).eval()
        torch.manual_seed(3)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "bessel" in key:
                    parameter += 0.1 * torch.rand_like(parameter)
                else:
                    # Strong messages, so that every layer matters.
                    size = 2.5 if "edge_mlp" in key else 1.0
                    parameter.copy_(size * torch.randn_like(parameter))
        structures = reference.inputs()
        results = [evaluate(model, atoms) for atoms in structures]
        weights = {
            key.removeprefix("model.func."): value.detach().numpy()
            for key, value in model.named_parameters()
        }
        reference.write(
            f"nequip-{name}",
            f"nequip {version('nequip')}",
            {**settings, **gains},
            weights,
            structures,
            [energy for energy, _ in results],
            [forces for _, forces in results],
        )


if __name__ == "__main__":
    main()
