"""What `--with` means: a calculator described in YAML, or a model."""

from __future__ import annotations

from pathlib import Path

from ..config import read_yaml, validated
from .potential import ModelSettings, is_model
from .settings import CALCULATORS, GpawSettings, LabelSettings


def load_settings(path: Path) -> LabelSettings:
    """Read a YAML file. Raises ConfigError (one sentence) where it cannot be used."""
    settings = validated(read_yaml(path), LabelSettings, path)
    if settings.calculator == "gpaw":
        validated(settings.parameters, GpawSettings, path, "parameters.")
    return settings


def settings_of(
    what: str, dtype: str = "float32", device: str | None = None
) -> LabelSettings | ModelSettings:
    """The settings that `--with` means; dtype and device are those of a model.

    Raises ConfigError and ValueError (one sentence) for what is neither a calculator nor a model.
    """
    if what == "gpaw":
        return LabelSettings(calculator="gpaw")
    if is_model(what):
        return ModelSettings(what, dtype, device)
    if Path(what).suffix in (".yaml", ".yml"):
        return load_settings(Path(what))
    if what in CALCULATORS:
        raise ValueError(
            f"--with {what}: it has settings that only you know; write a YAML file that begins "
            f"with 'calculator: {what}' and give that"
        )
    raise ValueError(
        f"--with {what}: give gpaw, a YAML file that describes a calculator, or a model file (.pt)"
    )
