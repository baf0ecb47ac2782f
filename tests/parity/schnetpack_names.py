"""What schnetpack calls the settings and weights that SchNet and PaiNN share."""

from typing import Any

import torch
from torch import Tensor

from mlff2d.models.painn import PaiNN
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


def painn_weights(reference: Reference, model: PaiNN) -> dict[str, Tensor]:
    """Weights of schnetpack's PaiNN by our names, rows in our order."""
    c = model.config.channels
    names: dict[str, str] = {}
    for k in range(len(model.messages)):
        interaction = f"representation.interactions.{k}.interatomic_context_net"
        mixing = f"representation.mixing.{k}"
        names |= {
            f"messages.{k}.hidden": f"{interaction}.0",
            f"messages.{k}.out": f"{interaction}.1",
            f"updates.{k}.mix": f"{mixing}.mu_channel_mix",
            f"updates.{k}.hidden": f"{mixing}.intraatomic_context_net.0",
            f"updates.{k}.out": f"{mixing}.intraatomic_context_net.1",
        }
    weights = weights_of(reference, names)
    for k in range(len(model.updates)):
        for part in ("weight", "bias"):
            # There the part for vectors stands between the two for scalars.
            key = f"updates.{k}.out.{part}"
            scalars, vectors, products = weights[key].split(c)
            weights[key] = torch.cat([scalars, products, vectors])
    for part in ("weight", "bias"):
        # There the filters of all blocks are one layer.
        joined = torch.from_numpy(reference.weights[f"representation.filter_net.{part}"])
        for k, rows in enumerate(joined.split(3 * c)):
            weights[f"filters.{k}.{part}"] = rows
    return weights
