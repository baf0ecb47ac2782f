"""Where a run prints, and progress bars that show on a terminal only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from .distributed import is_main

T = TypeVar("T")


def make_console() -> Console:
    """Prints to stderr, as it is: file names and cells with brackets are no markup.

    Of several processes only the main one prints.
    """
    return Console(stderr=True, markup=False, highlight=False, quiet=not is_main())


def watched(items: Iterable[T], description: str, total: float | None = None) -> Iterable[T]:
    """The items, with a bar that tells how many have passed, of a total where it is known."""
    console = make_console()
    return track(
        items,
        description=description,
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal or console.quiet,
    )
