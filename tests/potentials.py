"""Small random potentials for tests."""

import torch

from mlff2d.models import REGISTRY, build_model
from mlff2d.potential import Potential

ELEMENTS = (1, 6, 16, 29, 42)

SMALL: dict[str, dict[str, object]] = {
    "m3gnet": {"elements": ELEMENTS, "cutoff": 4.5, "threebody_cutoff": 3.5, "channels": 8},
    "nequip": {
        "elements": ELEMENTS,
        "cutoff": 4.5,
        "hidden_irreps": "6x0e+4x1o+2x2e",
        "l_max": 2,
        "n_layers": 2,
    },
}
assert SMALL.keys() == REGISTRY.keys(), "every model is tested"


def random_potential(name: str, zbl: bool = True, seed: int = 0) -> Potential:
    """A float64 potential of a registered model with random weights."""
    torch.manual_seed(seed)
    model = build_model(name, SMALL[name])
    references = {z: -1.0 - 0.37 * z for z in ELEMENTS}
    return Potential(model, references, scale=1.7, zbl=zbl).double().eval()
