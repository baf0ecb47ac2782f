"""The results of an analysis as CSV files and on the terminal."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mlff2d.files import write_text

from .analyse import Analysis
from .averages import QUANTITIES, Mean

SQUARE_METRES_PER_SECOND = 1e-8
"""1 Å²/ps in m²/s."""

_PRINTED = ("temperature", "area", "a", "b", "thickness", "corrugation")
_SHOWN = 20


def write_tables(analysis: Analysis, folder: Path) -> list[Path]:
    """Write a CSV file of everything that was found; their paths."""
    paths: list[Path] = []

    def write(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        lines = [[_as_text(value) for value in row] for row in rows]
        writer.writerows(lines)
        if lines:
            paths.append(folder / f"{name}.csv")
            write_text(text.getvalue(), paths[-1])

    names = [f"{name}{end}" for name in QUANTITIES for end in ("", "_error")]
    write(
        "averages",
        ("name", "formula", "frames", "start_ps", "end_ps", *names),
        (
            (
                *(row.name, row.formula, row.n_frames, row.start, row.end),
                *(x for name in QUANTITIES for x in _both(row.means[name])),
            )
            for row in analysis.averages
        ),
    )
    groups = analysis.groups
    write(
        "rdf",
        ("name", "pair", "r", "g"),
        (
            (group.name, pair, r, value)
            for group in groups
            for pair, g in group.rdf.g.items()
            for r, value in zip(group.rdf.r, g, strict=True)
        ),
    )
    moved = [(group.name, element, d) for group in groups for element, d in group.diffusion.items()]
    write(
        "msd",
        ("name", "element", "lag_ps", "msd"),
        (
            (name, element, lag, value)
            for name, element, d in moved
            for lag, value in zip(d.lag, d.msd, strict=True)
        ),
    )
    write(
        "diffusion",
        ("name", "element", "D_A2_per_ps", "error"),
        ((name, element, d.coefficient, d.error) for name, element, d in moved),
    )
    waves = [(group.name, group.ripples) for group in groups if group.ripples is not None]
    write(
        "ripples",
        ("name", "q", "square", "error"),
        (
            (name, *point)
            for name, found in waves
            for point in zip(found.q, found.square, found.error, strict=True)
        ),
    )
    write(
        "rigidity",
        ("name", "temperature", "area", "q_from", "q_to", "rigidity", "error", "exponent"),
        (
            (name, w.temperature, w.area, *w.q_range, w.rigidity, w.rigidity_error, w.exponent)
            for name, w in waves
        ),
    )
    write(
        "expansion",
        ("formula", "area_at_0_K", "coefficient_per_K", "error"),
        (
            (e.formula, e.area_at_zero, e.coefficient, e.coefficient_error)
            for e in analysis.expansions
        ),
    )
    return paths


def print_tables(analysis: Analysis, console: Console) -> None:
    """Averages row by row, then what else has a number."""
    table = Table(title="Means and their standard errors", box=None, title_justify="left")
    table.add_column("trajectory", overflow="fold")
    for name in _PRINTED:
        table.add_column(f"{name}\n{QUANTITIES[name]}", justify="right", no_wrap=True)
    for row in analysis.averages[:_SHOWN]:
        table.add_row(row.name, *(_short(row.means[name]) for name in _PRINTED))
    console.print(table)
    if len(analysis.averages) > _SHOWN:
        console.print(f"{len(analysis.averages) - _SHOWN} more are in averages.csv.")
    for group in analysis.groups:
        for element, d in group.diffusion.items():
            if math.isfinite(d.coefficient):
                value = _short(Mean(d.coefficient, d.error))
                console.print(f"Diffusion of {element} in {group.name}: {value} Å²/ps")
        waves = group.ripples
        if waves is not None and math.isfinite(waves.rigidity):
            value = _short(Mean(waves.rigidity, waves.rigidity_error))
            fall = ""  # which takes two wave numbers at least
            if math.isfinite(waves.exponent):
                fall = f"; waves fall off as q to the {waves.exponent:.2f} (-4 if bending alone)"
            console.print(f"Bending rigidity of {group.name}: {value} eV{fall}", soft_wrap=True)
    for e in analysis.expansions:
        console.print(
            f"Thermal expansion of {e.formula}: (1/A) dA/dT = "
            f"{_short(Mean(1e6 * e.coefficient, 1e6 * e.coefficient_error))} 10⁻⁶/K"
        )
    for note in analysis.notes:
        console.print(note, soft_wrap=True)


def _both(mean: Mean) -> tuple[float, float]:
    return mean.value, mean.error


def _as_text(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.8g}"
    return value


def _short(mean: Mean) -> str:
    """With two digits of the error: 3.1847(12)."""
    value, error = _both(mean)
    if math.isnan(value):
        return "-"
    if not error > 1e-9 * abs(value):  # rounding of what does not change
        return f"{value:.6g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    scaled = round(error * 10**digits) if digits else round(error)
    return f"{value:.{digits}f}({scaled})"
