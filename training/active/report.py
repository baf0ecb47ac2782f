"""The rounds as a table, a learning curve and a file of numbers."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from mlff2d.files import write_text

from ..figures.style import COLOURS, new_figure, save, styled

QUANTITIES = {
    "energy": ("energy (meV/atom)", 1000.0, 1),
    "forces": ("forces (meV/Å)", 1000.0, 0),
    "stress": ("stress (N/m)", 1.0, 3),
}
"""Title, factor on the figures of a report and digits of each."""

Report = dict[str, Any]


def print_rounds(reports: Sequence[Report], console: Console) -> None:
    """A row a round: frames, errors on the test frames, and how well errors were foreseen."""
    titles = [title for title, _, _ in QUANTITIES.values()]
    table = Table("round", "frames", *titles, "ρ new", "ρ test", title="Rounds")
    for report in reports:
        cells = [_cell(figures(report, key), digits) for key, (_, _, digits) in QUANTITIES.items()]
        ranks = [_rank(report.get(key)) for key in ("new_frames", "test_frames")]
        table.add_row(str(report["round"]), str(report["frames"]), *cells, *ranks)
    console.print()
    console.print(table)
    if any("test" in report for report in reports):
        console.print(
            "Mean absolute errors on the test frames, mean ± standard deviation over the models.",
            soft_wrap=True,
        )
    console.print(
        "ρ is Spearman's rank correlation of the uncertainty with the true error of the forces: on "
        "the frames labelled in that round by the models before it, and on the test frames.",
        soft_wrap=True,
    )


def write_rounds(reports: Sequence[Report], run_dir: Path) -> list[Path]:
    """Write rounds.csv, and rounds.png where there are test frames."""
    written = [run_dir / "rounds.csv"]
    write_text(_as_csv(reports), written[0])
    if all("test" in report for report in reports):
        written.append(save(curve(reports), run_dir / "rounds.png"))
    return written


def figures(report: Report, key: str) -> np.ndarray:
    """(M,) errors of the models of a round in the units of `QUANTITIES`; NaN where unknown."""
    rows = [row[key] for row in report.get("test", [])]
    return np.array(rows, dtype=float) * QUANTITIES[key][1]  # None becomes NaN


def _cell(values: np.ndarray, digits: int) -> str:
    if not len(values) or np.isnan(values).any():
        return "-"
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def _rank(found: Report | None) -> str:
    return "-" if found is None or found["spearman"] is None else f"{found['spearman']:.2f}"


def _as_csv(reports: Sequence[Report]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    calibration = ("new_frames", "test_frames")
    writer.writerow(
        ["round", "frames", "model", *(title for title, _, _ in QUANTITIES.values())]
        + [f"{what}_{key}" for key in calibration for what in ("spearman", "error", "uncertainty")]
    )
    for report in reports:
        known = [report.get(key) or {} for key in calibration]
        more = [x.get(what) for x in known for what in ("spearman", "error", "uncertainty")]
        for member in range(max(1, len(report.get("test", [])))):
            row = [figures(report, key)[member : member + 1].tolist() for key in QUANTITIES]
            writer.writerow(
                [report["round"], report["frames"], member]
                + ["" if not x or x[0] != x[0] else f"{x[0]:.6g}" for x in row]
                + ["" if x is None else f"{x:.6g}" for x in more]
            )
    return text.getvalue()


@styled
def curve(reports: Sequence[Report]) -> Figure:
    """A panel for each quantity: errors on the test frames by the number of labelled frames."""
    figure, axes = new_figure(width=3.4 * len(QUANTITIES), columns=len(QUANTITIES))
    frames = [report["frames"] for report in reports]
    for ax, (key, (title, _, _)) in zip(axes, QUANTITIES.items(), strict=True):
        values = [figures(report, key) for report in reports]
        means = [x.mean() for x in values]
        spread = [x.std(ddof=1) if len(x) > 1 else 0.0 for x in values]
        ax.errorbar(frames, means, spread, marker="o", color=COLOURS[0], capsize=3)
        ax.set(xlabel="labelled frames", title=title, ylim=(0, None))
    return figure
