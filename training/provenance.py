"""What a model file says about how it was made: primitives only, and no path of any machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlff2d.atoms import symbols

from .data.splits import PARTS
from .metrics import Metrics
from .setup import Run

_PACKAGES = ("mlff2d", "torch", "e3nn", "numpy", "ase", "vesin")


def provenance(run: Run, metrics: dict[str, Metrics]) -> dict[str, Any]:
    """Data, split, settings, progress, errors and versions of a run."""
    settings = run.config.resolved()
    settings.pop("run_dir")
    settings["data"]["files"] = [Path(name).name for name in settings["data"]["files"]]
    if run.start is not None:
        settings["model"]["from"] = run.start.name
    finetune = settings["finetune"] or {}
    for section, key in ((finetune, "old"), (finetune.get("replay") or {}, "files")):
        section[key] = [Path(name).name for name in section.get(key, ())]
    replayed = set() if run.replay is None else set(run.replay.sources)
    ids = {name: getattr(run.split, name) for name in PARTS}
    origin: dict[str, Any] = {} if run.start is None else {"start": _start(run)}
    if run.references is not None:
        origin["references"] = run.references.origin
    return origin | {
        "data": [s for number, s in enumerate(run.data.sources) if number not in replayed],
        "frames": {name: len(part) for name, part in ids.items()},
        "materials": {
            name: len({run.data.material[s] for s in part}) for name, part in ids.items()
        },
        "left_out": [run.data.name(s) for s in run.left_out],
        "settings": settings,
        "epoch": run.epoch,
        "minutes": round(run.seconds / 60, 1),
        "metrics": {name: value.as_dict() for name, value in metrics.items()},
        "versions": {name: _version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
    }


def _start(run: Run) -> dict[str, Any]:
    """The model that training started from, and all that is known of that one's own origin."""
    assert run.start is not None
    shift = {} if run.shift is None else run.shift.energies
    return {
        "file": run.start.name,
        "sha256": run.start.sha256,
        "reference_shift": {symbols([z]): energy for z, energy in shift.items()},
        "training": run.start.training,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout
        return "not installed"
