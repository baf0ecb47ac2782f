"""Model files: a plain dict of tensors and primitives, never pickled code."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from mlff2d.errors import ModelFileError, nearest
from mlff2d.models import build_model, model_config, model_name
from mlff2d.potential import Potential

FORMAT = 1
"""Raised whenever a file written before could no longer be read as it is; see `UPGRADES`."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From a format number to the function that turns such a file's content into the next format."""

DEFAULT_MODEL = "universal"

_SHIPPED = Path(__file__).parent / "data"
_UNITS = {"energy": "eV", "length": "Å", "forces": "eV/Å", "virial": "eV, tension positive"}


def save(potential: Potential, path: str | Path, training: dict[str, Any] | None = None) -> None:
    """Write a potential to a file; an interrupted write leaves the old file untouched.

    `training` is provenance: primitives only (data, settings, seed, errors).
    """
    content = {
        "format": FORMAT,
        "model": model_name(potential.model),
        "config": model_config(potential.model),
        "elements": list(potential.elements),
        "references": potential.references.as_dict(),
        "scale": potential.scale,
        "zbl": potential.zbl is not None,
        "cutoff": potential.cutoff,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "units": _UNITS,
        "training": training or {},
        "weights": {k: v.detach().cpu() for k, v in potential.model.state_dict().items()},
    }
    path = Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    torch.save(content, unfinished)
    os.replace(unfinished, path)


def shipped_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.stem for path in _SHIPPED.glob("*.pt"))


def read(model: str | Path | None = None) -> dict[str, Any]:
    """The content of a model file in the present format, nothing in it run.

    `model` is a path, the name of a shipped model, or None for the universal one. Raises
    ModelFileError where there is no such file, or it is not a model of ours.
    """
    path = _locate(model)
    try:
        with warnings.catch_warnings():  # torch warns of unusual pickles, which we refuse anyway
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror})") from error
    except pickle.UnpicklingError as error:
        if path.read_bytes()[:1] not in (b"P", b"\x80"):  # neither a zip archive nor a pickle
            raise ModelFileError(
                f"{path} is not a model file; give a file that `mlff2d train` wrote"
            ) from error
        raise ModelFileError(
            f"{path} holds pickled Python objects, which could run any code, and was not opened; "
            "an mlff2d model file holds tensors and plain values only"
        ) from error
    except (RuntimeError, EOFError, BadZipFile, OSError, ValueError, KeyError) as error:
        raise ModelFileError(
            f"{path} is not a model file or is damaged; give a file that `mlff2d train` wrote"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ModelFileError(f"{path} is not an mlff2d model file (it names no format)")
    while content["format"] in UPGRADES:
        content = UPGRADES[content["format"]](content)
    if content["format"] != FORMAT:
        raise ModelFileError(
            f"{path} has format {content['format']}, newer than this mlff2d reads ({FORMAT}); "
            "upgrade mlff2d"
        )
    return content


def load(
    model: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Potential:
    """A potential from a model file, in evaluation mode. Raises as `read` does."""
    content = read(model)
    try:
        module = build_model(content["model"], content["config"])
        module.load_state_dict(content["weights"], strict=True)
        potential = Potential(module, content["references"], content["scale"], content["zbl"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ModelFileError(
            f"{_locate(model)} does not fit its own description: "
            + (f"it lacks {error}" if isinstance(error, KeyError) else str(error))
        ) from error
    if not all(bool(torch.isfinite(p).all()) for p in potential.parameters()):
        raise ModelFileError(
            f"{_locate(model)} holds weights that are NaN or infinite; its training went wrong"
        )
    return potential.to(device=device, dtype=dtype).eval()


def _locate(model: str | Path | None) -> Path:
    name = DEFAULT_MODEL if model is None else str(model)
    if not name:
        raise ModelFileError("the name of the model is empty; leave it out for the shipped one")
    shipped = _SHIPPED / f"{name}.pt"
    if Path(name).is_file():
        return Path(name)
    if shipped.is_file():
        return shipped
    if Path(name).is_dir():
        raise ModelFileError(f"{name} is a folder; give the model file in it, such as best.pt")
    raise ModelFileError(
        f"there is no model file or shipped model {name!r}.{nearest(name, shipped_models())}"
    )
