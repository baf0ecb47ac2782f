"""Values of the elements, drawn on the periodic table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ase.data import chemical_symbols
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .style import GREY, SCALE, new_figure, styled

N_ELEMENTS = 118
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
"""Atomic numbers at which a period ends."""


def place_of(z: int) -> tuple[float, int]:
    """Row from the top and column (0 to 17) of an element; f elements stand in rows 7.4 and 8.4."""
    period = next(row for row, last in enumerate(_NOBLE) if z <= last)
    nth = z - _NOBLE[period - 1]
    if period >= 6 and 3 <= nth <= 17:
        return period + 1.4, nth - 1
    length = _NOBLE[period] - _NOBLE[period - 1]
    s_block = 1 if period == 1 else 2
    return period - 1, nth - 1 if nth <= s_block else nth - 1 + 18 - length


@styled
def periodic_table(
    values: Mapping[int, float], title: str, unit: str, *, log: bool = False, digits: int = 3
) -> Figure:
    """Colour and number for each element that has a value, grey for the others.

    Values by atomic number; NaN is no value. `log` scales the colours, `digits` are significant
    ones. Raises ValueError for a number that is no element's.
    """
    wrong = sorted(z for z in values if not 1 <= z <= N_ELEMENTS)
    if wrong:
        raise ValueError(f"{wrong[0]} is no atomic number of an element.")
    known = {z: float(v) for z, v in values.items() if math.isfinite(v)}
    norm, colour_map = _norm(list(known.values()), log), colormaps[SCALE]
    figure, (axes,) = new_figure(11.0, 6.2)
    figure.set_layout_engine("none")  # it would measure hundreds of texts
    axes.set_position((0.005, 0.01, 0.99, 0.94))
    axes.set(xlim=(-0.05, 18.05), ylim=(9.5, -0.05), aspect="equal", title=title)
    axes.set_axis_off()
    for z in range(1, N_ELEMENTS + 1):
        value = known.get(z)
        colour = to_rgb(GREY if value is None else colour_map(norm(value)))
        _cell(axes, z, value, colour, digits)
    for row, text in ((5, "57–71"), (6, "89–103")):
        axes.text(2.5, row + 0.5, text, ha="center", va="center", size=9, color="#606060")
    if known:
        inset = axes.inset_axes((3.1, 1.55, 8.2, 0.32), transform=axes.transData)
        bar = figure.colorbar(ScalarMappable(norm, colour_map), cax=inset, orientation="horizontal")
        bar.set_label(unit, size=11)
        bar.ax.xaxis.set_label_position("top")
        bar.ax.tick_params(labelsize=9)
        bar.outline.set_visible(False)
    return figure


def _norm(values: list[float], log: bool) -> Normalize:
    """Scale of the colours; a logarithm only where all values are positive."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = (low / 2, high * 2) if log and low > 0 else (low - 0.5, high + 0.5)
    return LogNorm(low, high) if log and low > 0 else Normalize(low, high)


def _cell(
    axes: Axes,
    z: int,
    value: float | None,
    colour: tuple[float, float, float],
    digits: int,
) -> None:
    row, column = place_of(z)
    axes.add_patch(
        Rectangle((column + 0.02, row + 0.02), 0.96, 0.96, facecolor=colour, edgecolor="none")
    )
    ink = "#8A8A8A" if value is None else ("black" if _luminance(colour) > 0.45 else "white")
    axes.text(column + 0.07, row + 0.08, str(z), ha="left", va="top", size=6.5, color=ink)
    middle = column + 0.5
    axes.text(
        middle,
        row + (0.55 if value is None else 0.47),
        chemical_symbols[z],
        ha="center",
        va="center",
        size=11.5,
        weight="bold",
        color=ink,
    )
    if value is not None:
        text = _short(value, digits)
        axes.text(middle, row + 0.82, text, ha="center", va="center", size=7.5, color=ink)


def _luminance(colour: tuple[float, float, float]) -> float:
    """Perceived brightness from 0 to 1 (Rec. 709 weights)."""
    red, green, blue = colour
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _short(value: float, digits: int) -> str:
    """A number of some significant digits that fits into a cell: 1234567 is 1.23M."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= factor:
            unit = 1e3 if suffix == "k" else factor
            return f"{value / unit:.{digits}g}{suffix}"
    if value == int(value):
        return str(int(value))
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"
