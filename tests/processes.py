"""What one of several processes does in a test: `python -m tests.processes CASE FOLDER`.

Started with the environment that torchrun gives.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlff2d.models import REGISTRY
from mlff2d.training import distributed, loop
from mlff2d.training.loop import train
from mlff2d.training.sections import Config
from tests.training_helpers import PairNet, PairNetConfig, small_config


class HalfFrozen(PairNet):
    """With weights that are not trained."""

    def __init__(self, config: PairNetConfig) -> None:
        super().__init__(config)
        self.element.requires_grad_(False)
        self.layers[0].bias.requires_grad_(False)


def cases(folder: Path) -> dict[str, Config]:
    """Runs that must come out the same with one process and with two."""
    data, lone = folder / "metals.extxyz", folder / "values.extxyz"
    hard = {"dtype": "float64", "accumulate": 2, "weight_decay": 0.1, "batch_edges": 60}
    found = {
        "float64": small_config(folder, data, dtype="float64"),
        "float32": small_config(folder, data),
        "hard": small_config(folder, data, **hard),
        "property": small_config(folder, lone, dtype="float64"),
        "finetune": small_config(folder, data, dtype="float64"),
        "stop": small_config(folder, data, save_minutes=1e9),
    }
    changes: dict[str, dict[str, Any]] = {
        "hard": {"model": {"name": "frozen"}, "loss": {"kind": "huber", "atoms_power": 0.5}},
        "property": {"property": {"key": "value"}, "loss": {"kind": "huber"}},
        "finetune": {
            "model": {"from": str(folder / "start.pt")},
            "finetune": {
                "adapters": {"rank": 4},
                "l2_start": 0.1,
                "replay": {"files": [str(lone)], "labels": "start", "share": 0.4},
            },
        },
    }
    for name, sections in changes.items():
        found[name] = Config.model_validate(found[name].resolved() | sections)
    where = "two" if distributed.world() == 2 else "one"
    return {
        name: config.model_copy(update={"run_dir": folder / where / name})
        for name, config in found.items()
    }


def equal(folder: Path) -> None:
    """All cases; one of them also stopped by a signal to one process, and gone on with."""
    configs = cases(folder)
    original, own = loop._step, []

    def step(run: Any, loaded: loop.Loaded, ids: list[list[int]], *args: Any) -> Any:
        own.append([[s for part, _ in loaded for s in part], [s for batch in ids for s in batch]])
        return original(run, loaded, ids, *args)

    loop._step = step
    for config in configs.values():
        train(config)
    (folder / f"shares-{distributed.rank()}.json").write_text(json.dumps(own))
    loop._step = original
    config = configs["stop"].model_copy(update={"run_dir": folder / "two" / "stopped"})
    with_step(9, lambda: distributed.rank() == 1 and os.kill(os.getpid(), signal.SIGTERM))
    outcome = train(config)
    assert outcome.signal == signal.SIGTERM
    distributed.wait()
    if distributed.is_main():
        shutil.copytree(config.run_dir, folder / "one" / "stopped")
    assert train(config).stopped is None


def dies(folder: Path) -> None:
    """One process is killed in its sixth step."""
    with_step(6, lambda: distributed.rank() == 1 and os.kill(os.getpid(), signal.SIGKILL))
    train(small_config(folder / "run", folder / "metals.extxyz"))


def hangs(folder: Path) -> None:
    """One process goes to sleep in its sixth step."""
    with_step(6, lambda: distributed.rank() == 1 and time.sleep(600))
    train(small_config(folder / "run", folder / "metals.extxyz"))


def nan(folder: Path) -> None:
    """One process finds a gradient that is NaN, in the fourth step."""
    original, done = loop.sum_gradients, []

    def spoilt(parameters: Iterable[nn.Parameter]) -> None:
        weights = list(parameters)
        done.append(1)
        if len(done) == 4 and distributed.rank() == 1:
            next(p.grad for p in weights if p.grad is not None)[0] = torch.nan
        original(weights)

    loop.sum_gradients = spoilt
    train(small_config(folder / "run", folder / "metals.extxyz"))


def with_step(number: int, act: Callable[[], object]) -> None:
    """Do something before one of the steps to come."""
    original, done = loop._step, [0]

    def step(*args: Any) -> Any:
        done[0] += 1
        if done[0] == number:
            act()
        return original(*args)

    loop._step = step


def main() -> None:
    torch.set_num_threads(1)
    REGISTRY.update(pairnet=PairNet, frozen=HalfFrozen)
    case, folder = sys.argv[1], Path(sys.argv[2])
    if case == "hangs":
        distributed.TIMEOUT = timedelta(seconds=5)
    with distributed.processes():
        {"equal": equal, "dies": dies, "hangs": hangs, "nan": nan}[case](folder)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"one sentence: {error}")
