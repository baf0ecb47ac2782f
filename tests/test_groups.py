"""Which parameters are trained, how fast, and what is said of it."""

from __future__ import annotations

from io import StringIO

import pytest
import torch
from rich.console import Console

from mlff2d.models import REGISTRY, build_model
from mlff2d.potential import Potential
from mlff2d.training.config import ConfigError
from mlff2d.training.finetuning.adapters import add_adapters
from mlff2d.training.groups import (
    abbreviated,
    block_depths,
    freeze,
    groups_table,
    named_weights,
    parameter_groups,
)
from mlff2d.training.sections import AdapterConfig, FinetuneConfig, TrainConfig

ELEMENTS = (6, 16, 42)

DEPTHS = {
    "alignn": [
        "angle_embedding atom_embedding bond_embedding",
        "alignn_layers.0",
        "alignn_layers.1",
        "gcn_layers.0",
        "gcn_layers.1",
        "readout",
    ],
    "allegro": [
        "embed first_scalars first_tensor neighbour_embedding radial receiver_embedding",
        "layers.0 products.0",
        "layers.1 products.1",
        "edge_readout readout",
    ],
    "cgcnn": ["embedding", "convolutions.0", "convolutions.1", "convolutions.2", "readout"],
    "m3gnet": ["edge_embedding embedding", "blocks.0", "blocks.1", "blocks.2", "readout"],
    "mace": ["embedding", "layers.0", "layers.1", "readout"],
    "megnet": [
        "atom_encoder edge_encoder embedding first_state",
        "blocks.0",
        "blocks.1",
        "blocks.2",
        "readout",
    ],
    "nequip": ["embedding", "layers.0", "layers.1", "layers.2", "readout"],
    "painn": ["embedding"]
    + [f"filters.{k} messages.{k} updates.{k}" for k in range(3)]
    + ["readout"],
    "schnet": ["embedding"] + [f"blocks.{k} filters.{k}" for k in range(6)] + ["readout"],
}
"""What lies at each depth of the nine architectures as they are without settings."""


def potential(name: str = "m3gnet", **settings: object) -> Potential:
    fields = REGISTRY[name].Config.__dataclass_fields__
    known = {"elements": ELEMENTS, "avg_neighbors": 10.0} | settings
    model = build_model(name, {key: value for key, value in known.items() if key in fields})
    return Potential(model, dict.fromkeys(ELEMENTS, 0.0))


def small() -> Potential:
    return potential(channels=8, n_blocks=2)


def factors(module: Potential, finetune: FinetuneConfig) -> dict[str, float]:
    """Factor on the learning rate of each trained parameter by name."""
    freeze(module, finetune)
    names = {id(p): name for name, p in named_weights(module).items()}
    groups = parameter_groups(module, TrainConfig(), finetune)
    return {names[id(p)]: group["lr_factor"] for group in groups for p in group["params"]}


@pytest.mark.parametrize("name", REGISTRY)
def test_depth_runs_from_the_embedding_through_the_blocks_to_the_readout(name):
    module = potential(name)
    parts: dict[int, set[str]] = {}
    depths = block_depths(module)
    assert depths.keys() == named_weights(module).keys()
    in_lists = {part.split(".")[0] for row in DEPTHS[name] for part in row.split() if "." in part}
    for weight, depth in depths.items():
        child, *rest = weight.split(".")
        parts.setdefault(depth, set()).add(f"{child}.{rest[0]}" if child in in_lists else child)
    assert [" ".join(sorted(parts[depth])) for depth in sorted(parts)] == DEPTHS[name]
    assert sorted(parts) == list(range(len(DEPTHS[name])))


def test_without_fine_tuning_decay_is_all_that_tells_groups_apart():
    module = small()
    matrices, vectors = parameter_groups(module, TrainConfig(weight_decay=0.1))
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim > 1 for p in matrices["params"])
    assert all(p.ndim == 1 for p in vectors["params"])
    assert matrices["lr_factor"] == vectors["lr_factor"] == 1.0
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(module.parameters()))


def test_learning_rate_falls_with_the_distance_from_the_readout():
    found = factors(small(), FinetuneConfig(layer_decay=0.5, lr={"bias": 0.1, r"readout.*bias": 3}))
    assert found["embedding.weight"] == 0.125
    assert found["blocks.0.edge_weight.weight"] == 0.25
    assert found["blocks.1.edge_weight.weight"] == 0.5
    assert found["readout.layers.0.weight"] == 1.0
    assert found["edge_embedding.bias"] == pytest.approx(0.0125)
    assert found["readout.layers.0.bias"] == 3.0, "of several rules the last that matches holds"


def test_what_is_frozen_is_in_no_group():
    module = small()
    found = factors(module, FinetuneConfig(freeze=(r"^blocks\.0", "embedding"), lr={"gates": 0}))
    assert not any("blocks.0" in name or "embedding" in name or "gates" in name for name in found)
    frozen = {name for name, p in named_weights(module).items() if not p.requires_grad}
    assert frozen | found.keys() == named_weights(module).keys()
    assert "blocks.0.edge_weight.weight" in frozen


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"freeze": ["block.0"]}, r"finetune\.freeze: 'block\.0' matches nothing.*blocks\.0"),
        ({"lr": {"readuot": 0.1}}, r"finetune\.lr: 'readuot' matches nothing.*readout"),
        (
            {"freeze": ["readout"], "lr": {"^readout": 2}},
            r"finetune\.lr: '\^readout' matches",
        ),
        ({"freeze": ["blocks["]}, r"finetune\.freeze: 'blocks\[' is no regular expression"),
        ({"freeze": ["."]}, "every parameter is frozen"),
        ({"lr": {".": 0}}, "every parameter is frozen"),
    ],
)
def test_a_rule_that_does_nothing_is_refused(rules, message):
    with pytest.raises(ConfigError, match=message):
        freeze(small(), FinetuneConfig(**rules))


def test_every_weight_is_in_the_table_once():
    module = small()
    finetune = FinetuneConfig(
        freeze=("embedding",), layer_decay=0.5, adapters=AdapterConfig(rank=2)
    )
    freeze(module, finetune)
    assert finetune.adapters is not None
    add_adapters(module, finetune.adapters)
    train = TrainConfig(lr=0.01, weight_decay=0.3)
    table = groups_table(module, parameter_groups(module, train, finetune), train.lr)
    counts = [int(str(cell).replace(",", "")) for cell in table.columns[2].cells]
    assert sum(counts) == sum(p.numel() for p in module.parameters())
    console = Console(file=StringIO(), width=300, markup=False)
    console.print(table)
    text = console.file.getvalue()
    for expected in ("frozen", "under adapters: stay", "5.00e-03", "0.3", "edge_embedding (2)"):
        assert expected in text


def test_names_are_abbreviated():
    names = ["blocks.0.a", "blocks.1.a", "blocks.1.b", "embedding", "list.0.x", "list.2.x"]
    assert abbreviated(names) == "blocks.0-1 (3), embedding, list.0,2 (2)"


def test_rules_find_the_matrix_under_an_adapter_by_its_own_name():
    module = small()
    add_adapters(module, AdapterConfig(rank=2))
    found = factors(module, FinetuneConfig(lr={r"edge_update\.layers\.1\.weight$": 0.5}))
    assert found["blocks.0.edge_update.layers.1.weight.left"] == 0.5
    assert found["blocks.0.edge_update.layers.1.weight.right"] == 0.5
    assert "blocks.0.edge_update.layers.1.weight.start" not in found
    assert torch.is_tensor(module.model.blocks[0].edge_update.layers[1].weight)
