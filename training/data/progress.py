"""How far the reading of files is, whoever reads them.

What reads structures from a file does not say where it is. On Linux the system does: the position
of each open file stands in /proc, compressed files included.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..console import bars, make_console

T = TypeVar("T")

_EVERY = 0.5  # seconds between two looks
_SEEKING = (".db", ".aselmdb", ".gpw")
"""Endings of files that are not read from front to back, where a position says nothing."""


class Position:
    """Bytes of some files that were read, as far as it can be known.

    Attributes
    ----------
    total : bytes in all; None where how far one is cannot be known
    """

    def __init__(self, files: Sequence[Path]) -> None:
        sizes = [file.stat().st_size for file in files]
        self._before: dict[str, int] = {}
        at = 0
        for file, size in zip(files, sizes, strict=True):
            self._before[str(file.resolve())] = at
            at += size
        known = Path("/proc/self/fdinfo").is_dir()
        seeking = any(file.suffix.lower() in _SEEKING for file in files)
        self.total = at if known and at and not seeking else None
        self._last = 0

    def now(self) -> int:
        """Bytes up to where the foremost of the files that are open is."""
        for number in os.listdir("/proc/self/fd"):
            try:
                before = self._before.get(os.readlink(f"/proc/self/fd/{number}"))
                if before is None:
                    continue
                with open(f"/proc/self/fdinfo/{number}") as info:
                    position = int(info.readline().split()[1])
            except (OSError, ValueError):  # closed in the meantime
                continue
            self._last = max(self._last, before + position)
        return self._last


def reading(items: Iterable[T], files: Sequence[Path], name: str) -> Iterator[T]:
    """The items read from files, with a bar on a terminal: how many, how far, how much longer."""
    console = make_console()
    position = Position(files)
    timing = [TaskProgressColumn(), TimeRemainingColumn()] if position.total else []
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *timing,
        TimeElapsedColumn(),
        TextColumn("{task.fields[count]:,} frames"),
    )
    shown = console.is_terminal
    with bars(console, *columns) as bar:
        task = bar.add_task(f"reading {name}", total=position.total, count=0)
        last = time.monotonic()
        for count, item in enumerate(items, 1):
            yield item
            if shown and time.monotonic() - last > _EVERY:
                last = time.monotonic()
                done = position.now() if position.total else None
                bar.update(task, completed=done, count=count)
