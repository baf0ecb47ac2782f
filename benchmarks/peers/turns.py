"""What every program of this folder does: get ready, then work for one turn whenever told to.

Runs in the environments of the peers too, so it needs torch and ASE alone. A turn of training is a
pass over all frames, in the order of the file, in batches of equal size. On standard output stands
one JSON object a line; what libraries print there goes to standard error.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase.build import mx2
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

# The elements of the models: those of most universal potentials.
ELEMENTS = tuple(z for z in range(1, 95) if z not in range(84, 89))
SYMBOLS = [chemical_symbols[z] for z in ELEMENTS]


class Dialogue:
    """What every program does: its arguments, its threads, and one JSON object a line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--threads", type=int, required=True)
        self.args = parser.parse_args()
        self.threads: int = self.args.threads
        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def answer(self, **content: object) -> None:
        """Say it, and how much memory the process has had at most, in MiB."""
        content["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._answers.write(json.dumps(content) + "\n")
        self._answers.flush()

    def wait(self) -> str:
        """The words with which the next turn begins; ends the process when there is none."""
        words = sys.stdin.readline().strip()
        if not words:
            sys.exit()
        return words


class Turns(Dialogue):
    """The dialogue with `benchmarks.training_speed`."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("model")
        parser.add_argument("frames", type=Path)
        parser.add_argument("--batch-size", type=int, required=True)
        super().__init__(parser)
        self.model: str = self.args.model
        self.file: Path = self.args.frames
        self.batch_size: int = self.args.batch_size

    def ready(self, package: str, n_parameters: int, n_frames: int, n_edges: int) -> None:
        """Say what will be trained, by which package and version, and wait for the first turn."""
        self._steps = n_frames // self.batch_size
        self.answer(
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
            self.answer(
                seconds=time.perf_counter() - self._began,
                loss=self._loss / self._steps,
            )
            self._wait()

    def _wait(self) -> None:
        self.wait()
        self._done, self._loss, self._began = 0, 0.0, time.perf_counter()


class Calls(Dialogue):
    """The dialogue with `benchmarks.inference_speed`: energy, forces and stress when told to.

    A turn is said as "ATOMS CALLS": a slab of MoS2 of that many atoms, that often, the atoms moved
    before each call. The answer has the times in ms, and what came out of the first of them.
    """

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("case")
        parser.add_argument("way", help="eager, or how it is compiled")
        parser.add_argument("weights", type=Path, help="written by the peer, read by ours")
        parser.add_argument("--checkpoints", type=Path, help="folder of public ones")
        super().__init__(parser)
        self.case: str = self.args.case
        self.way: str = self.args.way
        self.weights: Path = self.args.weights
        self.checkpoints: Path | None = self.args.checkpoints

    def write_weights(self, settings: dict[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
        """For ours to read."""
        tensors = {key: value.detach() for key, value in weights.items()}
        torch.save({"settings": settings, "weights": tensors}, self.weights)

    def run(self, package: str, n_parameters: int, calculator: Calculator) -> None:
        """Take turns until there are no more."""
        self.answer(package=package, torch=torch.__version__, parameters=n_parameters)
        displacements: dict[int, np.random.Generator] = {}  # none twice: it could be remembered
        while True:
            n_atoms, n_calls = map(int, self.wait().split())
            atoms = slab(n_atoms)
            start = atoms.positions.copy()
            rng = displacements.setdefault(n_atoms, np.random.default_rng(n_atoms))
            times: list[float] = []
            for _ in range(n_calls):
                atoms.positions = start + rng.normal(0.0, 0.01, start.shape)
                began = time.perf_counter()
                calculator.calculate(atoms, ["energy", "forces", "stress"], ["positions"])
                times.append(1e3 * (time.perf_counter() - began))
                if len(times) == 1:
                    found = dict(calculator.results)
            stress = np.asarray(found["stress"], dtype=float)
            if stress.shape == (3, 3):
                stress = full_3x3_to_voigt_6_stress(stress)
            self.answer(
                milliseconds=times,
                energy=float(np.asarray(found["energy"]).item()),
                forces=np.asarray(found["forces"], dtype=float)[:20].tolist(),
                stress=stress[[0, 1, 5]].tolist(),
            )


def slab(n_atoms: int) -> ase.Atoms:
    """A monolayer of MoS2, n x n cells, periodic along its 15 Å of vacuum too.

    Several peers get mixed periodicity wrong.
    """
    n = round((n_atoms / 3) ** 0.5)
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, size=(n, n, 1), vacuum=7.5)
    assert len(atoms) == n_atoms
    atoms.rattle(0.05, seed=0)
    atoms.pbc = True
    return atoms


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
