"""How far a screen is, and an honest estimate of how long it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .row import Record

_ENOUGH = 5  # finished structures from which on a remaining time is more than a guess
_WINDOW = 120.0  # seconds over which the speed is measured
_LINE_SECONDS = 60.0  # between two lines where there is no terminal


class Estimate:
    """The time that is left, from what all structures together did so far.

    The quick ones finish first, so the steps of those that are finished say too little. Taken are
    the steps of all, unfinished ones too: steps over finished structures is the maximum likelihood
    estimate of the mean number of steps where each is as likely to be the last as any other. A
    structure never takes more than `max_steps`.
    """

    def __init__(self, remaining: int, max_steps: int) -> None:
        self.remaining, self.max_steps = remaining, max_steps
        self._finished, self._steps = 0, 0
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, finished: int, structure_steps: int, now: float) -> None:
        """So many structures were finished, with so many steps of all, at that time in seconds."""
        self.remaining -= finished
        self._finished += finished
        self._steps += structure_steps
        if not self._marks or now - self._marks[-1][0] > _WINDOW / 100:
            self._marks.append((now, self._steps))
        while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW:
            self._marks.popleft()

    def seconds(self, now: float) -> float | None:
        """Seconds that are left; None where too little is known."""
        if not self.remaining:
            return 0.0
        if self._finished < _ENOUGH or not self._steps:
            return None
        since, steps = self._marks[0]
        if now <= since or self._steps <= steps:
            return None
        each = min(self._steps / self._finished, self.max_steps)
        return self.remaining * each * (now - since) / (self._steps - steps)


def duration(seconds: float) -> str:
    """A length of time as one says it: 40 s, 12 min, 3.5 h, 2 d."""
    for unit, size, digits in (("d", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 1.5 * size:
            value = seconds / size
            return f"{value:.{digits if value < 10 else 0}f} {unit}"
    return f"{seconds:.0f} s"


@contextmanager
def counting() -> Iterator[Callable[[int, int], None]]:
    """What to tell how many of how many files are counted; shown on a terminal only."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with console.status("counting the structures") as status:
        yield lambda done, total: status.update(f"counting the structures: file {done} of {total}")


class ScreenProgress:
    """A bar on stderr, or a line a minute where that is no terminal; a context manager.

    Parameters
    ----------
    total : structures of which this process shows the progress
    done : of them those that were finished before
    max_steps : of a relaxation
    clock : seconds, monotonic
    """

    def __init__(
        self,
        total: int,
        done: int,
        max_steps: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._total, self._done = total, done
        self._estimate = Estimate(total - done, max_steps)
        self._clock = clock
        self._begun = self._said = clock()
        self._bar = Progress(
            TextColumn("relaxing"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[last]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, left="", last="")

    def __enter__(self) -> ScreenProgress:
        if self._done:
            self._console.print(
                f"{self._done} of {self._total} structures are finished already; going on."
            )
        self._bar.start()
        self.update([], 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._bar.disable:
            self._console.print(self._line())

    def update(self, finished: list[Record], structure_steps: int) -> None:
        """These were finished, while all together took so many steps."""
        now = self._clock()
        self._done += len(finished)
        self._estimate.add(len(finished), structure_steps, now)
        if self._bar.disable:
            if now - self._said >= _LINE_SECONDS:
                self._said = now
                self._console.print(self._line())
            return
        self._bar.update(self._task, completed=self._done, left=self._left())
        if finished:
            row = finished[-1].row
            self._bar.update(self._task, last=f"{row.formula} {row.status}")

    def _left(self) -> str:
        seconds = self._estimate.seconds(self._clock())
        return "" if not seconds else f"about {duration(seconds)} left"

    def _line(self) -> str:
        passed = duration(self._clock() - self._begun)
        left = self._left()
        return f"relaxing: {self._done}/{self._total} after {passed}" + (left and f", {left}")
