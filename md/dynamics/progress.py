"""How far a run is, on the terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS = 0.2  # between two changes of the bar
_LINE_SECONDS = 60.0  # between two lines where there is no terminal


class MDProgress:
    """A bar on stderr, or a line a minute where that is no terminal; a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("moving"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[moving]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, moving="")
        self._shown = time.monotonic()

    def __enter__(self) -> MDProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def tell(self, text: str) -> None:
        """A sentence above the bar."""
        self._console.print(text, markup=False)

    def update(self, done: int, total: int, moving: int) -> None:
        """So many steps are done, by so many replicas that still move."""
        now = time.monotonic()
        wait = _SECONDS if self._console.is_terminal else _LINE_SECONDS
        if now - self._shown < wait and done < total:
            return
        self._shown = now
        what = f"{moving} replica{'s' if moving != 1 else ''}"
        self._bar.update(self._task, completed=done, total=total, moving=what)
        if not self._console.is_terminal and done < total:
            self._console.print(f"step {done} of {total}, {what}")
