"""Checks made when a config is read: of a model's settings, and what is said of a wrong value."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mlff2d import checkpoint
from mlff2d.errors import nearest
from mlff2d.models import REGISTRY, build_config


def check_model(name: str, settings: dict[str, Any]) -> None:
    """Raise ValueError (one sentence) for settings that make no model of this name."""
    _refuse_foreign(name, settings)
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


def _refuse_foreign(name: str, settings: dict[str, Any]) -> None:
    """All keys of other models at once, for whoever changes the name in a config."""
    if name not in REGISTRY:
        return
    keys = {other: {f.name for f in fields(REGISTRY[other].Config)} for other in REGISTRY}
    foreign = {
        key: [other for other in REGISTRY if key in keys[other]]
        for key in settings.keys() - keys[name]
    }
    known = [f"{key} (of {', '.join(foreign[key])})" for key in settings if foreign.get(key)]
    if known:
        raise ValueError(
            f"model {name!r} has no {', '.join(known)}; leave out what belongs to another model. "
            f"Valid: {', '.join(sorted(keys[name]))}"
        )


def _check_types(name: str, settings: dict[str, Any]) -> None:
    hints = get_type_hints(REGISTRY[name].Config)
    for key, value in settings.items():
        try:
            TypeAdapter(hints[key]).validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors()[0] | {"input": value}  # all of it, not an entry alone
            raise ValueError(f"{key} {describe(first)}") from error


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


def describe(error: ErrorDetails) -> str:
    """What is wrong with a value, with the value, and the nearest where there is a choice."""
    kind, value = error["type"], error["input"]
    if kind == "missing":
        return "is missing"
    if kind == "value_error":  # a sentence of ours
        return error["msg"].removeprefix("Value error, ")
    if kind == "too_short" and not value:
        return "is empty; name at least one"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return f"{value!r} is no choice.{nearest(str(value), choices)}"
    if kind == "path_type":
        return f"should be a path, not {value!r}"
    problem = error["msg"].removeprefix("Input ").partition(",")[0]
    return f"{problem.replace('valid tuple', 'list')}, not {value!r}"
