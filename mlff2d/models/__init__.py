"""The energy models, by name.

What a model is and is not: see `mlff2d.models.base.EnergyModel`.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from mlff2d.errors import nearest
from mlff2d.models.alignn import ALIGNN
from mlff2d.models.allegro import Allegro
from mlff2d.models.base import EnergyModel
from mlff2d.models.cgcnn import CGCNN
from mlff2d.models.m3gnet import M3GNet
from mlff2d.models.mace import MACE
from mlff2d.models.megnet import MEGNet
from mlff2d.models.nequip import NequIP
from mlff2d.models.painn import PaiNN
from mlff2d.models.schnet import SchNet

REGISTRY: dict[str, type[EnergyModel]] = {
    "alignn": ALIGNN,
    "allegro": Allegro,
    "cgcnn": CGCNN,
    "m3gnet": M3GNet,
    "mace": MACE,
    "megnet": MEGNet,
    "nequip": NequIP,
    "painn": PaiNN,
    "schnet": SchNet,
}


def build_model(name: str, config: dict[str, Any]) -> EnergyModel:
    """A model from its name and the fields of its config.

    Raises ValueError for an unknown name or field (naming the nearest), or a value that the
    config refuses.
    """
    settings = build_config(name, config)
    return REGISTRY[name](settings)


def build_config(name: str, config: dict[str, Any]) -> Any:
    """The checked settings of a model, its `Config`. Raises as `build_model` does."""
    if not isinstance(name, str) or name not in REGISTRY:
        raise ValueError(f"no model is called {name!r}.{nearest(str(name), REGISTRY)}")
    config_class = REGISTRY[name].Config
    known = [f.name for f in fields(config_class)]
    for key in config:
        if key not in known:
            raise ValueError(f"model {name!r} has no setting {key!r}.{nearest(str(key), known)}")
    return config_class(**config)


def model_name(model: EnergyModel) -> str:
    """The registry name of a model. Raises KeyError for a class that is not registered."""
    for name, model_class in REGISTRY.items():
        if type(model) is model_class:
            return name
    raise KeyError(f"{type(model).__name__} is not in the registry")


def model_config(model: EnergyModel) -> dict[str, Any]:
    """The fields of a model's config as primitives, as `build_model` takes them."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(model.config).items()
    }
