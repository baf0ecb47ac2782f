"""What `mlff2d relax` shows in the terminal: a bar while it runs, a table at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..relaxation.relax import CONVERGED, FAILED, STATUSES
from .relax_file import Row

_REASONS_SHOWN = 10


class RelaxProgress:
    """A progress bar on stderr; a context manager whose `update` is called after each row."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("relaxing"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=None, last="reading")

    def __enter__(self) -> RelaxProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, row: Row | None, done: int, total: int) -> None:
        """Show how many rows there are, and what became of the last."""
        last = f"{row.formula} {row.status}" if row else ""
        self._bar.update(self._task, completed=done, total=total, last=last)
        if row is None and done:
            self._bar.console.print(f"Going on behind the {done} structures already finished.")


def print_summary(rows: Sequence[dict[str, str]], frames: Path) -> None:
    """Print how many structures ended how, why those did that did not converge, and the files."""
    console = Console(highlight=False, soft_wrap=True)
    count = Counter(row["status"] for row in rows)
    table = Table(title=f"{len(rows)} structures")
    for heading in ("status", "structures", "share", "median steps", "median |area change|"):
        table.add_column(heading, justify="left" if heading == "status" else "right")
    for status in STATUSES:
        if count[status]:
            chosen = [row for row in rows if row["status"] == status]
            share = f"{100 * count[status] / len(rows):.1f} %"
            table.add_row(status, str(count[status]), share, _steps(chosen), _area_change(chosen))
    console.print(table)
    changed = sum(row["lattice_changed"] == "True" for row in rows)
    console.print(f"Lattice type changed: {changed} of {len(rows)}")
    odd = [row for row in rows if row["status"] != CONVERGED]
    for row in odd[:_REASONS_SHOWN]:
        # The reason of a failure names its structure itself.
        name = "" if row["status"] == FAILED else f"{row['index']} {row['formula']}: "
        console.print(f"  {row['status']}: {escape(name + row['reason'])}")
    if len(odd) > _REASONS_SHOWN:
        console.print(f"  and {len(odd) - _REASONS_SHOWN} more, see the table")
    console.print(f"Structures: {escape(str(frames))}")
    console.print(f"Table:      {escape(str(frames.with_suffix('.csv')))}")


def _steps(rows: Sequence[dict[str, str]]) -> str:
    steps = [int(row["steps"]) for row in rows if row["steps"]]
    return f"{median(steps):.0f}" if steps else ""


def _area_change(rows: Sequence[dict[str, str]]) -> str:
    changes = [
        abs(float(row["area_after"]) / float(row["area_before"]) - 1)
        for row in rows
        if row["area_after"]
    ]
    return f"{100 * median(changes):.2f} %" if changes else ""
