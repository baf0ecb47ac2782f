"""Rounds of explore, pick, label and retrain, to be read from top to bottom.

Every step ends with one file that appears as a whole. A step whose file is there is not done again,
so that a run that was killed goes on with the step it was in.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from rich.console import Console

from mlff2d import checkpoint
from mlff2d.devices import pick_device
from mlff2d.files import write_text
from mlff2d.potential import Potential

from ..config import ConfigError
from ..console import make_console
from ..data.convert import open_sources
from ..data.store import read_head
from ..lock import locked
from .begin import begin
from .config import ActiveConfig, Way
from .explore import explore, read_frames, write_frames
from .judge import calibrate, errors_on
from .labels import label, require_calculator
from .pick import marked, pick, print_picked
from .report import print_rounds, write_rounds
from .retrain import retrain
from .round_folder import RoundFolder


@dataclass
class ActiveRun:
    """A run under way.

    Attributes
    ----------
    starts : where exploration begins
    data, test : HDF5 files, labelled before the first round
    """

    config: ActiveConfig
    starts: list[Atoms]
    data: list[Path]
    test: list[Path]
    console: Console

    def folder(self, number: int) -> RoundFolder:
        """The files of a round."""
        return RoundFolder(self.config.run_dir, number)

    def files(self, number: int) -> list[Path]:
        """All that is labelled at the end of a round."""
        return [*self.data, *(self.folder(k).labelled for k in range(1, number + 1))]

    def models(self, number: int) -> list[str]:
        """The models that a round ends with, as files or names of shipped ones."""
        if number == 0 and not self.data:
            return list(self.config.models)
        folder = self.folder(number)
        members = range(self.config.committee.members)
        return [str(folder.member(k) / "best.pt") for k in members]

    def load(self, number: int) -> list[Potential]:
        """The same, loaded."""
        device, dtype = pick_device(self.config.device), getattr(torch, self.config.dtype)
        return [checkpoint.load(model, device, dtype) for model in self.models(number)]


def run_rounds(config: ActiveConfig, console: Console | None = None) -> int | None:
    """All rounds that a config asks for; those that are done are not done again.

    Returns the number of a signal that interrupted it (0 where its time was up), else None; it then
    goes on when called again. Raises ConfigError, StructureError, ModelFileError and OSError (one
    sentence) for what the user can mend.
    """
    console = console or make_console()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with locked(config.run_dir):
        run = _prepared(config, console)
        for number in range(config.rounds + 1):
            signal = _round(run, number)
            if signal is not None:
                console.print("Stopped; the same command goes on from there.")
                return signal
        reports = [json.loads(run.folder(k).report.read_text()) for k in range(config.rounds + 1)]
        print_rounds(reports, console)
        for path in write_rounds(reports, config.run_dir):
            console.print(f"Written: {path}")
    return None


def _prepared(config: ActiveConfig, console: Console) -> ActiveRun:
    """Everything that is given, read; refused where it does not fit what was begun."""
    begin(config)
    starts = read_frames(config.structures, console)
    if not starts:
        raise ConfigError(f"structures: none of those in {config.structures[0]} can be read.")
    files = {
        name: open_sources(given, config.run_dir, config.material_key)[0] if given else []
        for name, given in (("data", config.data), ("test", config.test))
    }
    return ActiveRun(config, starts, files["data"], files["test"], console)


def _round(run: ActiveRun, number: int) -> int | None:
    """One round, or what is left of it; the signal that interrupted it."""
    folder = run.folder(number)
    if folder.report.exists():
        return None
    folder.path.mkdir(parents=True, exist_ok=True)
    if number:
        if not folder.labelled.exists():
            require_calculator(run.config.label)
        for step in (_explore, _pick, _label):
            signal = step(run, number)
            if signal is not None:
                return signal
    files = run.files(number)
    if files:
        if number == 0:
            run.console.print("Round 0: training on the data given")
        signal = retrain(run.config, folder, _starts(run, number), files, run.console)
        if signal is not None:
            return signal
    _report(run, number)
    return None


def _explore(run: ActiveRun, number: int) -> int | None:
    folder = run.folder(number)
    if folder.explored.exists():
        return None
    run.console.print(f"\nRound {number}: exploring from {len(run.starts)} structures")
    potential = run.load(number - 1)[0]
    seed = [run.config.seed, number]
    found = explore(run.starts, potential, run.config.explore, folder.exploring, seed)
    if found.signal is not None:
        return found.signal
    _write_json({"frames": found.counts, "troubles": dict(found.troubles)}, folder.exploration)
    write_frames(found.frames, folder.explored)
    shutil.rmtree(folder.exploring, ignore_errors=True)
    kinds = ", ".join(f"{n} {mode}" for mode, n in found.counts.items())
    run.console.print(f"{len(found.frames)} frames: {kinds}")
    for reason, n in found.troubles.most_common(5):
        run.console.print(f"  {n} ended early: {reason}", soft_wrap=True)
    return None


def _pick(run: ActiveRun, number: int) -> None:
    folder, settings = run.folder(number), run.config.pick
    if folder.picked.exists():
        return
    frames = read_frames([folder.explored], run.console)
    draw = int(np.random.default_rng([run.config.seed, number, 1]).integers(2**31))
    chosen = pick(run.load(number - 1), frames, settings, draw)
    print_picked(chosen, len(frames), run.console)
    _write_json(chosen.as_dict(), folder.choice)
    write_frames(marked(frames, chosen), folder.picked)


def _label(run: ActiveRun, number: int) -> int | None:
    folder = run.folder(number)
    if folder.labelled.exists():
        return None
    config = run.config
    return label(folder.picked, folder.labelled, config.label, config.material_key, run.console)


def _starts(run: ActiveRun, number: int) -> list[str]:
    """The models that the members of a round are trained from."""
    is_first = number == 0 or run.config.committee.start == "models"
    return list(run.config.models) if is_first else run.models(number - 1)


def _report(run: ActiveRun, number: int) -> None:
    """The figures of a round, into its folder."""
    folder, config = run.folder(number), run.config
    models = run.load(number)
    report: dict[str, Any] = {
        "round": number,
        "frames": sum(read_head(path).n_frames for path in run.files(number)),
    }
    if number:
        choice = json.loads(folder.choice.read_text())
        report["picked_by"] = choice["way"]
        report["picked"] = len(choice["ids"])
        report["labelled"] = read_head(folder.labelled).n_frames
        before = run.load(number - 1)
        way: Way = "committee" if len(before) > 1 else choice["way"]
        found = calibrate(before, [folder.labelled], way, config.pick.over)
        report["new_frames"] = found.as_dict() | {"uncertainty_by": way}
    if run.test:
        metrics = [m.as_dict() for m in errors_on(models, run.test)]
        if not run.files(number):  # the models have another zero of energy than these labels
            metrics = [m | {"energy": None} for m in metrics]
        report["test"] = metrics
        if len(models) > 1:
            report["test_frames"] = calibrate(
                models, run.test, "committee", config.pick.over
            ).as_dict()
    _write_json(report, folder.report)


def _write_json(content: dict[str, Any], path: Path) -> None:
    write_text(json.dumps(content, indent=2) + "\n", path)
