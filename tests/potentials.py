"""Small random potentials for tests."""

import torch

from mlff2d.models import REGISTRY, build_model
from mlff2d.potential import Potential

ELEMENTS = (1, 6, 16, 29, 42)

SMALL: dict[str, dict[str, object]] = {
    "alignn": {
        "elements": ELEMENTS,
        "cutoff": 4.5,
        "angle_cutoff": 3.5,
        "n_radial": 20,
        "n_angular": 10,
        "embedding": 8,
        "channels": 8,
    },
    "allegro": {
        "elements": ELEMENTS,
        "cutoff": 4.5,
        "n_layers": 3,
        "l_max": 2,
        "scalar_channels": 8,
        "tensor_channels": 4,
        "embed_hidden": (8,),
        "layer_hidden": (8,),
        "readout_hidden": (8,),
    },
    "cgcnn": {
        "elements": ELEMENTS,
        "cutoff": 4.5,
        "channels": 8,
        "n_convolutions": 2,
        "hidden": (16,),
    },
    "m3gnet": {"elements": ELEMENTS, "cutoff": 4.5, "threebody_cutoff": 3.5, "channels": 8},
    "mace": {
        "elements": ELEMENTS,
        "cutoff": 4.5,
        "hidden_irreps": "6x0e+6x1o",
        "l_max": 2,
        "n_bessel": 6,
        "radial_hidden": (16, 16),
    },
    "megnet": {
        "elements": ELEMENTS,
        "cutoff": 4.5,
        "n_gaussians": 12,
        "embedding": 8,
        "input_sizes": (12, 8),
        "block_sizes": (12, 8),
        "n_blocks": 2,
        "readout_sizes": (8,),
    },
    "nequip": {
        "elements": ELEMENTS,
        "cutoff": 4.5,
        "hidden_irreps": "6x0e+4x1o+2x2e",
        "l_max": 2,
        "n_layers": 2,
    },
    "painn": {"elements": ELEMENTS, "cutoff": 4.5, "n_radial": 6, "channels": 8},
    "schnet": {"elements": ELEMENTS, "cutoff": 4.5, "n_radial": 8, "channels": 8, "n_blocks": 3},
}
assert SMALL.keys() == REGISTRY.keys(), "every model is tested"


def random_potential(name: str, zbl: bool = True, seed: int = 0) -> Potential:
    """A float64 potential of a registered model with random weights."""
    torch.manual_seed(seed)
    model = build_model(name, SMALL[name])
    references = {z: -1.0 - 0.37 * z for z in ELEMENTS}
    return Potential(model, references, scale=1.7, zbl=zbl).double().eval()
