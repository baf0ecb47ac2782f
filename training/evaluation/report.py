"""What an evaluation leaves: tables as CSV, figures as PNG, all numbers as JSON, and one page."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from mlff2d.files import write_text

from .direct import Section, direction_figures
from .groups import (
    element_table,
    group_table,
    score_table,
    worst_table,
    write_structures,
)
from .page import Page, write_page
from .plots import (
    Plot,
    cumulative_errors,
    element_map,
    error_histograms,
    errors_by_size,
    force_directions,
    parity,
)
from .quantities import scores
from .tables import Cell, Table

PAGE, METRICS = "index.html", "metrics.json"


@dataclass
class Report:
    """What was judged, in words and in numbers.

    Attributes
    ----------
    title : of the page
    facts : what was judged by what it is, such as {"model": "best.pt"}
    notes : sentences that a reader must see
    drawn : figures by section, so that writing the report again draws none twice
    """

    title: str
    facts: dict[str, str]
    notes: list[str]
    sections: list[Section] = field(default_factory=list)
    drawn: dict[str, list[Plot]] = field(default_factory=dict)


def print_report(report: Report, console: Console) -> None:
    """Notes and the main tables, on the terminal."""
    for name, value in report.facts.items():
        console.print(f"{name + ':':16}{value}")
    for note in report.notes:
        console.print(f"Note: {note}")
    for section in report.sections:
        console.print()
        console.print(section.title, style="bold")
        for line in section.lines:
            console.print(line)
        for table in section.tables:
            table.show(console)
        summary_table(section).show(console)


def summary_table(section: Section) -> Table:
    """A row a quantity and method, with the digits that mean something."""
    columns = ["quantity", "method", "MAE", "median", "RMSE", "R²", "Spearman"]
    rows: list[list[Cell]] = []
    for quantity in section.quantities:
        label, digits = quantity.label, quantity.digits
        for method, predicted in quantity.predicted.items():
            found = scores(quantity.true, predicted)
            lengths = [f"{x:.{digits}f}" for x in (found.mae, found.median, found.rmse)]
            shares = ["–" if math.isnan(x) else f"{x:.3f}" for x in (found.r2, found.spearman)]
            rows.append([label, method, *lengths, *shares])
            label = ""
    return Table("summary", "Errors", columns, rows, right=columns[2:])


def write_report(report: Report, folder: Path) -> Path:
    """Write all of it into a folder, which is made; gives the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = Page(report.title, report.facts, report.notes)
    for section in report.sections:
        tables = [summary_table(section), *_tables(section)]
        plots = report.drawn.get(section.key) or _plots(section)
        report.drawn[section.key] = plots
        for plot in plots:
            (folder / f"{plot.key}.png").write_bytes(plot.image)
            if plot.table is not None:
                plot.table.write_csv(folder)
        for table in tables:
            _prefixed(table, section).write_csv(folder)
        path = folder / f"{section.key}-structures.csv"
        write_structures(section.population, section.quantities, path)
        n_first = 1 + len(section.tables)
        lines = [_population_line(section), *section.lines]
        page.add(section.key, section.title, lines, tables[:n_first], plots, tables[n_first:])
    numbers = json.dumps(without_nan(metrics(report)), indent=1, ensure_ascii=False)
    write_text(numbers + "\n", folder / METRICS)
    path = folder / PAGE
    write_page(page, path)
    return path


def _population_line(section: Section) -> str:
    population = section.population
    return (
        f"{len(population):,} structures of {len(population.materials.names):,} materials and "
        f"{len(population.compositions.elements)} elements."
    )


def _prefixed(table: Table, section: Section) -> Table:
    """The table under a name that tells the sections apart."""
    return Table(f"{section.key}-{table.key}", table.title, table.columns, table.rows)


def _plots(section: Section) -> list[Plot]:
    population, quantities, key = section.population, section.quantities, section.key
    models = quantities[0].models
    plots = [
        parity(quantities, m, f"{key}-parity" + (f"-{k}" if k else ""))
        for k, m in enumerate(models)
    ]
    plots.append(error_histograms(quantities, f"{key}-histogram"))
    plots.append(cumulative_errors(quantities, f"{key}-cumulative"))
    plots += [force_directions(q, f"{key}-directions") for q in quantities if q.key == "forces"]
    plots.append(errors_by_size(population, quantities, f"{key}-size"))
    if len(population.compositions.elements) > 1:
        plots += [
            element_map(population, q, models[0], f"{key}-elements-{q.key}") for q in quantities
        ]
    return plots


def _tables(section: Section) -> list[Table]:
    population, quantities = section.population, section.quantities
    found = [*section.tables, score_table(quantities), element_table(population, quantities)]
    for grouping in population.groupings():
        if len(grouping.names) > 1:
            found.append(group_table(population, grouping, quantities))
    found += [worst_table(population, q, q.models[0]) for q in quantities]
    return found


def metrics(report: Report) -> dict[str, Any]:
    """Every figure of merit, by section, quantity and method."""
    found: dict[str, Any] = {"facts": report.facts, "notes": report.notes}
    for section in report.sections:
        found[section.key] = {
            "structures": len(section.population),
            "materials": len(section.population.materials.names),
            "lines": section.lines,
        } | {
            q.key: {"unit": q.unit} | {m: asdict(scores(q.true, p)) for m, p in q.predicted.items()}
            for q in section.quantities
        }
        for q in section.quantities:
            if q.key == "forces":
                directions = {m: asdict(d) for m, d in direction_figures(q).items()}
                found[section.key]["force_directions"] = directions
        for table in section.tables:
            if table.key == "relaxations":
                found[section.key]["relaxations"] = [
                    dict(zip(table.columns, row, strict=True)) for row in table.rows
                ]
    return found


def without_nan(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
