"""The weights of the package nequip by the names of ours."""

from __future__ import annotations

import math

import torch
from e3nn import o3
from torch import Tensor

from mlff2d.importers import e3nn_layout
from mlff2d.models.nequip import InteractionLayer, NequIP, NequIPConfig
from tests.parity import reference


def peer_model(peer: reference.Reference) -> NequIP:
    """A NequIP with the settings and weights of one of the package nequip."""
    given, weights = peer.settings, {k: torch.from_numpy(v) for k, v in peer.weights.items()}
    l_max, layers, parity = given["l_max"], given["num_layers"], given["parity"]
    n_features = given["num_features"]
    muls = [n_features] * (l_max + 1) if isinstance(n_features, int) else n_features
    hidden = o3.Irreps(
        (muls[degree], (degree, p))
        for degree in range(l_max + 1)
        for p in ((1, -1) if parity else ((-1) ** degree,))
    )
    depth = given.get("readout_mlp_hidden_layers_depth", 0)
    n_embedding = given.get("type_embed_num_features", muls[0])
    model = NequIP(
        NequIPConfig(
            elements=reference.ELEMENTS,
            cutoff=given["r_max"],
            n_layers=layers,
            hidden_irreps=str(hidden),
            l_max=l_max,
            embedding_channels=n_embedding,
            n_bessel=given["num_bessels"],
            trainable_bessel=given.get("bessel_trainable", False),
            radial_hidden=(given["radial_mlp_width"],) * given["radial_mlp_depth"],
            envelope_p=given.get("polynomial_cutoff_p", 6),
            avg_neighbors=given["avg_num_neighbors"],
            self_connection="embedding",
            first_self_connection=False,
            readout_hidden=(given.get("readout_mlp_hidden_layers_width"),) * depth,
        )
    ).double()

    def plain(prefix: str) -> list[Tensor]:
        """Its linear layers scale their weights, those behind a SiLU by sqrt(2) more."""
        names = sorted(name for name in weights if name.startswith(prefix))
        return [
            weights[name] * math.sqrt((2.0 if k else 1.0) / weights[name].shape[0])
            for k, name in enumerate(names)
        ]

    with torch.no_grad():
        model.embedding.copy_(weights["type_embed.embed_module.weight"])
        if model.config.trainable_bessel:
            model.basis.bessel.orders.copy_(weights["bessel_encode.bessel_weights"][0])
    irreps = o3.Irreps([(n_embedding, "0e")])
    gains: dict[o3.Irrep, float] = {}
    for k, layer in enumerate(model.layers):
        assert isinstance(layer, InteractionLayer)
        names = f"layer{k}_convnet.conv."
        wanted = hidden if k < layers - 1 else o3.Irreps([(muls[0], "0e")])
        reached = {p[2] for p in e3nn_layout.message_paths(irreps, l_max, [i for _, i in wanted])}
        out = o3.Irreps([(mul, ir) for mul, ir in wanted if ir in reached])
        first, *others = plain(names + "edge_mlp")
        first = first * e3nn_layout.bessel_ratio(given["r_max"], 2.0 / given["r_max"])
        theirs = e3nn_layout.InteractionWeights(
            irreps_in=irreps,
            irreps_out=out,
            paths=e3nn_layout.message_paths(irreps, l_max, reached),
            linear_in=weights[names + "linear_1.weight"],
            linear_out=weights[names + "linear_2.weight"],
            radial=[first, *others],
            self_connection=weights.get(names + "sc.weight"),
            n_attributes=n_embedding,
            message_scale=given["avg_num_neighbors"] ** -0.5,
        )
        e3nn_layout.fill_interaction(layer, theirs, gains)
        irreps, gains = out, e3nn_layout.gate_gains(out, given["silu_gain"], given["tanh_gain"])
    first, *others = plain("per_atom_energy_readout")
    e3nn_layout.fill_mlp(model.readout, [first * gains[o3.Irrep("0e")], *others])
    return model
