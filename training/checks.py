"""Checks of a model's settings that need no data, so that they are made when a config is read."""

from __future__ import annotations

from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mlff2d import checkpoint
from mlff2d.models import REGISTRY, build_config


def check_model(name: str, settings: dict[str, Any]) -> None:
    """Raise ValueError (one sentence) for settings that make no model of this name."""
    try:
        build_config(name, settings)
    except Exception as error:
        named = name not in REGISTRY or any(key in str(error) for key in settings)
        if isinstance(error, ValueError) and named:
            raise
        # A value of a kind that the model's own checks trip over.
        _check_types(name, settings)
        raise ValueError(str(error) or type(error).__name__) from error
    _check_types(name, settings)


def _check_types(name: str, settings: dict[str, Any]) -> None:
    hints = get_type_hints(REGISTRY[name].Config)
    for key, value in settings.items():
        try:
            TypeAdapter(hints[key]).validate_python(value, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Input ")
            raise ValueError(f"{key} {problem}, not {value!r}") from error


def check_start(start: str, for_property: bool) -> bool | None:
    """Whether the model to start from has the ZBL repulsion; None where that does not matter.

    Raises ValueError (one sentence) where there is no such model, or it predicts a property and a
    potential shall be trained.
    """
    content = checkpoint.read(start)
    if for_property:
        return None
    checkpoint.refuse_task(start, content, "potential")
    return bool(content["zbl"])
