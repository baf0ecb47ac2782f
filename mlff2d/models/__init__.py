"""The energy models, by name.

A model is a `torch.nn.Module` made from one frozen config dataclass. It has a `cutoff` in Å and
`forward(graph, edge_vec) -> (N,)` energies of dimension one; nothing else. Units, forces, stress,
reference energies and slabs are `Potential`'s business.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from torch import nn

from mlff2d.errors import nearest
from mlff2d.models.m3gnet import M3GNet
from mlff2d.models.nequip import NequIP

REGISTRY: dict[str, type[M3GNet] | type[NequIP]] = {"m3gnet": M3GNet, "nequip": NequIP}


def build_model(name: str, config: dict[str, Any]) -> nn.Module:
    """A model from its name and the fields of its config.

    Raises ValueError for an unknown name or field (naming the nearest), or a value that the
    config refuses.
    """
    if name not in REGISTRY:
        raise ValueError(f"no model is called {name!r}.{nearest(name, REGISTRY)}")
    config_class: Any = REGISTRY[name].Config
    known = [f.name for f in fields(config_class)]
    for key in config:
        if key not in known:
            raise ValueError(f"model {name!r} has no setting {key!r}.{nearest(key, known)}")
    return REGISTRY[name](config_class(**config))


def model_name(model: nn.Module) -> str:
    """The registry name of a model. Raises KeyError for a class that is not registered."""
    for name, model_class in REGISTRY.items():
        if type(model) is model_class:
            return name
    raise KeyError(f"{type(model).__name__} is not in the registry")


def model_config(model: nn.Module) -> dict[str, Any]:
    """The fields of a model's config as primitives, as `build_model` takes them."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(model.config).items()  # type: ignore[call-overload]
    }
