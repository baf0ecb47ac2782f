"""What trainings on configurations of alloys have in common: their frames, split and settings.

A configuration is never split. A part of those to learn from validates; end members never do, as
every formation energy hangs on them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from rich.console import Console

from mlff2d.files import write_text

from ..config import ConfigError
from ..data.splits import part_of
from ..loop import Outcome, train
from ..sections import Config
from ..setup import run_files
from .frames import energy_of
from .method import Answer, Answers, Task
from .system import Configuration

CONFIG = "config"
"""The entry of info that names the configuration of a frame; what the split keeps together."""

VALIDATION = 0.15
"""Share of the frames that validate."""

NEAR = 0.01
"""eV/atom above the relaxed frame, up to which a frame is near the minimum."""

_FEWEST_MIXED = 2
_DRAWS = 2000


@dataclass(frozen=True)
class Group:
    """Systems that are learnt together.

    Attributes
    ----------
    name : of the system, or "all"
    train, asked : their configurations
    folder : for what is learnt
    """

    name: str
    systems: tuple[str, ...]
    train: tuple[Configuration, ...]
    asked: tuple[Configuration, ...]
    folder: Path

    @property
    def facts_of(self) -> str:
        """What facts are of, as `Answers.facts` names it: a system, or "" for all."""
        return "" if self.name == "all" else self.name


def groups(task: Task) -> list[Group]:
    """All systems of a task together, or each alone, as `potentials.together` says."""
    names = tuple(task.systems)
    parts = {"all": names} if task.config.potentials.together else {name: (name,) for name in names}
    return [
        Group(
            name,
            systems,
            tuple(one for one in task.train if one.system in systems),
            tuple(one for one in task.asked if one.system in systems),
            task.folder / name,
        )
        for name, systems in parts.items()
    ]


def by_groups(task: Task, answer: Callable[[Group], Answers]) -> Answers:
    """Answers of all groups; one that cannot be learnt says why, for all its configurations.

    Raises ValueError as the first does, where none can be learnt.
    """
    found = Answers({})
    everything, errors = groups(task), []
    for group in everything:
        try:
            said = answer(group)
        except ValueError as error:
            errors.append(error)
            reason = " ".join(str(error).split())
            lost = {(one.system, one.name): Answer(math.nan, reason=reason) for one in group.asked}
            said = Answers(lost, {group.facts_of: {"reason": reason}})
        found = Answers(
            {**found.of, **said.of}, {**found.facts, **said.facts}, bool(errors), said.signal
        )
        if found.signal is not None:
            return found
    if len(errors) == len(everything):
        raise errors[0]
    return found


def labelled_frames(configurations: Iterable[Configuration], relaxed: bool = False) -> list[Atoms]:
    """All DFT frames of some configurations, or the relaxed ones, each once, `CONFIG` in info.

    The energy is that of which formation energies are made. Of frames that several systems have,
    such as those of a shared end member, the first counts.
    """
    frames: dict[bytes, Atoms] = {}
    for one in configurations:
        for frame in [one.relaxed] if relaxed and one.relaxed is not None else one.frames:
            results = {"energy": energy_of(frame)} | {
                key: frame.calc.results[key]
                for key in ("forces", "stress")
                if frame.calc.results.get(key) is not None
            }
            made = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
            made.calc = SinglePointCalculator(made, **results)
            made.info[CONFIG] = label_of(one)
            if "level" in frame.info:
                made.info["level"] = frame.info["level"]
            frames.setdefault(_bytes_of(made), made)
    return list(frames.values())


def near_minima(frames: Sequence[Atoms], configurations: Iterable[Configuration]) -> list[bool]:
    """Of labelled frames those whose energy is hardly above that of the relaxed one."""
    lowest = {
        label_of(one): energy_of(one.relaxed) / len(one.relaxed)
        for one in configurations
        if one.relaxed is not None
    }
    return [
        energy_of(frame) / len(frame) <= lowest.get(frame.info[CONFIG], -np.inf) + NEAR
        for frame in frames
    ]


def without_energy(frame: Atoms) -> Atoms | None:
    """The same with forces and stress alone; None where it has none of them."""
    results = {key: value for key, value in frame.calc.results.items() if key != "energy"}
    made = frame.copy()
    made.calc = SinglePointCalculator(made, **results)
    return made if results else None


def label_of(one: Configuration) -> str:
    """A name of a configuration that no other system has."""
    return f"{one.system}/{one.name}"


def _bytes_of(atoms: Atoms) -> bytes:
    arrays = (atoms.numbers, atoms.positions, atoms.cell.array, np.array(energy_of(atoms)))
    return b"".join(array.tobytes() for array in arrays)


def write_frames(frames: Sequence[Atoms], path: Path) -> None:
    """Write extended XYZ, where the file does not hold just that: a run looks at its date."""
    text = StringIO()
    write(text, frames, format="extxyz")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text.getvalue():
        write_text(text.getvalue(), path)


def split_for(frames: Sequence[Atoms], group: Group, seed: int) -> dict[str, Any]:
    """The section `split` for frames with `CONFIG`; with too few configurations they are split.

    They are then given names of their own, in place, and end members validate too, all but the
    lowest frame of each. Raises ConfigError for too few frames.
    """
    ends = {label_of(one) for one in group.train if one.end_member is not None}
    labels = [str(frame.info[CONFIG]) for frame in frames]
    pinned = ends & set(labels)
    if len(set(labels) - ends) < _FEWEST_MIXED:
        order = sorted(range(len(frames)), key=lambda k: -_per_atom(frames[k]))
        lowest = {labels[k]: k for k in order}
        pinned = {f"{label}#{lowest[label]}" for label in pinned}
        labels = [f"{label}#{k}" for k, label in enumerate(labels)]
        for frame, label in zip(frames, labels, strict=True):
            frame.info[CONFIG] = label
    if not set(labels) - pinned:
        raise ConfigError(
            f"{group.name}: there are {len(labels)} frames to learn from, one of each end member, "
            "and none to validate on; give more DFT frames."
        )
    draw = _split_seed(labels, pinned, seed)
    if draw is None:
        raise ConfigError(
            f"{group.name}: {len(labels)} frames of {len(set(labels))} configurations cannot be "
            "split into some to train and some to validate on; give more DFT frames."
        )
    return {"by": "material", "val": VALIDATION, "test": 0.0, "seed": draw}


def _per_atom(frame: Atoms) -> float:
    """eV/atom; zero without an energy, as of structures of which there is one each."""
    return energy_of(frame) / len(frame) if frame.calc is not None else 0.0


def _split_seed(labels: Sequence[str], pinned: set[str], seed: int) -> int | None:
    """A seed with which about as many frames as wanted validate, none of them `pinned`.

    Names are drawn one by one, so that most seeds take too many, too few or the wrong ones.
    """
    counts = Counter(labels)
    free = [label for label in counts if label not in pinned]
    wanted = max(VALIDATION * len(labels), min(counts[label] for label in free))
    best, least = None, math.inf
    for draw in range(seed * _DRAWS, (seed + 1) * _DRAWS):
        if any(part_of(label, draw, VALIDATION, 0.0) != "train" for label in pinned):
            continue
        n = sum(counts[x] for x in free if part_of(x, draw, VALIDATION, 0.0) == "val")
        if 0 < n < len(labels) and abs(n - wanted) < least:
            best, least = draw, abs(n - wanted)
        if least <= 0.1 * wanted:
            break
    return best


def epochs_for(frames: Sequence[Atoms], steps: int, batch_size: int) -> int:
    """Passes over the part that is trained on that make about so many steps."""
    n_train = round((1 - VALIDATION) * len(frames))
    return max(1, round(steps / math.ceil(max(n_train, 1) / batch_size)))


def trained(config: Config) -> Outcome | None:
    """Train quietly, or go on; the outcome where it was stopped, None where it is finished."""
    if run_files(config.run_dir)["metrics"].exists():
        return None
    outcome = train(config, Console(quiet=True))
    return outcome if outcome.stopped else None
