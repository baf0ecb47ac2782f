"""The figures of a study: parity and histogram of errors, convex hulls, learning curves.

Axes: C configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from numpy.typing import NDArray

from ..evaluation.plots import Plot
from ..figures.style import COLOURS, new_figure, styled
from .formation import ON_HULL, dft_formation, hull_distances
from .judge import Judged, mean_and_spread, predicted_formation, shares_of
from .method import Answers
from .system import Configuration, System

Array = NDArray[np.float64]


def held_out_means(judged: Sequence[Judged], system: str, method: str) -> dict[str, float]:
    """By configuration, eV per site: the mean over the splits in which it was held out."""
    found: dict[str, list[float]] = {}
    for one in judged:
        if (one.system, one.method, one.size) == (system, method, None):
            for name, value in one.predicted.items():
                found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


@styled
def parity(system: System, judged: Sequence[Judged], methods: Sequence[str]) -> Plot:
    """Predicted against DFT formation energies of held-out configurations, and their errors."""
    figure, (left, right) = new_figure(8.6, 3.9, 1, 2)
    true = dict(
        zip([one.name for one in system.with_dft], dft_formation(system.with_dft), strict=True)
    )
    errors = []
    for method, colour, marker in zip(methods, COLOURS, "osD^vP*", strict=False):
        means = held_out_means(judged, system.name, method)
        x = 1e3 * np.array([true[name] for name in means])
        y = 1e3 * np.array(list(means.values()))
        left.plot(x, y, marker, color=colour, ms=5, alpha=0.8, label=method)
        errors.append((y - x)[np.isfinite(y)])
    low, high = left.get_xlim()
    left.plot([low, high], [low, high], color="#808080", lw=1, zorder=0)
    left.set(xlabel="DFT, meV/site", ylabel="predicted, meV/site", title=system.name)
    left.legend()
    right.hist(errors, bins=12, color=list(COLOURS[: len(errors)]), label=list(methods))
    right.set(xlabel="error, meV/site", ylabel="configurations", title="errors")
    caption = (
        f"{system.name}: formation energies of held-out configurations; of each the mean over the "
        "splits in which it was held out."
    )
    return Plot(f"{system.name}-parity", figure, caption)


@styled
def hulls(
    system: System,
    cells: Sequence[Configuration],
    final: Mapping[str, Answers],
    methods: Sequence[str],
) -> Plot | None:
    """Formation energies over composition with their hulls, by DFT and by methods.

    Of two species or of three; None of more.
    """
    if len(system.lattice.shared) > 3:
        return None
    shown = [method for method in methods if method in final][:3]
    everything = [*system.with_dft, *cells]
    parts = [("DFT", system.with_dft, dft_formation(system.with_dft))]
    parts += [(one, everything, predicted_formation(everything, final[one])) for one in shown]
    figure, panels = new_figure(3.4 * len(parts), 3.6, 1, len(parts))
    caption = (
        f"{system.name}: formation energies and convex hulls. DFT of the configurations that it "
        "relaxed; the methods, having learnt from these, of all cells."
    )
    if len(system.lattice.shared) == 2:
        for axes, (title, own, energies), colour in zip(
            panels, parts, (COLOURS[6], *COLOURS), strict=False
        ):
            _hull(axes, own, energies, title, colour)
            axes.set(xlabel=f"share of {system.lattice.shared[-1]}")
            axes.sharey(panels[0])
        panels[0].set_ylabel("formation energy, meV/site")
        return Plot(f"{system.name}-hull", figure, caption)
    largest = 1e3 * max(np.nanmax(abs(energies), initial=0.0) for _, _, energies in parts) or 1.0
    for axes, (title, own, energies) in zip(panels, parts, strict=True):
        points = _triangle(axes, own, energies, title, largest)
    figure.colorbar(points, ax=list(panels), label="formation energy, meV/site", shrink=0.8)
    caption += " Of each composition the lowest; squares are on the hull."
    return Plot(f"{system.name}-hull", figure, caption)


def _triangle(
    axes: Axes,
    configurations: Sequence[Configuration],
    formation: Array,
    title: str,
    largest: float,
) -> PathCollection:
    """The lowest of each composition of three species, colours from -largest to it in meV."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    axes.plot(*corners[[0, 1, 2, 0]].T, color="#808080", lw=0.8, zorder=0)
    for corner, species, side in zip(
        corners, configurations[0].shares, ("right", "left", "center"), strict=True
    ):
        below = 9 if side == "center" else -14
        axes.annotate(species, corner, (0, below), ha=side, textcoords="offset points")
    shares = shares_of(configurations)
    on = hull_distances(shares, formation) <= ON_HULL
    lowest: dict[tuple[float, ...], int] = {}
    for k in np.argsort(formation)[: np.isfinite(formation).sum()]:
        lowest.setdefault(tuple(shares[k].round(6)), int(k))
    for marker, size, is_on in (("o", 26, False), ("s", 46, True)):
        places = [k for k in lowest.values() if on[k] == is_on]
        x, y = (shares[places] @ corners).T
        points = axes.scatter(
            x,
            y,
            c=1e3 * formation[places],
            marker=marker,
            s=size,
            cmap="RdBu_r",
            vmin=-largest,
            vmax=largest,
            edgecolors="#303030",
            linewidths=0.6,
        )
    axes.set(title=title, aspect="equal", xlim=(-0.15, 1.15), ylim=(-0.15, 1.05))
    axes.axis("off")
    return points


def _hull(
    axes: Axes, configurations: Sequence[Configuration], formation: Array, title: str, colour: str
) -> None:
    x = np.array([one.x for one in configurations])
    on = hull_distances(shares_of(configurations), formation) <= ON_HULL
    axes.plot(x, 1e3 * formation, "o", color=colour, ms=4, alpha=0.6)
    order = np.argsort(x[on])
    axes.plot(x[on][order], 1e3 * formation[on][order], "-s", color=colour, ms=5)
    axes.axhline(0, color="#808080", lw=0.8)
    axes.set_title(title)


@styled
def curves(judged: Sequence[Judged], system: str, methods: Sequence[str]) -> Plot:
    """Error by number of configurations learnt from."""
    figure, (axes,) = new_figure(5.2, 3.8, 1, 1)
    own = [one for one in judged if one.system == system]
    for method, colour, marker in zip(methods, COLOURS, "osD^vP*", strict=False):
        sizes = sorted({one.n_train for one in own if one.method == method})
        points = [
            mean_and_spread([o.mae for o in own if o.method == method and o.n_train == size])
            for size in sizes
        ]
        means, spreads = np.array(points).T if points else (np.array([]), np.array([]))
        axes.errorbar(
            sizes,
            means,
            np.nan_to_num(spreads),
            marker=marker,
            color=colour,
            label=method,
            capsize=3,
        )
    axes.set(
        xlabel="configurations learnt from", ylabel="error, meV/site", yscale="log", title=system
    )
    axes.legend()
    caption = f"{system}: mean absolute error on held-out configurations, mean and spread."
    return Plot(f"{system}-curve", figure, caption)
