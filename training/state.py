"""The state of a run on disk: all that makes a resumed run equal to one never interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from .config import ConfigError, differences
from .setup import Run

FORMAT = 1


def save_state(run: Run, path: Path) -> None:
    """Write weights, their mean, optimiser, random state and counters, all or nothing."""
    state = {
        "format": FORMAT,
        "settings": json.dumps(run.config.resolved()),
        "sources": [source["sha256"] for source in run.data.sources],
        "model": run.potential.state_dict(),
        "ema": run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "epoch": run.epoch,
        "step": run.step,
        "loss_sum": run.loss_sum,
        "best": run.best,
        "best_epoch": run.best_epoch,
        "seconds": run.seconds,
    }
    unfinished = path.with_name(path.name + ".tmp")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def restore_state(run: Run, path: Path) -> None:
    """Put a run where `save_state` left it.

    Raises ConfigError where data or settings that matter have changed since, naming them.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    changed = differences(json.loads(state["settings"]), run.config.resolved())
    if state["sources"] != [source["sha256"] for source in run.data.sources]:
        changed.append("the content of data.files")
    if changed:
        raise ConfigError(
            f"{path.parent} holds a run with other settings ({'; '.join(changed)}); "
            "give another run_dir, or put them back to go on with it."
        )
    run.potential.load_state_dict(state["model"])
    run.ema.load_state_dict(state["ema"])
    run.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    for name in ("epoch", "step", "loss_sum", "best", "best_epoch", "seconds"):
        setattr(run, name, state[name])
