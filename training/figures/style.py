"""The one style of all figures: Agg, colours that colour-blind readers tell apart, no global state.

A function that draws is decorated with `@styled`, takes its axes from `new_figure` and returns the
figure; `save` or `png` turn it into a picture. pyplot, which keeps every figure alive, is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito, *Color Universal Design* (2008), without the yellow that white swallows."""
GREY = "#E4E4E4"
"""Where there is no value."""
SCALE = "YlGnBu"
"""Colours of a value, light to dark, which ColorBrewer lists as safe for colour-blind readers."""

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#606060",
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.use_mathtext": True,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),  # type: ignore[attr-defined]
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#D8D8D8",
    "grid.linewidth": 0.6,
    "image.cmap": SCALE,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "savefig.facecolor": "white",
    "xtick.color": "#404040",
    "ytick.color": "#404040",
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function draw in this style; matplotlib's own settings are as before afterwards."""
    return matplotlib.rc_context(_STYLE)(draw)


def new_figure(
    width: float = 5.0, height: float = 3.4, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches and its axes, row by row; only inside `@styled`."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


@styled
def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as the bytes of a PNG file, the same for the same figure."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG, making its folder; the ending may be left out. Gives the path."""
    path = path if path.suffix == ".png" else path.with_name(path.name + ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))
    return path
