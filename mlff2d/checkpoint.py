"""Model files: a plain dict of tensors and primitives, never pickled code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from mlff2d.domain import Domain
from mlff2d.errors import ModelFileError, TrainingStateError, nearest
from mlff2d.files import replacing
from mlff2d.models import build_model, model_config, model_name
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor

FORMAT = 2
"""Raised whenever a file written before could no longer be read as it is; see `UPGRADES`."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda content: content | {"format": 2, "task": "potential"},
}
"""From a format number to the function that turns such a file's content into the next format."""

DEFAULT_MODEL = "universal"

_SHIPPED = Path(__file__).parent / "data"
_REMEDY = "give a file that `mlff2d train` or `mlff2d import` wrote"
_UNITS = {"energy": "eV", "length": "Å", "forces": "eV/Å", "virial": "eV, tension positive"}


def save(
    trained: Potential | PropertyPredictor,
    path: str | Path,
    training: dict[str, Any] | None = None,
) -> None:
    """Write a potential or a model of a property to a file, all or nothing.

    `training` is provenance: primitives only (data, settings, seed, errors). Raises OSError where
    the file cannot be written.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "task": "potential" if isinstance(trained, Potential) else "property",
        "model": model_name(trained.model),
        "config": model_config(trained.model),
        "elements": list(trained.elements),
        "scale": trained.scale,
        "cutoff": trained.cutoff,
        "dtype": str(trained.dtype).removeprefix("torch."),
        "training": training or {},
        "weights": {k: v.detach().cpu() for k, v in trained.model.state_dict().items()},
    }
    if isinstance(trained, Potential):
        content |= {
            "references": trained.references.as_dict(),
            "zbl": trained.zbl is not None,
            "units": _UNITS,
        }
        if trained.domain is not None:
            content["domain"] = trained.domain.as_dict()
    else:
        content |= {
            "property": {"name": trained.name, "unit": trained.unit, "pooling": trained.pooling},
            "shifts": trained.shifts.as_dict(),
            "score": None if trained.score is None else trained.score.weight.detach().cpu(),
            "units": {"length": "Å", trained.name: trained.unit},
        }
    write(content, Path(path))


def write(content: dict[str, Any], path: Path) -> None:
    """Write tensors and primitives to a file, all or nothing.

    Raises OSError where that cannot be; a file of that name is then still what it was.
    """
    packed = BytesIO()  # of a file without room torch raises RuntimeErrors that do not say so
    torch.save(content, packed)
    with replacing(path) as file:
        file.write(packed.getbuffer())


def shipped_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.stem for path in _SHIPPED.glob("*.pt"))


def read(model: str | Path | None = None) -> dict[str, Any]:
    """The content of a model file in the present format, nothing in it run.

    `model` is a path, the name of a shipped model, or None for the universal one. Raises
    ModelFileError where there is no such file, or it is not a model of ours.
    """
    path = locate(model)
    try:
        with warnings.catch_warnings():  # torch warns of unusual pickles, which we refuse anyway
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror})") from error
    except pickle.UnpicklingError as error:
        if path.read_bytes()[:1] not in (b"P", b"\x80"):  # neither a zip archive nor a pickle
            raise ModelFileError(f"{path} is not a model file; {_REMEDY}") from error
        raise ModelFileError(
            f"{path} holds pickled Python objects, which could run any code, and was not opened; "
            f"an mlff2d model file holds tensors and plain values only; {_REMEDY}"
        ) from error
    except Exception as error:  # of a file of other bytes torch's reader raises whatever it meets
        raise ModelFileError(f"{path} is not a model file or is damaged; {_REMEDY}") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ModelFileError(f"{path} is not an mlff2d model file (it names no format); {_REMEDY}")
    if "weights" not in content:
        raise TrainingStateError(
            f"{path} is the state of a training and no model; give the best.pt or last.pt beside it"
        )
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
    """A potential from a model file, in evaluation mode.

    Raises as `read` does, and ModelFileError for a model of a property.
    """
    loaded = _load(model, device, dtype, "potential")
    assert isinstance(loaded, Potential)
    return loaded


def load_property(
    model: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PropertyPredictor:
    """A model of a property from its file, in evaluation mode.

    Raises as `read` does, and ModelFileError for a potential.
    """
    loaded = _load(model, device, dtype, "property")
    assert isinstance(loaded, PropertyPredictor)
    return loaded


def load_any(
    model: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Potential | PropertyPredictor:
    """Whatever a model file holds, in evaluation mode. Raises as `read` does."""
    return _load(model, device, dtype, None)


def refuse_task(model: str | Path | None, content: dict[str, Any], wanted: str) -> None:
    """Raise ModelFileError unless a model file holds a 'potential' or 'property', as wanted."""
    if content["task"] == wanted:
        return
    name = DEFAULT_MODEL if model is None else model
    if wanted == "property":
        raise ModelFileError(
            f"{name} is a potential: it predicts energies and forces and no other property; use "
            "MLFF2DCalculator or `mlff2d relax`, or give a model trained with `property`"
        )
    what = content.get("property", {"name": "?", "unit": ""})
    unit = f" in {what['unit']}" if what["unit"] else ""
    raise ModelFileError(
        f"{name} predicts {what['name']!r}{unit} of a structure and has no energies or forces; "
        "use `mlff2d predict`, or give a potential"
    )


def _load(
    model: str | Path | None, device: str | torch.device, dtype: torch.dtype, wanted: str | None
) -> Potential | PropertyPredictor:
    content = read(model)
    try:
        if wanted is not None:
            refuse_task(model, content, wanted)
        loaded = _build(content)
    except ModelFileError:
        raise
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{locate(model)} does not fit its own description: "
            + (f"it lacks {error}" if isinstance(error, KeyError) else str(error))
        ) from error
    if not all(bool(torch.isfinite(p).all()) for p in loaded.parameters()):
        raise ModelFileError(
            f"{locate(model)} holds weights that are NaN or infinite; its training went wrong"
        )
    return loaded.to(device=device, dtype=dtype).eval()


def _build(content: dict[str, Any]) -> Potential | PropertyPredictor:
    """What the content of a model file describes; raises what a wrong one trips over."""
    dtype = getattr(torch, content["dtype"])  # else float64 weights would be rounded
    module = build_model(content["model"], content["config"]).to(dtype)
    module.load_state_dict(content["weights"], strict=True)
    if content["task"] == "potential":
        potential = Potential(module, content["references"], content["scale"], content["zbl"])
        if "domain" in content:  # files of before have none, and mlff2d of before passes it over
            potential.domain = Domain(**content["domain"])
            if len(potential.domain.mean) != module.n_features:
                raise ValueError("its domain is that of another model")
        return potential
    what = content["property"]
    predictor = PropertyPredictor(
        module, content["shifts"], content["scale"], what["pooling"], what["name"], what["unit"]
    )
    if predictor.score is not None:
        predictor.score.to(dtype).load_state_dict({"weight": content["score"]}, strict=True)
    return predictor


def locate(model: str | Path | None) -> Path:
    """The file of a model, given its path, the name of a shipped one, or None for the universal.

    Raises ModelFileError where there is no such file.
    """
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
