"""Formation energies by a network that learns nothing else, of relaxed structures.

After ML1 and ML2 of chapter 5 of F. Jaeger, *Two-Dimensional Machine Learning Force Fields* (ETH
Zurich, 2023). A configuration is asked for as the fine-tuned potential relaxed it ("energy-only"),
or as DFT did ("energy-only-dft"): the only place where the geometry of a held-out configuration by
DFT is looked at, its energy never; nobody has it of a new configuration, and it shows what the
potential's geometries cost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlff2d import checkpoint
from mlff2d.devices import pick_device
from mlff2d.errors import StructureError

from ..config import make_config
from ..sections import Config
from ..setup import run_files
from .formation import dft_formation
from .method import Answer, Answers, Method, Task
from .potentials import FINE_TUNED, relaxed_structures
from .system import Configuration
from .training import (
    CONFIG,
    Group,
    by_groups,
    epochs_for,
    label_of,
    split_for,
    trained,
    write_frames,
)

KEY = "formation"
"""The entry of info with the formation energy in eV per shared site."""

MEMBERS = 3
"""Networks whose mean answers; each has other configurations to validate on."""

_PATIENCE = 0.25
"""Of all epochs; without a better validation loss for so long, training ends."""

Key = tuple[str, str]
Structures = Mapping[Key, Atoms]
Reasons = Mapping[Key, str]
Source = Callable[[Task, Group], tuple[Structures, Reasons]]


def _of_potential(task: Task, group: Group) -> tuple[Structures, Reasons]:
    """What the fine-tuned potential relaxed, by system and name; why it did not."""
    found: dict[Key, Atoms] = {}
    reasons: dict[Key, str] = {}
    folder = task.folder.parent / FINE_TUNED
    for system in group.systems:
        relaxed = relaxed_structures(folder, system)
        for one in group.asked:
            if one.system != system:
                continue
            key = one.system, one.name
            if one.name not in relaxed:
                raise ValueError(
                    f"{folder} has no relaxed structure of {one.name} of {system}; let "
                    f"{FINE_TUNED} answer for the same configurations first."
                )
            atoms = relaxed[one.name]
            if atoms.info["met"]:
                found[key] = atoms
            else:
                reasons[key] = f"the potential did not relax it: {atoms.info.get('reason', '')}"
    return found, reasons


def _of_dft(task: Task, group: Group) -> tuple[Structures, Reasons]:
    """The geometries that DFT relaxed, and nothing else of them."""
    found, reasons = {}, {}
    for one in group.asked:
        if one.relaxed is None:
            reasons[one.system, one.name] = "DFT has not relaxed it"
        else:
            found[one.system, one.name] = one.relaxed
    return found, reasons


def _answer(source: Source, task: Task, group: Group) -> Answers:
    structures, reasons = source(task, group)
    facts: dict[str, Any] = {"members": MEMBERS}
    predicted = []
    for member in range(MEMBERS):
        config = member_config(task, group, structures, member)
        outcome = trained(config)
        if outcome is not None:
            return Answers({}, signal=outcome.signal or 0)
        files = run_files(config.run_dir)
        predicted.append(_predict(files["best"], group.asked, structures, task))
        mae = json.loads(files["metrics"].read_text())["val"]["mae"]
        facts[f"validation MAE {member}"] = mae
    return Answers(_answers(group.asked, predicted, reasons), {group.facts_of: facts})


def member_config(task: Task, group: Group, structures: Structures, member: int) -> Config:
    """The training of one network on the formation energies of a group, which are written.

    Raises ConfigError for too few structures and for a model that is none.
    """
    how = task.config.energy_only
    frames = learnt(group, structures)
    seed = task.seed * MEMBERS + member
    split = split_for(frames, group, seed)
    path = group.folder / f"formation-{member}.extxyz"
    write_frames(frames, path)
    epochs = epochs_for(frames, how.steps, how.batch_size)
    settings: dict[str, Any] = {
        "run_dir": str(group.folder / f"run-{member}"),
        "seed": seed,
        "data": {"files": [str(path)], "material_key": CONFIG},
        "split": split,
        "property": {"key": KEY, "pooling": "mean", "unit": "eV"},
        "model": how.model,
        "loss": {"kind": "mae"},
        "train": {
            "epochs": epochs,
            "batch_size": how.batch_size,
            "lr": how.lr,
            "warmup_epochs": min(5.0, epochs / 10),
            "early_stop": max(1, round(_PATIENCE * epochs)),
            "ema": 0.98,
            "device": task.config.device or "auto",
            "threads": task.config.threads,
        },
    }
    return make_config(settings, Path("energy_only"))


def learnt(group: Group, structures: Structures) -> list[Atoms]:
    """The structures to learn from, without any label but `KEY` in info."""
    frames = []
    for system in group.systems:
        own = [one for one in group.train if one.system == system]
        for one, target in zip(own, dft_formation(own), strict=True):
            atoms = structures.get((one.system, one.name))
            if atoms is not None and np.isfinite(target):
                frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
                frame.info = {CONFIG: label_of(one), KEY: float(target)}
                frames.append(frame)
    return frames


def _predict(
    model: Path, asked: Sequence[Configuration], structures: Structures, task: Task
) -> dict[Key, float | str]:
    """What one network says of each structure in eV per shared site, or why it does not."""
    predictor = checkpoint.load_property(model, pick_device(task.config.device))
    found: dict[Key, float | str] = {}
    for one in asked:
        key = one.system, one.name
        if key in structures:
            try:
                found[key] = predictor.predict(structures[key])
            except StructureError as error:
                found[key] = str(error)
    return found


def _answers(
    asked: Sequence[Configuration],
    predicted: Sequence[Mapping[Key, float | str]],
    reasons: Reasons,
) -> dict[Key, Answer]:
    """Means of the networks; zero for end members, which formation energies are measured from."""
    found = {}
    for one in asked:
        key = one.system, one.name
        said = [member.get(key, reasons.get(key, "")) for member in predicted]
        reason = next((value for value in said if isinstance(value, str)), "")
        mean = np.nan if reason else float(np.mean([float(value) for value in said]))
        found[key] = Answer(0.0 if one.end_member else mean, reason=reason)
    return found


def method(name: str) -> Method:
    """The method "energy-only" or "energy-only-dft"."""
    source = _of_dft if name == "energy-only-dft" else _of_potential
    return lambda task: by_groups(task, partial(_answer, source, task))


METHODS: dict[str, Method] = {name: method(name) for name in ("energy-only", "energy-only-dft")}
