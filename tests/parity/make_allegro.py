"""Tiny random models of nequip-allegro and what they give. See `reference.py`.

python -m venv env-allegro
env-allegro/bin/pip install torch==2.13.0
env-allegro/bin/pip install nequip==0.19.1 nequip-allegro==0.8.3
env-allegro/bin/python tests/parity/make_allegro.py
"""

from importlib.metadata import version

import reference
import torch
from allegro.model import AllegroModel
from nequip.data import from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.utils.global_state import set_global_state

SYMBOLS = ["H", "C", "S", "Cu", "Mo"]
BASE = {
    "r_max": 4.0,
    "l_max": 1,
    "parity": True,
    "num_layers": 2,
    "num_scalar_features": 4,
    "num_tensor_features": 3,
    "radial_chemical_embed": {
        "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
        "num_bessels": 4,
        "polynomial_cutoff_p": 6,
    },
    "scalar_embed_mlp_hidden_layers_depth": 1,
    "scalar_embed_mlp_hidden_layers_width": 6,
    "allegro_mlp_hidden_layers_depth": 1,
    "allegro_mlp_hidden_layers_width": 6,
    "readout_mlp_hidden_layers_depth": 1,
    "readout_mlp_hidden_layers_width": 5,
    "avg_num_neighbors": 11.0,
}
VARIANTS = {
    "l1": {},
    "l2": {
        "l_max": 2,
        "radial_chemical_embed": {**BASE["radial_chemical_embed"], "polynomial_cutoff_p": 5},
        "scalar_embed_mlp_hidden_layers_depth": 2,
    },
    "l2-three-layers": {
        "l_max": 2,
        "num_layers": 3,
        "allegro_mlp_hidden_layers_depth": 2,
        "readout_mlp_hidden_layers_depth": 0,
    },
    "l2-no-parity": {
        "l_max": 2,
        "num_layers": 3,
        "parity": False,
        "allegro_mlp_hidden_layers_depth": 0,
    },
}


def make(name: str, settings: dict) -> None:
    """Build, evaluate and store one model."""
    model = AllegroModel(seed=1, model_dtype="float64", type_names=SYMBOLS, **settings)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    to_types = ChemicalSpeciesToAtomTypeMapper(SYMBOLS)
    neighbours = NeighborListTransform(r_max=settings["r_max"])
    structures = reference.inputs()
    energies, forces = [], []
    for atoms in structures:
        found = model(neighbours(to_types(from_ase(atoms))))
        energies.append(float(found["total_energy"].detach()))
        forces.append(found["forces"].detach().numpy())
    reference.write(
        f"nequip-allegro-{name}",
        f"nequip-allegro {version('nequip-allegro')} on nequip {version('nequip')}",
        settings,
        {key: p.detach().numpy() for key, p in model.named_parameters()},
        structures,
        energies,
        forces,
    )


if __name__ == "__main__":
    set_global_state()
    for name, changes in VARIANTS.items():
        make(name, {**BASE, **changes})
