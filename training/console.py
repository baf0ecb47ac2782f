"""Where a run prints, and progress bars that show on a terminal only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from .distributed import is_main

T = TypeVar("T")

_SHOWN: list[Progress] = []
"""Bars on the terminal; there is one display of them."""


def make_console() -> Console:
    """Prints to stderr, as it is: file names and cells with brackets are no markup.

    Of several processes only the main one prints.
    """
    return Console(stderr=True, markup=False, highlight=False, quiet=not is_main())


@contextmanager
def bars(console: Console, *columns: ProgressColumn) -> Iterator[Progress]:
    """Bars that vanish at the end, on a terminal only; within others they are added to those."""
    if _SHOWN:
        before = set(_SHOWN[-1].task_ids)
        try:
            yield _SHOWN[-1]
        finally:
            for task in set(_SHOWN[-1].task_ids) - before:
                _SHOWN[-1].remove_task(task)
        return
    hidden = not console.is_terminal or console.quiet
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        _SHOWN.append(progress)
        try:
            yield progress
        finally:
            _SHOWN.pop()


def watched(items: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """The items, with a bar that tells how many have passed, of a total where it is known."""
    with bars(make_console()) as progress:
        yield from progress.track(items, description=description, total=total)
