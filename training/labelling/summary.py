"""What is said at the end of a labelling."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from ..console import make_console
from .check import Row
from .compose import Outcome
from .run_folder import folder_of


def print_outcome(outcome: Outcome, output: Path) -> None:
    """A table of what came of it, and the reasons of what failed."""
    console = make_console()
    table = Table(title=str(output), show_header=False)
    table.add_row("structures labelled", f"{outcome.done:,}")
    if outcome.not_converged:
        table.add_row("of these not relaxed to the end", f"{outcome.not_converged:,}")
    table.add_row("failed", f"{outcome.failed:,}")
    if outcome.left:
        table.add_row("left", f"{outcome.left:,}")
    table.add_row("frames written", f"{outcome.frames:,}")
    if outcome.cpu_s:
        finished = max(1, outcome.done + outcome.failed)
        table.add_row("CPU time", f"{outcome.cpu_s / 3600:.2f} h")
        table.add_row("a structure", f"{outcome.cpu_s / finished:.1f} s in the mean")
    console.print(table)
    if outcome.failures:
        reasons = Table("failed because", "structures")
        for reason, n in sorted(outcome.failures.items(), key=lambda item: -item[1])[:10]:
            reasons.add_row(reason, f"{n:,}")
        console.print(reasons)
        console.print(f"Which: {folder_of(output) / 'failed.csv'}; --retry tries them again.")
    if outcome.others:
        console.print(
            f"{outcome.others} structures that were labelled here are not in the input any more; "
            "they are kept, and left out of the output."
        )
    for note in outcome.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    if outcome.left:
        console.print("What was computed is kept: the same command goes on from there.")


def print_check(rows: list[Row], where: str) -> int:
    """A table of what was compared, and a verdict; 1 where something is wrong, else 0."""
    console = make_console()
    table = Table("", "unit", "as given", "by energies", "difference", "tolerance", "", title=where)
    for row in rows:
        numbers = (row.analytic, row.numeric, row.difference)
        verdict = "fine" if row.fine else "WRONG"
        table.add_row(
            row.what, row.unit, *(f"{x:.4f}" for x in numbers), f"{row.tolerance:g}", verdict
        )
    console.print(table)
    if all(row.fine for row in rows):
        console.print("Forces and stress are those of the energy.")
        return 0
    console.print(
        "Forces or stress are NOT those of the energy: converge the self-consistent field further, "
        "raise the cut-off, or do not use these settings."
    )
    return 1
