"""What every program of this folder does: get ready, then train for one turn whenever told to.

Runs in the environments of the peers too, so it needs torch and ASE alone. A turn is a pass over
all frames, in the order of the file, in batches of equal size. On standard output stands one JSON
object a line; what libraries print there goes to standard error.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ase.io
import torch
from ase.data import chemical_symbols

# The elements of the models: those of most universal potentials.
ELEMENTS = tuple(z for z in range(1, 95) if z not in range(84, 89))
SYMBOLS = [chemical_symbols[z] for z in ELEMENTS]


class Turns:
    """The dialogue with `benchmarks.training_speed`."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("model")
        parser.add_argument("frames", type=Path)
        parser.add_argument("--batch-size", type=int, required=True)
        parser.add_argument("--threads", type=int, required=True)
        args = parser.parse_args()
        self.model: str = args.model
        self.file: Path = args.frames
        self.batch_size: int = args.batch_size
        self.threads: int = args.threads
        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def ready(self, package: str, n_parameters: int, n_frames: int, n_edges: int) -> None:
        """Say what will be trained, by which package and version, and wait for the first turn."""
        self._steps = n_frames // self.batch_size
        self._answer(
            package=package,
            torch=torch.__version__,
            parameters=n_parameters,
            frames=n_frames,
            edges=n_edges,
        )
        self._wait()

    def step_done(self, loss: float) -> None:
        """After each step; behind the last of a turn says how long it took and waits."""
        self._done += 1
        self._loss += loss
        if self._done == self._steps:
            self._answer(
                seconds=time.perf_counter() - self._began,
                loss=self._loss / self._steps,
                memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            )
            self._wait()

    def _wait(self) -> None:
        if sys.stdin.readline().strip() != "turn":
            sys.exit()
        self._done, self._loss, self._began = 0, 0.0, time.perf_counter()

    def _answer(self, **content: object) -> None:
        self._answers.write(json.dumps(content) + "\n")
        self._answers.flush()


def train_in_lightning(
    package: Any, turns: Turns, module: torch.nn.Module, loader: Iterable[Any]
) -> None:
    """Take turns in the Trainer of `lightning` or `pytorch_lightning`, gradients clipped at 10."""

    class Count(package.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            turns.step_done(float(outputs["loss"]))

    trainer = package.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=10.0,
        callbacks=[Count()],
    )
    trainer.fit(module, train_dataloaders=loader)


def read_frames(turns: Turns) -> list[ase.Atoms]:
    """All frames, with energy, forces and stress."""
    return list(ase.io.iread(turns.file))


def count(module: torch.nn.Module) -> int:
    """Parameters that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
