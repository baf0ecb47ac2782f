"""What a model file says about how it was made: primitives only, and no path of any machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .metrics import Metrics
from .setup import Run
from .splits import PARTS

_PACKAGES = ("mlff2d", "torch", "e3nn", "numpy", "ase", "vesin")


def provenance(run: Run, metrics: dict[str, Metrics]) -> dict[str, Any]:
    """Data, split, settings, progress, errors and versions of a run."""
    settings = run.config.resolved()
    settings.pop("run_dir")
    settings["data"]["files"] = [Path(name).name for name in settings["data"]["files"]]
    ids = {name: getattr(run.split, name) for name in PARTS}
    return {
        "data": run.data.sources,
        "frames": {name: len(part) for name, part in ids.items()},
        "materials": {
            name: len({run.data.material[s] for s in part}) for name, part in ids.items()
        },
        "settings": settings,
        "epoch": run.epoch,
        "minutes": round(run.seconds / 60, 1),
        "metrics": {name: value.as_dict() for name, value in metrics.items()},
        "versions": {name: _version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout
        return "not installed"
