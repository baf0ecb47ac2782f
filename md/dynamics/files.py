"""The files of a run, by the name of its trajectory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..screen.journal import locked
from . import restart
from .log import LogFile
from .restart import Snapshot
from .trajectory import BEGINNING, FrameFile, check_suffix


class RunFiles:
    """What lies where.

    Parameters
    ----------
    output : name of the trajectory; of several replicas each has its number in the name
    n_replicas : of all structures

    Raises ValueError for a name that says no format, FileNotFoundError where its folder is missing.
    """

    def __init__(self, output: Path, n_replicas: int) -> None:
        check_suffix(output)
        if not output.parent.is_dir():
            raise FileNotFoundError(f"the folder {output.parent} does not exist; make it first")
        self.output = output
        self.n_replicas = n_replicas
        self.log = LogFile(output.with_suffix(".csv"))
        self.state = output.with_suffix(".state")

    @property
    def summary(self) -> Path:
        """The table of means."""
        return self._named("-summary", ".csv")

    @property
    def figure(self) -> Path:
        """The log, drawn."""
        return self.output.with_suffix(".png")

    def trajectory(self, number: int) -> FrameFile:
        """The frames of a replica."""
        return FrameFile(self._named(self._number(number), self.output.suffix))

    def last(self, number: int) -> Path:
        """The last frames of a replica at full rate."""
        return self._named(f"{self._number(number)}-last", ".extxyz")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from the run. Raises ValueError where one is at it."""
        with self.log.path.open("ab") as file:
            if not locked(file):
                raise ValueError(
                    f"another run is writing to {self.output}; wait for it or give another -o"
                )
            try:
                yield
            finally:
                if not (self.state.exists() or self.log.path.stat().st_size):
                    self.log.path.unlink()  # nothing came of it

    def begun(self, settings: dict[str, Any], device: torch.device, anew: bool) -> Snapshot | None:
        """Where a run that has begun goes on, its files cut to there; None where none has.

        With `anew` what is there is removed. Raises ValueError for files that belong to no run, and
        for a run with other settings.
        """
        if anew:
            self._remove()
        elif not self.state.exists():
            self._refuse_foreign()
        if not self.state.exists():
            return None
        snapshot = restart.load(self.state, device)
        restart.refuse_others(self.output, snapshot.settings, settings)
        self.log.cut(snapshot.log)
        for number in range(self.n_replicas):
            self.trajectory(number).cut(snapshot.places.get(number, BEGINNING))
            if number not in snapshot.ended:
                self.last(number).unlink(missing_ok=True)
        return snapshot

    def _remove(self) -> None:
        """An earlier run, which may have had more replicas."""
        for path in (*self.of_replicas(), *self.earlier()):
            path.unlink(missing_ok=True)
        self.log.cut(0)
        self.state.unlink(missing_ok=True)

    def earlier(self) -> list[Path]:
        """The files of replicas of the run that has begun under this name, if there is one."""
        try:
            n_before = restart.load(self.state, torch.device("cpu")).n_replicas
        except (ValueError, OSError):
            return []
        return RunFiles(self.output, n_before).of_replicas()

    def _refuse_foreign(self) -> None:
        for path in (self.log.path, *self.of_replicas(), self.summary, self.figure):
            if path.exists() and path.stat().st_size:
                raise ValueError(
                    f"{path} exists and belongs to no run that could go on; "
                    "give another -o, or add --restart to write over it"
                )

    def of_replicas(self) -> list[Path]:
        """The files of which each replica has its own, there or not."""
        numbers = range(self.n_replicas)
        return [self.trajectory(n).path for n in numbers] + [self.last(n) for n in numbers]

    def _number(self, number: int) -> str:
        width = len(str(self.n_replicas - 1))
        return f"-{number:0{width}}" if self.n_replicas > 1 else ""

    def _named(self, ending: str, suffix: str) -> Path:
        return self.output.with_name(self.output.stem + ending + suffix)
