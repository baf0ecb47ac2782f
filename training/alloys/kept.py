"""Answers that are kept: what was computed is read again as long as nothing it depends on changed.

A folder's name is a digest of the labels learnt from, the configurations asked for, the seed and
the settings. New labels therefore lead to new folders, and old ones do no harm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlff2d import checkpoint
from mlff2d.files import write_text

from ..data.convert import file_digest
from .choices import NOT_PREDICTIONS
from .method import Answer, Answers, Task
from .methods import load_method

_NAME = 12


def answers_of(method: str, task: Task, compute: bool = True) -> Answers | None:
    """What a method answers, from its folder or computed and kept; `task.folder` is that of all.

    None where it is not kept and shall not be computed. Answers some of which failed are computed
    again; what did not fail the method finds in its folder. Raises ValueError as the method does.
    """
    folder = folder_of(method, task)
    path = folder / "answers.json"
    if path.exists():
        there = _read(path)
        if not (compute and there.failed):
            return there
    if not compute:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    found = load_method(method)(replace(task, folder=folder))
    if found.signal is None:
        _write(found, path)
    return found


def folder_of(method: str, task: Task) -> Path:
    """What a method keeps for a task, beside what other methods keep for it."""
    own = _own_settings(method, task)
    name = f"{method}-{_digest(own)}" if own else method
    return task.folder / _digest(_data(task)) / name


def _own_settings(method: str, task: Task) -> str:
    """What only this method depends on."""
    own = ""
    if method.startswith("ce-"):
        own = task.config.expansion.model_dump_json()
    if method.startswith("energy-only"):
        own = task.config.energy_only.model_dump_json()
    if method in NOT_PREDICTIONS:  # these look at DFT results of what they are asked for
        own += json.dumps([[one.energy, _of(_there(one.relaxed))] for one in task.asked])
    return own


def _there(frame: Atoms | None) -> list[Atoms]:
    return [] if frame is None else [frame]


def _data(task: Task) -> str:
    """All that the answers of every method depend on, as text."""
    config = task.config
    settings = {
        "seed": task.seed,
        "dtype": config.dtype,
        "relax": config.relax.model_dump(mode="json"),
        "potentials": config.potentials.model_dump(mode="json"),
        "starts": [file_digest(checkpoint.locate(start)) for start in config.potentials.starts],
    }
    train = [[one.system, one.name, one.energy, _of(one.frames)] for one in task.train]
    asked = [[one.system, one.name, _of([one.start, one.ideal])] for one in task.asked]
    return json.dumps([settings, train, asked])


def _of(frames: Iterable[Atoms]) -> str:
    """A digest of geometries and labels."""
    digest = hashlib.sha256()
    for frame in frames:
        results = frame.calc.results if frame.calc is not None else {}
        arrays = [frame.numbers, frame.positions, frame.cell.array, results.get("energy")]
        arrays += [results.get("forces"), results.get("stress")]
        for array in arrays:
            digest.update(b"-" if array is None else np.asarray(array).tobytes())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_NAME]


def _write(found: Answers, path: Path) -> None:
    rows = [[*key, asdict(answer)] for key, answer in found.of.items()]
    facts = {name: dict(values) for name, values in found.facts.items()}
    content = {"answers": rows, "facts": facts, "failed": found.failed}
    write_text(json.dumps(content, indent=1) + "\n", path)


def _read(path: Path) -> Answers:
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        of = {(system, name): Answer(**values) for system, name, values in raw["answers"]}
        return Answers(of, raw["facts"], raw.get("failed", False))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; delete it and run the same command again") from error
