"""The state of a run on disk: all that makes a resumed run equal to one never interrupted."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .config import ConfigError, differences
from .finetune import Shift
from .setup import Run

FORMAT = 2


def save_state(run: Run, path: Path) -> None:
    """Write weights, their mean, optimiser, random state and counters, all or nothing."""
    state = {
        "format": FORMAT,
        "settings": json.dumps(run.config.resolved()),
        "sources": [source["sha256"] for source in run.data.sources],
        "start": None if run.start is None else run.start.sha256,
        "shift": None if run.shift is None else asdict(run.shift),
        "model": run.module.state_dict(),
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

    Raises ConfigError where data or settings that matter have changed since, naming them, and for
    the state of another version.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["format"] != FORMAT:
        raise ConfigError(
            f"{path} was written by another version of mlff2d; give another run_dir, or finish the "
            "run with that version."
        )
    changed = differences(json.loads(state["settings"]), run.config.resolved())
    if state["sources"] != [source["sha256"] for source in run.data.sources]:
        changed.append("the content of data.files")
    if state["start"] != (None if run.start is None else run.start.sha256):
        changed.append("the content of model.from")
    if changed:
        raise ConfigError(
            f"{path.parent} holds a run with other settings ({'; '.join(changed)}); "
            "give another run_dir, or put them back to go on with it."
        )
    if state["shift"] is not None:
        run.move_references(Shift(**state["shift"]))
    run.module.load_state_dict(state["model"])
    run.ema.load_state_dict(state["ema"])
    run.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    for name in ("epoch", "step", "loss_sum", "best", "best_epoch", "seconds"):
        setattr(run, name, state[name])
