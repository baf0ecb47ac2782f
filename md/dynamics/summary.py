"""What a run comes to: means with their errors, replica by replica, as a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlff2d.files import write_text

from ..blocks import block_error
from .log import Array
from .result import FINISHED, MDResult

_SHOWN = 20


@dataclass(frozen=True)
class SummaryRow:
    """One replica over the steps from 0 on that are logged; errors are of the means.

    Attributes
    ----------
    replica, structure, formula, status, reason, steps : see `ReplicaResult`
    temperature, temperature_error : K
    potential_per_atom, potential_per_atom_error : eV/atom
    stress_xx, stress_yy and their errors : N/m
    area_per_atom, area_per_atom_error : Å²
    thickness, corrugation : Å
    drift : slope of the conserved quantity in meV/atom/ps
    """

    replica: int
    structure: int
    formula: str
    status: str
    steps: int
    temperature: float
    temperature_error: float
    potential_per_atom: float
    potential_per_atom_error: float
    stress_xx: float
    stress_xx_error: float
    stress_yy: float
    stress_yy_error: float
    area_per_atom: float
    area_per_atom_error: float
    thickness: float
    corrugation: float
    drift: float
    reason: str


_WITH_ERRORS = ("temperature", "potential_per_atom", "stress_xx", "stress_yy", "area_per_atom")


def summarize(result: MDResult) -> list[SummaryRow]:
    """A row for each replica; NaN where nothing was logged, or too little for an error."""
    rows = []
    for replica in result.replicas:
        chosen = (result.log["replica"] == replica.replica) & (result.log["step"] >= 0)
        columns = {name: column[chosen] for name, column in result.log.items()}
        means: dict[str, float] = {}
        for name in _WITH_ERRORS:
            means[name] = _mean(columns[name])
            means[f"{name}_error"] = block_error(columns[name])
        rows.append(
            SummaryRow(
                replica=replica.replica,
                structure=replica.structure,
                formula=replica.formula,
                status=replica.status,
                steps=replica.steps,
                thickness=_mean(columns["thickness"]),
                corrugation=_mean(columns["corrugation"]),
                drift=drift(columns),
                reason=replica.reason,
                **means,
            )
        )
    return rows


def drift(columns: Mapping[str, Array]) -> float:
    """Slope in meV/atom/ps of the conserved quantity of one replica, NaN below three rows."""
    times = columns["time_fs"] / 1000
    if len(times) < 3:
        return float("nan")
    return float(1000 * np.polyfit(times, columns["conserved_per_atom"], 1)[0])


def write_summary(rows: list[SummaryRow], path: Path) -> None:
    """The rows as CSV."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(SummaryRow))
    for row in rows:
        writer.writerow(
            ("" if np.isnan(v) else f"{v:.6f}") if isinstance(v, float) else v
            for v in asdict(row).values()
        )
    write_text(text.getvalue(), path)


def print_summary(rows: list[SummaryRow], result: MDResult, console: Console) -> None:
    """A table of the first replicas, and why those ended that did not take all steps."""
    table = Table(title=f"{len(rows)} replica{'s' if len(rows) > 1 else ''}")
    table.add_column("", justify="right")
    for heading in ("formula", "status"):
        table.add_column(heading)
    for heading in ("T / K", "area / Å²", "σxx / N/m", "σyy / N/m", "drift / meV/ps"):
        table.add_column(heading, justify="right")
    for row in rows[:_SHOWN]:
        table.add_row(
            *(str(row.replica), escape(row.formula), row.status),
            _value(row.temperature, row.temperature_error, 1),
            _value(row.area_per_atom, row.area_per_atom_error, 4),
            _value(row.stress_xx, row.stress_xx_error, 2),
            _value(row.stress_yy, row.stress_yy_error, 2),
            _value(row.drift, float("nan"), 3),
        )
    console.print(table)
    console.print("Means over the steps from 0 on ± their errors; area and drift are per atom.")
    if len(rows) > _SHOWN:
        console.print(f"and {len(rows) - _SHOWN} more replicas, see the table")
    ended = [row for row in rows if row.reason]
    for row in ended[:_SHOWN]:
        what = f"{row.replica} {row.formula} {row.status}"
        console.print(f"  {escape(what)}: {escape(row.reason)}")
    if len(ended) > _SHOWN:
        console.print(f"  and {len(ended) - _SHOWN} more, see the table")
    if np.isfinite(result.ns_per_day):
        done = sum(row.status == FINISHED for row in rows)
        all_of_them = f", {len(rows)} at a time" if len(rows) > 1 else ""
        console.print(f"{done} finished; {result.ns_per_day:.3g} ns a day{all_of_them}")


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _value(mean: float, error: float, digits: int) -> str:
    if np.isnan(mean):
        return ""
    return f"{mean:.{digits}f}" + ("" if np.isnan(error) else f" ± {error:.{digits}f}")
