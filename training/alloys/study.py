"""A study of alloys, to be read from top to bottom.

Everything that takes time is kept in the run folder as it is done, and read from there when the
same command is given again; see `kept`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import ase.io
import numpy as np
import torch
from rich.console import Console

from mlff2d.errors import counted
from mlff2d.files import replacing

from ..config import ConfigError
from ..console import bars, make_console
from ..lock import locked
from .candidates import candidates
from .choices import NOT_PREDICTIONS, STEPS
from .config import AlloyConfig
from .findings import Study
from .formation import dft_formation
from .frames import read_frames
from .judge import judge
from .kept import answers_of, folder_of
from .method import Answer, Answers, Task
from .potentials import FINE_TUNED, TRAINED, expanded, final_potential
from .report import write_report
from .splits import Split, smaller, splits
from .system import Configuration, System, build_system
from .tables import cells_table, predicted_table
from .training import groups
from .tuning import final_file

ABSURD = 2.0
"""eV per shared site, which no formation energy of a mixture reaches."""


class Stopped(Exception):
    """A signal ended the study; what was finished is kept."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def run_study(
    config: AlloyConfig, steps: Iterable[str] = tuple(STEPS), console: Console | None = None
) -> int | None:
    """The steps named, and the report; the number of a signal that interrupted it, else None.

    Raises ConfigError, StructureError, ModelFileError, ValueError and OSError (one sentence) for
    what the user can mend.
    """
    console = console or make_console()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with locked(config.run_dir):
        study = prepare(config, console)
        signal = _steps(study, set(steps), console)
        for path in write_report(study, console):
            console.print(f"Written: {path}", soft_wrap=True)
    return signal


def _steps(study: Study, steps: set[str], console: Console) -> int | None:
    """The steps named, of the others what is kept; the report is written after each."""
    try:
        for step, do in _DO.items():
            do(study, console, step in steps)
            if step in steps:
                write_report(study, Console(quiet=True))
    except Stopped as stop:
        console.print("Stopped; the same command goes on from there.")
        return stop.signal
    finally:
        for failure in study.failures.values():
            console.print(f"Note: {failure}.", soft_wrap=True)
    return None


def prepare(config: AlloyConfig, console: Console) -> Study:
    """Everything that is given, read and sorted by system. Raises ConfigError and ValueError."""
    frames, notes = read_frames(config.frames)
    systems: dict[str, System] = {}
    for given in config.systems:
        system = build_system(given, frames, config.max_fmax, config.max_smax)
        if system.name in systems:
            raise ConfigError(
                f"systems: {system.name} is given twice; leave one of them out, or give it a name."
            )
        systems[system.name] = system
    _refuse_overlap(systems)
    compared = {}
    for name, system in systems.items():
        n = len(system.with_dft)
        if n >= config.min_configurations:
            try:
                system.require_ends()
            except ValueError as error:
                notes.append(f"{error}; it is left out of the comparison")
            else:
                compared[name] = system
                notes += _absurd(system)
        elif config.frames:
            notes.append(
                f"{name} has {counted(n, 'configuration')} that DFT relaxed, and "
                f"{config.min_configurations} are wanted to compare methods; it is left out there"
            )
    cells = {name: list(candidates(s, config.cells, config.seed)) for name, s in systems.items()}
    notes += [f"{name}: {note}" for name, system in systems.items() for note in system.notes]
    study = Study(config, systems, compared, cells, notes)
    for note in notes:
        console.print(f"Note: {note.rstrip('.')}.", soft_wrap=True)
    return study


def _absurd(system: System) -> list[str]:
    """A sentence on formation energies that no alloy has."""
    energies = dft_formation(system.with_dft)
    places = np.flatnonzero(abs(energies) > ABSURD)
    if not len(places):
        return []
    first = system.with_dft[places[0]].name
    return [
        f"{system.name}: {counted(len(places), 'configuration')} of {len(energies)} with formation "
        f"energies beyond {ABSURD:g} eV per shared site, {first} with {energies[places[0]]:.3g}; "
        "see whether all frames are of the same settings, end members among them"
    ]


def _refuse_overlap(systems: dict[str, System]) -> None:
    """Raise ConfigError for alloys of one phase that have mixtures in common."""
    for one, other in combinations(systems.values(), 2):
        common = set(one.lattice.shared) & set(other.lattice.shared)
        same = one.alloy.parent.symbols.formula.count().keys() - set(one.lattice.shared)
        same_phase = one.alloy.phase == other.alloy.phase
        if same_phase and len(common) > 1 and same <= set(other.alloy.parent.symbols):
            raise ConfigError(
                f"systems: {one.name} and {other.name} have mixtures of "
                f"{', '.join(sorted(common))} in common, and one would learn what the other holds "
                "out; study them in two runs."
            )


def _cells(study: Study, console: Console, asked: bool) -> None:
    """All configurations in files: where potentials begin, and what DFT says."""
    for name, system in study.systems.items() if asked else ():
        everything = [*system.configurations, *study.cells[name]]
        path = study.config.run_dir / "cells" / f"{name}.extxyz"
        path.parent.mkdir(exist_ok=True)
        ase.io.write(path, [one.start for one in everything])
        replace(cells_table(system, everything), key=name).write_csv(path.parent)
        console.print(
            f"{name}: {counted(len(system.with_dft), 'configuration')} that DFT relaxed, "
            f"{len(everything) - len(system.with_dft)} without."
        )


def _compare(study: Study, console: Console, asked: bool) -> None:
    whole = splits(study.with_dft, study.config.splits, study.config.seed)
    _judge(study, whole, console, asked)


def _curve(study: Study, console: Console, asked: bool) -> None:
    whole = splits(study.with_dft, study.config.splits, study.config.seed)
    largest = max((_learnt(whole[0], name) for name in study.compared), default=0)
    sizes = [size for size in study.config.curve if size < largest]
    parts = [smaller(split, size, study.config.seed) for size in sizes for split in whole]
    _judge(study, parts, console, asked)


def _learnt(split: Split, system: str) -> int:
    return sum(one.system == system for one in split.train)


def _is_smaller(split: Split, system: System) -> bool:
    """Whether a system has more than a learning curve asks for; true of what is no part of one."""
    held = sum(one.system == system.name for one in split.test)
    return split.size is None or split.size < len(system.with_dft) - held


def _judge(study: Study, parts: Sequence[Split], console: Console, compute: bool) -> None:
    """Every method on every split, or of these what is kept."""
    if not study.compared:
        return
    methods = expanded(study.config)
    total = len(parts) * len(methods)
    with bars(console) as progress:
        bar = progress.add_task("comparing", total=total)
        for split in parts:
            for method in methods:
                size = "" if split.size is None else f", {split.size} configurations"
                progress.update(bar, description=f"{method}, split {split.number + 1}{size}")
                task = _task(study, split.train, study.with_dft, split.number)
                answers = _answers(study, method, task, compute)
                for system in study.compared.values():
                    if answers and _is_smaller(split, system):
                        study.judged.append(judge(system, method, split, answers))
                progress.advance(bar)


def _task(
    study: Study, train: Sequence[Configuration], asked: Sequence[Configuration], number: int
) -> Task:
    systems = {name: study.systems[name] for name in {one.system for one in asked}}
    folder = study.config.run_dir / "kept"
    return Task(study.config, systems, train, asked, folder, study.config.seed + number)


def _answers(study: Study, method: str, task: Task, compute: bool = True) -> Answers | None:
    """What a method answers, nothing and a note where it cannot learn; None where none is kept."""
    try:
        found = answers_of(method, task, compute)
    except ValueError as error:
        study.failures.setdefault((method, ""), f"{method}: {' '.join(str(error).split())}")
        return Answers({})
    if found is not None and found.signal is not None:
        raise Stopped(found.signal)
    if found is not None:
        study.facts[method] = found.facts
        _note_lost(study, method, task, found)
    return found


def _note_lost(study: Study, method: str, task: Task, found: Answers) -> None:
    """Say why configurations have no formation energy by a method, where that is so first."""
    for system in task.systems:
        train, asked = task.of(system)
        said = {one.name: found.of.get((system, one.name), Answer(np.nan)) for one in asked}
        lost = {name: one for name, one in said.items() if not np.isfinite(one.formation)}
        if lost and (method, system) not in study.failures:
            name, first = next(iter(lost.items()))
            why = ": ".join(" ".join(part.split()) for part in (first.status, first.reason) if part)
            study.failures[method, system] = (
                f"{method} has no formation energy for {len(lost)} of "
                f"{counted(len(said), 'configuration')} of {system}, after learning from "
                f"{len(train)}" + (f"; of {name}: {why}" if why else "")
            )


def _predict(study: Study, console: Console, asked: bool) -> None:
    """All configurations, by methods that have learnt from everything."""
    if not study.compared:
        return
    task = _final(study)
    for method in expanded(study.config):
        if method in NOT_PREDICTIONS:
            continue  # of a configuration without DFT results they have nothing to say
        answers = _answers(study, method, task, asked)
        if answers is not None:
            study.final[method] = answers
    if not study.final:
        return
    folder = study.config.run_dir / "predicted"
    folder.mkdir(exist_ok=True)
    for name in study.compared:
        own = [one for one in task.asked if one.system == name]
        replace(predicted_table(name, own, study.final), key=name).write_csv(folder)
    _write_models(study, task, folder)


def _write_models(study: Study, task: Task, folder: Path) -> None:
    """The potentials that were trained on everything, as files for other use."""
    for method in study.final:
        if method.partition(":")[0] not in TRAINED:
            continue
        for group in groups(replace(task, folder=folder_of(method, task))):
            model = final_file(group.folder)
            if model.exists():
                with replacing(folder / f"{method.replace(':', '-')}-{group.name}.pt") as file:
                    file.write(model.read_bytes())


def _final(study: Study) -> Task:
    """To learn from everything, and to answer for everything."""
    cells = [one for name in study.compared for one in study.cells[name]]
    return _task(study, study.with_dft, [*study.with_dft, *cells], 0)


def _monte_carlo(study: Study, console: Console, asked: bool) -> None:
    how = study.config.monte_carlo
    if how is None or not asked:
        return
    from .montecarlo import run_monte_carlo

    by_potential = any(by != "expansion" for by in how.by) and FINE_TUNED in study.config.methods
    folder = None
    if by_potential and study.compared:
        task = _final(study)
        if (answers := _answers(study, FINE_TUNED, task)) and answers.of:
            folder = folder_of(FINE_TUNED, task)
    for system in study.compared.values():
        potential = None if folder is None else final_potential(folder, system, study.config)
        found = run_monte_carlo(system, study.config, console, potential)
        study.monte_carlo += found
        for one in found:
            if one.signal is not None:
                raise Stopped(one.signal)


_DO = {
    "cells": _cells,
    "compare": _compare,
    "curve": _curve,
    "predict": _predict,
    "monte-carlo": _monte_carlo,
}
