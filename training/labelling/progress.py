"""How far a labelling is, and how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..console import make_console
from .journal import DONE, FAILED

_LINE_SECONDS = 60
"""Between two lines where there is no terminal."""

POWER = 2.0
"""Time grows with this power of the number of atoms: 3, 6, 9 and 12 atoms of a sulfide took 20, 80,
160 and 280 s in GPAW; k points that grow fewer with the cell are in it."""


class LabelProgress:
    """A bar on stderr, or a line a minute where that is no terminal; a context manager.

    Parameters
    ----------
    todo : atoms of each structure that is left, by key
    total : structures, those that are finished too
    power : of the number of atoms, by which the time of a structure grows
    """

    def __init__(
        self,
        todo: Mapping[str, int],
        total: int,
        power: float = POWER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = make_console()
        self._cost = {key: float(n) ** power for key, n in todo.items()}
        self._left = sum(self._cost.values())
        self._spent = 0.0
        self._total, self._done, self._failed = total, total - len(todo), 0
        self._clock = clock
        self._begun = self._said = clock()
        self._bar = Progress(
            TextColumn("labelling"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=self._done, left="")

    def __enter__(self) -> LabelProgress:
        if self._done:
            self._console.print(f"{self._done} of {self._total} structures are finished already.")
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, key: str, status: str, reason: str) -> None:
        """Something came of a structure."""
        if status not in (DONE, FAILED):
            return
        self._done += 1
        self._spent += self._cost[key]
        self._left -= self._cost[key]
        if status == FAILED:
            self._failed += 1
            self._console.print(f"a structure failed: {reason}", soft_wrap=True)

    def tick(self) -> None:
        """Show it."""
        now = self._clock()
        text = self.left(now)
        self._bar.update(self._task, completed=self._done, left=text)
        if self._bar.disable and now - self._said >= _LINE_SECONDS:
            self._said = now
            self._console.print(f"labelling: {self._done}/{self._total}" + (text and f", {text}"))

    def left(self, now: float) -> str:
        """About how long it will take; nothing before one is finished."""
        if not self._spent or not self._left:
            return ""
        seconds = (now - self._begun) * self._left / self._spent
        return f"about {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            value = seconds / size
            return f"{value:.{int(value < 10)}f} {unit}"
    return f"{seconds:.0f} s"
