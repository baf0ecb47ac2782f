"""The figures of an evaluation, each with the numbers that it shows as a table.

Every figure works for ten values and for ten million: where there are many, parity is a density of
bins with logarithmic colours. Axes: V values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from ..figures.periodic_table import periodic_table
from ..figures.style import COLOURS, new_figure, png, styled
from .groups import element_errors, structure_errors
from .population import Population
from .quantities import Quantity, compare_vectors, scores
from .tables import Cell, Table

FEW = 1500
"""Up to so many values parity shows each as a point."""

_BINS = 120  # along each axis of a density
_INSIDE = 0.999  # share of the values that a parity plot spans
_DENSITY = "viridis"
_Array = NDArray[np.floating]


@dataclass(frozen=True)
class Plot:
    """A figure, what it shows, and its numbers.

    Attributes
    ----------
    key : name of its files, without the ending
    caption : a sentence or two
    table : its numbers, where they are not in another table; None else
    """

    key: str
    figure: Figure
    caption: str
    table: Table | None = None

    @cached_property
    def image(self) -> bytes:
        """The figure as a PNG file."""
        return png(self.figure)


@styled
def parity(quantities: list[Quantity], method: str, key: str) -> Plot:
    """Predicted against true values of a method, a panel a quantity."""
    figure, panels = new_figure(4.1 * len(quantities), 3.9, 1, len(quantities))
    for axes, quantity in zip(panels, quantities, strict=True):
        _parity_panel(figure, axes, quantity, method)
    caption = (
        f"{method}: predicted against true values; the line is where both are equal. What lies "
        "outside the axes is counted in the corner."
    )
    return Plot(key, figure, caption)


def _parity_panel(figure: Figure, axes: Axes, quantity: Quantity, method: str) -> None:
    true, predicted = quantity.true, quantity.predicted[method]
    few = len(true) <= FEW
    low, high = _span(np.concatenate([true, predicted]), 1.0 if few else _INSIDE)
    if few:
        axes.scatter(true, predicted, s=9, color=COLOURS[0], alpha=0.5, linewidths=0)
    else:
        counts, _, _ = np.histogram2d(true, predicted, _BINS, [[low, high], [low, high]])
        shown = np.ma.masked_equal(counts.T, 0)
        image = axes.imshow(
            shown,
            origin="lower",
            extent=(low, high, low, high),
            norm=LogNorm(1, max(counts.max(), 2)),
            cmap=_DENSITY,
            interpolation="nearest",
        )
        figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02).set_label("values in a bin")
    axes.plot([low, high], [low, high], color="#303030", linewidth=0.8)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    unit = f" ({quantity.unit})" if quantity.unit else ""
    axes.set(xlabel=f"true{unit}", ylabel=f"predicted{unit}")
    axes.set_title(quantity.name)
    figures = scores(true, predicted)
    outside = int((~_inside(true, low, high) | ~_inside(predicted, low, high)).sum())
    text = f"MAE {figures.mae:.{quantity.digits}f}\nR² {figures.r2:.4f}\nn {figures.n:,}"
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", size=8.5, linespacing=1.4)
    if outside:
        note = f"{outside:,} outside"
        axes.text(0.97, 0.03, note, transform=axes.transAxes, ha="right", size=8, color="#606060")


def _span(values: _Array, inside: float) -> tuple[float, float]:
    """Ends of the middle share of values, a little widened."""
    low, high = np.quantile(values, [(1 - inside) / 2, (1 + inside) / 2])
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _inside(values: _Array, low: float, high: float) -> NDArray[np.bool_]:
    return (values >= low) & (values <= high)


@styled
def error_histograms(quantities: list[Quantity], key: str) -> Plot:
    """How often errors occur, with their sign; every model, a panel a quantity."""
    figure, panels = new_figure(4.1 * len(quantities), 3.2, 1, len(quantities))
    rows: list[list[Cell]] = []
    for axes, quantity in zip(panels, quantities, strict=True):
        errors = {m: quantity.error(m) for m in quantity.models}
        inside = 0.98 if len(quantity.true) > 100 else 1.0
        reach = max(float(np.quantile(np.abs(e), inside)) for e in errors.values()) or 0.5
        n_bins = int(np.clip(2 * len(quantity.true) ** 0.5, 10, 80))
        edges = np.linspace(-reach, reach, n_bins + 1)
        for colour, (method, error) in zip(COLOURS, errors.items(), strict=False):
            share = np.histogram(error, edges)[0] / len(error)
            only = len(errors) == 1
            axes.stairs(share, edges, color=colour, fill=only, label=None if only else method)
            rows += [
                [quantity.label, method, float(a), float(b), float(s)]
                for a, b, s in zip(edges[:-1], edges[1:], share, strict=True)
            ]
        axes.axvline(0, color="#303030", linewidth=0.8)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set(xlabel=f"predicted − true ({quantity.unit})", ylabel="share of the values")
        axes.set(title=quantity.name, xlim=(-reach, reach), ylim=(0, None))
        if len(errors) > 1:
            axes.legend()
    columns = ["quantity", "method", "from", "to", "share"]
    caption = "Errors with their sign; of more than a hundred 98 % lie inside the axes."
    return Plot(key, figure, caption, Table(key, "Histograms of errors", columns, rows))


@styled
def cumulative_errors(quantities: list[Quantity], key: str) -> Plot:
    """Share of the values with an error below a limit; every method, a panel a quantity."""
    figure, panels = new_figure(4.1 * len(quantities), 3.4, 1, len(quantities))
    rows: list[list[Cell]] = []
    shares = np.linspace(0, 1, 201)
    for axes, quantity in zip(panels, quantities, strict=True):
        middle = min(float(np.median(np.abs(quantity.error(m)))) for m in quantity.models)
        for number, method in enumerate(quantity.predicted):
            limits = np.quantile(np.abs(quantity.error(method)), shares)
            dashed = method in quantity.baselines
            axes.plot(
                limits,
                shares,
                color="#808080" if dashed else COLOURS[number % len(COLOURS)],
                linestyle=("--", ":", "-.")[number % 3] if dashed else "-",
                label=method,
            )
            rows += [
                [quantity.label, method, float(s), float(x)]
                for s, x in zip(shares, limits, strict=True)
            ]
        axes.set_xscale("log")
        axes.set_xlim(left=max(middle, 1e-6) / 300)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set(ylim=(0, 1), title=quantity.name)
        axes.set(xlabel=f"absolute error ({quantity.unit})", ylabel="values with less")
        axes.legend(loc="upper left", fontsize=8)
    columns = ["quantity", "method", "share of the values", "largest error among them"]
    caption = "How many values have an error below a limit; dashed and grey: baselines."
    return Plot(key, figure, caption, Table(key, "Cumulative errors", columns, rows))


def element_map(population: Population, quantity: Quantity, method: str, key: str) -> Plot:
    """Mean absolute error on the periodic table."""
    errors = element_errors(population, quantity, method)
    title = f"{quantity.name}: mean absolute error of {method}"
    figure = periodic_table(errors, title, quantity.unit, log=True)
    caption = (
        "Errors of the atoms of each element."
        if quantity.element is not None
        else "Errors of the structures that hold an element; each counts for all its elements."
    )
    return Plot(key, figure, caption)


@styled
def errors_by_size(population: Population, quantities: list[Quantity], key: str) -> Plot:
    """Mean absolute error of structures against their number of atoms: quartiles."""
    figure, panels = new_figure(4.1 * len(quantities), 3.2, 1, len(quantities))
    sizes = np.unique(population.n_atoms)
    bins = _size_bins(sizes)
    rows: list[list[Cell]] = []
    for axes, quantity in zip(panels, quantities, strict=True):
        for colour, method in zip(COLOURS, quantity.models, strict=False):
            errors = structure_errors(len(population), quantity, method)
            line = _quartiles(population.n_atoms, errors, bins)
            if not line:
                continue
            x, low, middle, high, count = (np.array(c) for c in zip(*line, strict=True))
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(x, middle, "o-", color=colour, markersize=3.5, label=method)
            rows += [
                [quantity.label, method, float(a), float(b), float(c), float(d), int(n)]
                for a, b, c, d, n in zip(x, low, middle, high, count, strict=True)
            ]
        axes.set(title=quantity.name, xlabel="atoms in the structure")
        axes.set(ylabel=f"mean absolute error ({quantity.unit})", ylim=(0, None))
        if len(quantity.models) > 1:
            axes.legend()
    columns = ["quantity", "method", "atoms", "lower quartile", "median", "upper quartile", "count"]
    caption = "Mean absolute error of each structure: median, and the band of the middle half."
    return Plot(key, figure, caption, Table(key, "Errors by size", columns, rows))


def _size_bins(sizes: NDArray[np.integer]) -> _Array:
    """Edges around each number of atoms, or of some twenty ranges where there are more."""
    if len(sizes) <= 25:
        return np.append(sizes - 0.5, sizes[-1] + 0.5).astype(float)
    return np.geomspace(sizes[0] - 0.5, sizes[-1] + 0.5, 21)


def _quartiles(x: NDArray[Any], y: _Array, edges: _Array) -> list[tuple[float, ...]]:
    """Mean of x, quartiles of y and their number in each bin that has some."""
    place = np.searchsorted(edges, x, side="right") - 1
    lines = []
    for k in range(len(edges)):
        inside = (place == k) & np.isfinite(y)
        if inside.any():
            lines.append(
                (x[inside].mean(), *np.quantile(y[inside], [0.25, 0.5, 0.75]), inside.sum())
            )
    return lines


@styled
def force_directions(forces: Quantity, key: str) -> Plot:
    """Angle between predicted and true forces, and ratio of their sizes, against the true size."""
    figure, (angles, ratios) = new_figure(8.2, 3.4, 1, 2)
    rows: list[list[Cell]] = []
    for colour, method in zip(COLOURS, forces.models, strict=False):
        size, cosine, ratio = compare_vectors(
            forces.true.reshape(-1, 3), forces.predicted[method].reshape(-1, 3)
        )
        if len(size) == 0:
            continue
        edges = np.geomspace(size.min(), size.max() * (1 + 1e-9), 21)
        for axes, name, y in (
            (angles, "angle (degrees)", np.degrees(np.arccos(cosine))),
            (ratios, "predicted over true size", ratio),
        ):
            line = _quartiles(size, y, edges)
            x, low, middle, high, count = (np.array(c) for c in zip(*line, strict=True))
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(x, middle, "o-", color=colour, markersize=3.5, label=method)
            rows += [
                [name, method, float(a), float(b), float(c), float(d), int(n)]
                for a, b, c, d, n in zip(x, low, middle, high, count, strict=True)
            ]
    ratios.axhline(1, color="#303030", linewidth=0.8)
    ratios.set(ylabel="predicted over true size", title="Size")
    angles.set(ylabel="angle between the two (degrees)", title="Direction", ylim=(0, None))
    for axes in (angles, ratios):
        axes.set(xscale="log", xlabel=f"true force on the atom ({forces.unit})")
    if len(forces.models) > 1:
        angles.legend()
    columns = ["figure", "method", "true force", "lower quartile", "median", "upper quartile"]
    caption = (
        "Predicted against true forces on atoms: median, and the band of the middle half. A ratio "
        "below one means that the potential is too soft."
    )
    table = Table(key, "Directions of forces", [*columns, "count"], rows)
    return Plot(key, figure, caption, table)
