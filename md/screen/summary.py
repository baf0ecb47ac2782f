"""What `mlff2d relax` says at its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..relaxation.result import CONVERGED, FAILED, STATUSES
from .row import Row

_REASONS_SHOWN = 10


class Summary:
    """How many structures ended how; it keeps no rows but the first odd ones.

    Attributes
    ----------
    n_rows : structures so far
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self._count: Counter[str] = Counter()
        self._steps: dict[str, list[int]] = defaultdict(list)
        self._stretch: dict[str, list[float]] = defaultdict(list)
        self._lattices_changed = 0
        self._odd: list[Row] = []

    def add(self, row: Row) -> None:
        """One more structure."""
        self.n_rows += 1
        self._count[row.status] += 1
        if row.steps:
            self._steps[row.status].append(int(row.steps))
        if row.area_after:
            change = abs(float(row.area_after) / float(row.area_before) - 1)
            self._stretch[row.status].append(change)
        self._lattices_changed += row.lattice_changed == "True"
        if row.status != CONVERGED and len(self._odd) < _REASONS_SHOWN:
            self._odd.append(row)

    def print(self, outputs: Sequence[Path]) -> None:
        """Print the counts, why structures did not converge, and where everything is."""
        console = Console(highlight=False, soft_wrap=True)
        console.print(self._table())
        for status, meaning in STATUSES.items():
            if self._count[status]:
                console.print(f"{status + ':':11} {meaning}")
        console.print(f"Lattice type changed in {self._lattices_changed} of {self.n_rows}")
        for row in self._odd:
            # The reason of a failure names its structure itself.
            name = "" if row.status == FAILED else f"{row.index} {row.formula}: "
            console.print(f"  {row.status}: {escape(name + row.reason)}")
        more = self.n_rows - self._count[CONVERGED] - len(self._odd)
        if more:
            console.print(f"  and {more} more, see the table")
        for what, path in zip(("Structures:", "Table:"), outputs, strict=True):
            console.print(f"{what:11} {escape(str(path))}")

    def _table(self) -> Table:
        table = Table(title=f"{self.n_rows} structures")
        for heading in ("status", "structures", "share", "median steps", "median |area change|"):
            table.add_column(heading, justify="left" if heading == "status" else "right")
        for status in STATUSES:
            if self._count[status]:
                steps, stretch = self._steps[status], self._stretch[status]
                table.add_row(
                    status,
                    str(self._count[status]),
                    f"{100 * self._count[status] / self.n_rows:.1f} %",
                    f"{median(steps):.0f}" if steps else "",
                    f"{100 * median(stretch):.2f} %" if stretch else "",
                )
        return table
