"""The log of a run as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .log import Array

PANELS = (
    ("temperature", "temperature / K"),
    ("conserved_per_atom", "conserved − start / meV/atom"),
    ("potential_per_atom", "potential energy / eV/atom"),
    ("stress_xx", "in-plane stress / N/m"),
    ("area_per_atom", "area / Å²/atom"),
    ("corrugation", "corrugation / Å"),
)
"""Columns of the log that are drawn, and what their axes say."""

SHOWN = 8
"""Replicas that are drawn, the first ones."""

_POINTS = 2000  # of a line; more are not seen


def plot_log(log: Mapping[str, Array], path: Path) -> None:
    """Draw the columns of a log against time, a line for each of the first replicas, as PNG."""
    figure = Figure(figsize=(9.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, label) in zip(figure.subplots(3, 2).flat, PANELS, strict=True):
        replicas = sorted(set(log["replica"].tolist()))[:SHOWN]
        for replica in replicas:
            rows = log["replica"] == replica
            if name == "conserved_per_atom":  # which begins anew behind an equilibration
                rows &= log["step"] >= 0
            stride = max(1, int(rows.sum()) // _POINTS)
            times = log["time_fs"][rows][::stride] / 1000
            axes.plot(times, _drawn(name, log, rows)[::stride], lw=1.0, label=str(replica))
        if name == "temperature" and replicas:
            rows = log["replica"] == replicas[0]
            axes.plot(log["time_fs"][rows] / 1000, log["target"][rows], "k--", lw=0.8)
        if name == "temperature" and len(replicas) > 1:
            axes.legend(title="replica", ncols=4, fontsize=7, title_fontsize=7)
        axes.set_xlabel("time / ps")
        axes.set_ylabel(label)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(color="#D8D8D8", lw=0.6)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _drawn(name: str, log: Mapping[str, Array], rows: NDArray) -> Array:
    """Of stress the mean of both directions, of what is conserved the change in meV."""
    if name == "stress_xx":
        return (log["stress_xx"][rows] + log["stress_yy"][rows]) / 2
    values = log[name][rows]
    if name == "conserved_per_atom" and len(values):
        return 1000 * (values - values[0])
    return values
