"""Tables of results: on the terminal, as CSV and for the page."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

Cell = str | int | float | None


@dataclass
class Table:
    """Rows of cells under named columns.

    Attributes
    ----------
    key : name of its CSV file, without the ending
    title : of the table
    digits : decimals of the columns of floats, by name; others have four significant digits
    note : a sentence below it
    right : columns that hold numbers written as text
    """

    key: str
    title: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    digits: dict[str, int] = field(default_factory=dict)
    note: str = ""
    right: Sequence[str] = ()

    def text(self, column: int, cell: Cell) -> str:
        """A cell as it is shown to people."""
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            return "–"
        if isinstance(cell, float):
            digits = self.digits.get(self.columns[column])
            return f"{cell:.4g}" if digits is None else f"{cell:.{digits}f}"
        return f"{cell:,}" if isinstance(cell, int) else cell

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers only."""
        return self.columns[column] in self.right or all(
            not isinstance(row[column], str) for row in self.rows
        )

    def write_csv(self, folder: Path) -> Path:
        """Write it with all digits, absent as an empty cell; gives the path."""
        path = folder / f"{self.key}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(self.columns)
            for row in self.rows:
                table.writerow([plain(cell) for cell in row])
        return path

    def show(self, console: Console) -> None:
        """Print it."""
        console.print(self.title, style="bold", soft_wrap=True)  # a table wraps it to its width
        shown = RichTable()
        for column, name in enumerate(self.columns):
            shown.add_column(name, justify="right" if self.is_number(column) else "left")
        for row in self.rows:
            shown.add_row(*[self.text(column, cell) for column, cell in enumerate(row)])
        console.print(shown)
        if self.note:
            console.print(self.note)


def plain(cell: Cell) -> str:
    """A cell as a CSV file has it."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return ""
    return f"{cell:.8g}" if isinstance(cell, float) else str(cell)
