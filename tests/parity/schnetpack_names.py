"""What schnetpack calls the settings and weights that SchNet and PaiNN share."""

from typing import Any

import torch
from torch import Tensor

from tests.parity.reference import ELEMENTS, Reference

SETTINGS = {
    "cutoff": "cutoff",
    "radial": "radial",
    "n_rbf": "n_radial",
    "n_atom_basis": "channels",
    "n_filters": "n_filters",
    "n_interactions": "n_blocks",
    "shared_interactions": "shared_blocks",
    "shared_filters": "shared_filters",
    "epsilon": "epsilon",
}


def settings_of(reference: Reference) -> dict[str, Any]:
    """The peer's settings in our words."""
    ours = {SETTINGS[key]: value for key, value in reference.settings.items()}
    return {"elements": ELEMENTS, "envelope": "cosine", **ours}


def weights_of(reference: Reference, names: dict[str, str]) -> dict[str, Tensor]:
    """The peer's weights by our names: those of layers, from ours to the peer's, are given.

    Embedding and readout are added. A layer of the peer may have no bias.
    """
    theirs = {key: torch.from_numpy(value) for key, value in reference.weights.items()}
    names = {"readout.hidden": "readout.outnet.0", "readout.out": "readout.outnet.1", **names}
    ours = {
        f"{our}.{part}": theirs[f"{their}.{part}"]
        for our, their in names.items()
        for part in ("weight", "bias")
        if f"{their}.{part}" in theirs
    }
    ours["embedding.weight"] = theirs["representation.embedding.weight"][list(ELEMENTS)]
    return ours
