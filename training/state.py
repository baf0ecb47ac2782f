"""The state of a run on disk: all that makes a resumed run equal to one never interrupted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mlff2d import checkpoint

from .config import ConfigError, differences
from .distributed import is_main
from .finetuning.start import Shift
from .setup import Run
from .stages import apply_stage

FORMAT = 3

_COUNTERS = (
    "epoch",
    "step",
    "loss_sum",
    "stage",
    "best",
    "best_epoch",
    "stale",
    "plateau_stale",
    "plateaus",
    "recent",
    "left_out",
    "batch_edges",
    "seconds",
    "frames",
)


def save_state(run: Run, path: Path) -> None:
    """Write weights, their mean, optimiser, random state and counters, all or nothing.

    Of several processes, which are all in the same state, the main one does. Raises OSError where
    there is no room; what was there before is then still there.
    """
    if not is_main():
        return
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
    }
    checkpoint.write(state | {name: getattr(run, name) for name in _COUNTERS}, path)


def restore_state(run: Run, path: Path) -> None:
    """Put a run where `save_state` left it.

    Raises ConfigError where data or settings that matter have changed since, naming them, and for
    the state of another version.
    """
    state = _read(path)
    if state["format"] != FORMAT:
        raise ConfigError(
            f"{path} was written by another version of mlff2d; give another run_dir, or finish the "
            "run with that version."
        )
    _refuse_changes(run, state, path)
    if state["shift"] is not None:
        run.move_references(Shift(**state["shift"]))
    run.module.load_state_dict(state["model"])
    run.ema.load_state_dict(state["ema"])
    run.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    for name in _COUNTERS:
        setattr(run, name, state[name])
    apply_stage(run)


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if "format" not in state:
            raise ValueError("it holds something else")
    except Exception as error:  # torch and pickle raise whatever a damaged file trips them over
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{path} is damaged ({reason}); delete it to train from the beginning, or give another "
            "run_dir."
        ) from error
    return state


def _refuse_changes(run: Run, state: dict[str, Any], path: Path) -> None:
    old = json.loads(state["settings"])
    train = run.config.train
    if train.schedule != "cosine" and train.epochs >= state["epoch"]:
        old["train"]["epochs"] = train.epochs  # nothing before the last epoch depends on it
    changed = differences(old, run.config.resolved())
    if state["sources"] != [source["sha256"] for source in run.data.sources]:
        changed.append("the content of data.files")
    if state["start"] != (None if run.start is None else run.start.sha256):
        changed.append("the content of model.from")
    if not changed:
        return
    remedy = "give another run_dir, or put them back to go on with it."
    if old["train"]["epochs"] != train.epochs and train.schedule == "cosine":
        remedy += (
            " A cosine ends with its last epoch and cannot be lengthened: train on with "
            f"model.from: {path.with_name('best.pt')} in another run_dir, or plan with "
            "train.schedule: plateau or constant, where train.epochs may be raised later."
        )
    raise ConfigError(
        f"{path.parent} holds a run with other settings ({'; '.join(changed)}); {remedy}"
    )
