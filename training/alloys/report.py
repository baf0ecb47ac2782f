"""What a study leaves: one page, its tables as CSV, its figures as PNG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from mlff2d.errors import counted
from mlff2d.files import write_text

from ..evaluation.page import Page, write_page
from ..evaluation.plots import Plot
from ..evaluation.report import without_nan
from ..evaluation.tables import Table
from .choices import NOT_PREDICTIONS
from .figures import curves, hulls, parity
from .findings import Study
from .formation import CONVENTION
from .tables import (
    cells_table,
    curve_table,
    details_table,
    errors_table,
    facts_table,
    predicted_table,
    relaxed_table,
)
from .verdict import verdict

SHOWN = (
    "fine-tuned",
    "readout",
    "energy-only",
    "ce-ardr",
    "ce-ridge",
    "scratch",
    "zero-shot",
    "roost",
)
"""Methods in figures before others, where there are more than fit."""


def write_report(study: Study, console: Console) -> list[Path]:
    """Write everything into the run folder and print the main tables; the page's path and more."""
    folder = study.config.run_dir / "report"
    folder.mkdir(exist_ok=True)
    page = Page("Alloys: " + ", ".join(study.systems), _facts(study), _notes(study))
    methods = list(dict.fromkeys(one.method for one in study.judged))
    whole = [one for one in study.judged if one.size is None]
    systems = [name for name in study.compared if any(one.system == name for one in whole)]
    if whole:
        _overview(study, page, folder, systems, methods, console)
    for name in study.systems:
        _section(study, name, page, folder, methods)
    path = folder / "report.html"
    write_page(page, path)
    figures = folder / "errors.json"
    judged = without_nan([asdict(one) for one in study.judged])
    write_text(json.dumps(judged, indent=1, allow_nan=False) + "\n", figures)
    return [path, figures]


def _facts(study: Study) -> dict[str, str]:
    config = study.config
    return {
        "DFT frames": ", ".join(str(path) for path in config.frames) or "none",
        "potentials": ", ".join(config.potentials.starts),
        "trained": f"{config.potentials.steps} steps, "
        + ("all systems together" if config.potentials.together else "each system alone"),
        "held out": f"{100 * config.splits.test:.0f} % of the configurations of each system, "
        f"{config.splits.repeats} times",
        "relaxed to": f"{config.relax.fmax:g} eV/Å and {config.relax.smax:g} N/m",
    }


def _notes(study: Study) -> list[str]:
    shares: dict[str, list[str]] = {}
    for name, system in study.systems.items():
        share = Fraction(system.alloy.n_sites, len(system.alloy.parent))
        shares.setdefault(str(share), []).append(name)
    told = [f"{s} ({', '.join(names)})" if len(shares) > 1 else s for s, names in shares.items()]
    return [
        CONVENTION.format(share=", ".join(told)),
        *study.notes,
        *study.failures.values(),
    ]


def _overview(
    study: Study,
    page: Page,
    folder: Path,
    systems: list[str],
    methods: list[str],
    console: Console,
) -> None:
    whole = [one for one in study.judged if one.size is None]
    tables = [errors_table(whole, systems, methods)]
    tables += [relaxed_table(whole, systems, key) for key in ("energy_mae", "area_mae")]
    tables = [table for table in tables if table.rows]
    lines = [line for name in systems for line in verdict(whole, name)]
    for table in tables:
        table.show(console)
    for line in lines:
        console.print(line, soft_wrap=True)
    _add(page, folder, "comparison", "Comparison", lines, tables, [], [facts_table(study.facts)])


def _section(study: Study, name: str, page: Page, folder: Path, methods: list[str]) -> None:
    """One system: its errors, figures, configurations and predictions."""
    system, cells = study.systems[name], study.cells[name]
    whole = [one for one in study.judged if one.size is None and one.system == name]
    tables: list[Table] = []
    plots: list[Plot | None] = []
    order = [*SHOWN, *(m for m in methods if m not in (*SHOWN, *NOT_PREDICTIONS)), *NOT_PREDICTIONS]
    shown = sorted(methods, key=order.index)[:4]
    if whole:
        tables.append(details_table(whole, name, methods))
        plots.append(parity(system, study.judged, shown))
    if any(one.size is not None and one.system == name for one in study.judged):
        tables.append(curve_table(study.judged, name))
        plots.append(curves(study.judged, name, shown))
    if study.final and name in study.compared:
        plots.append(hulls(system, cells, study.final, shown))
    folded = [cells_table(system, [*system.configurations, *cells])]
    if study.final and name in study.compared:
        folded.append(predicted_table(name, [*system.with_dft, *cells], study.final))
    walks: list[str] = []
    for found in study.monte_carlo:
        if found.system == name:
            walks += found.lines
            tables += found.tables[:1]
            folded += found.tables[1:]
            plots += found.plots
    lines = [
        f"{counted(len(system.with_dft), 'configuration')} that DFT relaxed, "
        f"{counted(sum(len(one.frames) for one in system.configurations), 'DFT frame')}, "
        f"{counted(len(cells), 'cell')} without DFT results.",
        *verdict(whole, name),
        *walks,
    ]
    drawn = [plot for plot in plots if plot is not None]
    _add(page, folder, name, name, lines, tables, drawn, folded)


def _add(
    page: Page,
    folder: Path,
    key: str,
    title: str,
    lines: list[str],
    tables: list[Table],
    plots: list[Plot],
    folded: Sequence[Table] = (),
) -> None:
    for plot in plots:
        (folder / f"{plot.key}.png").write_bytes(plot.image)
    for table in [*tables, *folded]:
        replace(table, key=f"{key}-{table.key}").write_csv(folder)
    page.add(key, title, lines, tables, plots, folded)
