"""Where a run prints, and progress bars that show on a terminal only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def make_console() -> Console:
    """Prints to stderr, as it is: file names and cells with brackets are no markup."""
    return Console(stderr=True, markup=False, highlight=False)


def watched(items: Iterable[T], description: str) -> Iterable[T]:
    """The items, with a bar that tells how many have passed."""
    console = make_console()
    return track(
        items,
        description=description,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
