"""The two trainings of a potential on the DFT frames of alloys.

The second begins where the first ends. In it only frames near the minimum of their configuration
have energies, and these weigh most: on rattled frames a model errs by more than a formation energy,
and need not on relaxed ones. Forces and stress of all frames keep what the first has learnt. Its
last weights count: those that were best on a few configurations are so by chance. They move then,
in closed form, to where formation energies are those of DFT; see `gauss_newton`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from pathlib import Path

import torch
from ase import Atoms

from mlff2d import checkpoint
from mlff2d.devices import pick_device

from ..config import make_config
from ..data.splits import part_of
from ..finetuning.recipe import default_settings
from ..finetuning.report import from_scratch
from ..sections import Config
from ..setup import run_files
from .gauss_newton import learn_formation
from .method import Task
from .training import (
    CONFIG,
    Group,
    epochs_for,
    labelled_frames,
    near_minima,
    split_for,
    trained,
    without_energy,
    write_frames,
)

FIRST, SECOND = "run", "energies"
"""Folders of the first training, and of the second, for the energies near the minima."""

SETTLED = "settled.pt"
"""The file of what comes after both."""

ENERGY_WEIGHT = 100.0
"""Of the energy in the loss of the second training, where forces have one: an error of 1 meV/atom,
3 meV in a formation energy of MX2, counts as 0.1 eV/Å."""


def two_trainings(task: Task, group: Group, model: str, scratch: bool) -> Path | int:
    """Train on the frames of a group, from a model or from random weights like it.

    Returns the file of the potential, or the number of a signal that interrupted it. Raises
    ConfigError for too few frames, and as `train` does.
    """
    frames = labelled_frames(group.train)
    near = near_minima(frames, group.train)
    config = first_config(task, group, model, frames)
    if scratch:
        config = from_scratch(config, config.run_dir, config.train.epochs)
    outcome = trained(config)
    if outcome is None and _second_pays(task, config, compress(frames, near)):
        outcome = trained(second_config(task, group, config, frames, near))
    if outcome is None:
        _settle(task, group)
    return final_file(group.folder) if outcome is None else outcome.signal or 0


def final_file(folder: Path) -> Path:
    """The potential that the trainings in the folder of a group ended with."""
    if (folder / SETTLED).exists():
        return folder / SETTLED
    second = run_files(folder / SECOND)["last"]
    return second if second.exists() else run_files(folder / FIRST)["best"]


def _second_pays(task: Task, first: Config, near: Iterable[Atoms]) -> bool:
    """Whether it is asked for, and a frame near its minimum validates."""
    seed, val = first.split.seed, first.split.val
    parts = [part_of(str(frame.info[CONFIG]), seed, val, 0) for frame in near]
    return task.config.potentials.energy_steps > 0 and "val" in parts


def _settle(task: Task, group: Group) -> None:
    """Write the potential with formation energies learnt in closed form, if they shall be."""
    path = group.folder / SETTLED
    steps = task.config.potentials.formation_steps
    if not steps or path.exists():
        return
    trained_file = final_file(group.folder)
    potential = checkpoint.load(trained_file, pick_device(task.config.device), torch.float64)
    learn_formation(potential, group.train, steps, task.seed)
    training = checkpoint.read(trained_file)["training"]
    checkpoint.save(potential.to(getattr(torch, task.config.dtype)), path, training)


def first_config(task: Task, group: Group, model: str, frames: Sequence[Atoms]) -> Config:
    """The training on all frames of a group, which are written, with names for the split.

    Raises ConfigError for too few frames.
    """
    how = task.config.potentials
    split = split_for(frames, group, task.seed)
    path = group.folder / "frames.extxyz"
    write_frames(frames, path)
    settings, _ = default_settings(model, [path], group.folder / FIRST)
    settings |= {"seed": task.seed, "split": split}
    settings["data"]["material_key"] = CONFIG
    settings["train"] |= {
        "epochs": epochs_for(frames, how.steps, how.batch_size),
        "batch_size": how.batch_size,
        "lr": how.lr,
        "device": task.config.device or "auto",
        "threads": task.config.threads,
    }
    settings["finetune"] = {"scratch_lr": how.scratch_lr}
    return make_config(settings, Path("potentials"))


def second_config(
    task: Task, group: Group, first: Config, frames: Sequence[Atoms], near: Sequence[bool]
) -> Config:
    """The training that follows, from the best of the first, with its split."""
    how = task.config.potentials
    path = group.folder / "minima.extxyz"
    changed = [
        frame if keeps else without_energy(frame) for frame, keeps in zip(frames, near, strict=True)
    ]
    learnt = [frame for frame in changed if frame is not None]
    write_frames(learnt, path)
    settings = first.resolved() | {
        "run_dir": str(group.folder / SECOND),
        "model": {"from": str(run_files(first.run_dir)["best"])},
        "finetune": None,
    }
    settings["data"]["files"] = [str(path)]
    settings["loss"] |= {"energy": ENERGY_WEIGHT}
    settings["train"] |= {
        "epochs": epochs_for(learnt, how.energy_steps, how.batch_size),
        "lr": how.lr,
    }
    return make_config(settings, Path("potentials"))
