"""Histograms: how often values occur, counted by the caller, who may stream them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from .style import COLOURS, new_figure, styled

_FLOOR = 0.6
"""Where a logarithmic axis of counts begins."""


@dataclass(frozen=True)
class Bins:
    """Where bins of equal width begin and end, and what lies outside them.

    Attributes
    ----------
    edges : (B + 1,) ascending
    """

    edges: NDArray[np.float64]

    @classmethod
    def over(cls, values: ArrayLike, most: int = 60, inside: float = 0.998) -> Bins:
        """Bins over the middle share `inside` of finite values, so that outliers hide nothing.

        Where all values are close to the middle share, over all of them. Few values make fewer
        bins than `most`.
        """
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        n = int(min(most, 10 + 2 * np.sqrt(len(finite))))
        if len(finite) == 0:
            return cls(np.linspace(0.0, 1.0, n + 1))
        low, high = np.quantile(finite, [(1 - inside) / 2, (1 + inside) / 2])
        margin = 0.25 * (high - low)
        low = max(low - margin, finite.min())
        high = min(high + margin, finite.max())
        if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
            low, high = low - 0.5, high + 0.5
        return cls(np.linspace(low, high, n + 1))

    @classmethod
    def whole_numbers(cls, values: ArrayLike, most: int = 60, inside: float = 0.998) -> Bins:
        """As `over`, of whole numbers: a bin around each, or around as many as make `most` bins."""
        values = np.asarray(values)
        if len(values) == 0:
            return cls(np.array([-0.5, 0.5]))
        low = int(values.min())
        high = min(int(values.max()), low + 2 * math.ceil(np.quantile(values, inside) - low) + 1)
        width = math.ceil((high - low + 1) / most)
        return cls(np.arange(low, high + width + 1, width, dtype=np.float64) - 0.5)

    def count(self, values: ArrayLike) -> NDArray[np.int64]:
        """(B + 2,) values below the bins, in each of them (the last with its end), and above."""
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        inside, _ = np.histogram(finite, self.edges)
        below, above = (finite < self.edges[0]).sum(), (finite > self.edges[-1]).sum()
        return np.concatenate([[below], inside, [above]]).astype(np.int64)


@styled
def histogram(
    series: Mapping[str, NDArray[np.int64]],
    bins: Bins,
    label: str,
    *,
    title: str = "",
    of: str = "frames",
    log: bool = False,
) -> Figure:
    """Counts of `Bins.count` by name of the series, over what `label` says.

    A single series is filled, several are outlines with a legend. What lies outside the bins is
    written into the corner; `log` is for the counts.
    """
    figure, (axes,) = new_figure()
    for (name, counts), colour in zip(series.items(), _colours(len(series)), strict=True):
        several = len(series) > 1
        axes.stairs(
            counts[1:-1],
            bins.edges,
            fill=not several,
            color=colour,
            label=name if several else None,
            baseline=_FLOOR if log else 0,
        )
    axes.set(xlabel=label, ylabel=of, title=title, xlim=(bins.edges[0], bins.edges[-1]))
    if np.array_equal(bins.edges % 1, np.full(len(bins.edges), 0.5)):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=_FLOOR)
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(series) > 1:
        axes.legend()
    below = sum(int(counts[0]) for counts in series.values())
    above = sum(int(counts[-1]) for counts in series.values())
    outside = [f"{below:,} below"] * (below > 0) + [f"{above:,} above"] * (above > 0)
    if outside:
        axes.set_title(", ".join(outside), loc="right", size=8, weight="normal", color="#606060")
    return figure


@styled
def bars(
    labels: Sequence[str], heights: ArrayLike, label: str, *, title: str = "", of: str = "frames"
) -> Figure:
    """A bar for each label, written above it; for names rather than numbers."""
    heights = np.asarray(heights)
    figure, (axes,) = new_figure(width=max(5.0, 0.28 * len(labels) + 1.2))
    drawn = axes.bar(np.arange(len(labels)), heights, color=COLOURS[0], width=0.8)
    axes.bar_label(drawn, [f"{h:,}" for h in heights], size=6.5, padding=2, rotation=90)
    axes.margins(x=0.01, y=0.22)
    axes.set_xticks(np.arange(len(labels)), labels, rotation=90 if len(labels) > 20 else 0)
    axes.grid(False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set(xlabel=label, ylabel=of, title=title)
    return figure


def _colours(n: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(n)]
