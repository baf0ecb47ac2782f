"""Tables and figures of Monte Carlo: against temperature, and a sketch of a phase diagram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.units import kB
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..evaluation.plots import Plot
from ..evaluation.tables import Cell, Table
from ..figures.style import COLOURS, new_figure, styled
from .observables import Course, spread

Array = NDArray[np.float64]

ERRORS = "Errors are standard errors of the mean over replicas."


def courses_table(courses: Sequence[Course], key: str, title: str) -> Table:
    """Everything against temperature, a line for each composition and temperature."""
    rows: list[list[Cell]] = []
    for one in courses:
        samples = one.samples
        energy, heat = 1e3 * samples.mean_energy, samples.heat_capacity
        values = [energy, heat, samples.entropy, *np.moveaxis(one.alpha, -1, 0), one.order]
        columns = [part for value in values for part in (value.mean(0), spread(value))]
        for place in np.argsort(-samples.temperatures):
            cells: list[Cell] = [one.x, float(samples.temperatures[place])]
            cells += [float(column[place]) for column in columns]
            cells += [one.star, float(samples.acceptance[:, place].mean())]
            rows.append(cells)
    names = ["mixing energy (meV/site)", "heat capacity (kB/site)", "entropy (kB/site)"]
    names += [f"order of shell {k + 1}" for k in range(len(courses[0].distances))]
    names += ["long-range order"]
    both = [part for name in names for part in (name, f"± {name}")]
    distances = ", ".join(f"{d:.2f}" for d in courses[0].distances)
    note = (
        "Mixing energies are against end members by the same energies. Order of shells: Warren and "
        f"Cowley's, of sites {distances} Å apart; 0 without order, negative where unlike species "
        "are neighbours. Long-range order: share of the waves of the star in the variance of the "
        "composition from site to site. Entropy: integrated from infinite temperature. "
        + ERRORS
        + _others(courses)
    )
    columns_ = [_share_of(courses), "T (K)", *both, "star", "accepted"]
    return Table(key, f"{title}: against temperature", columns_, rows, note=note)


def _share_of(courses: Sequence[Course]) -> str:
    """How a column with the share of the last species is called."""
    return f"x_{list(courses[0].shares)[-1]}"


def _others(courses: Sequence[Course]) -> str:
    """What shares the others have, where it does not go without saying."""
    species = list(courses[0].shares)
    return f" {' and '.join(species[:-1])} have equal parts of the rest." if species[2:] else ""


def sketch_table(courses: Sequence[Course], key: str, title: str) -> Table:
    """One line for each composition: where its heat capacity is largest, and what it orders to."""
    rows: list[list[Cell]] = []
    for one in courses:
        samples, cold = one.samples, one.coldest
        rows.append(
            [
                one.x,
                float(samples.temperatures[one.peak]),
                _certainty(one),
                float(samples.heat_capacity.mean(0)[one.peak]),
                1e3 * samples.random,
                1e3 * float(samples.mean_energy.mean(0)[cold]),
                float(one.alpha.mean(0)[cold, 0]),
                one.star,
                float(one.order.mean(0)[cold]),
                one.at_random,
                spinodal(one),
                samples.failed,
            ]
        )
    coldest = courses[0].samples.temperatures.min()
    columns = [
        _share_of(courses),
        "largest heat capacity at (K)",
        "which is",
        "heat capacity there (kB/site)",
        "random mixture (meV/site)",
        f"at {coldest:g} K (meV/site)",
        f"order of shell 1 at {coldest:g} K",
        "star",
        f"long-range order at {coldest:g} K",
        "without order",
        "spinodal of a regular solution (K)",
        "failed trials",
    ]
    note = (
        "A sketch of a phase diagram: compositions are fixed, cells are small, and a largest heat "
        "capacity is a transition only where it grows with the cell." + _others(courses)
    )
    return Table(key, f"{title}: where order sets in", columns, rows, note=note)


def spinodal(one: Course) -> float:
    """K of the spinodal of a regular solution with this energy of mixing; NaN where it has none.

    Below it the mixture is unstable. From the binodal on, which lies higher but at equal shares, it
    may already separate.

    With E = W x(1 - x), the free energy W x(1 - x) + kT (x ln x + (1 - x) ln(1 - x)) has no
    curvature at kT = 2 W x(1 - x), twice the energy of the random mixture; only where that is
    positive and two species share the sites.
    """
    if len(one.shares) != 2 or not one.samples.random > 0:
        return float("nan")
    return 2 * one.samples.random / kB


def _certainty(one: Course) -> str:
    """Whether the largest heat capacity lies within the temperatures."""
    temperatures = one.samples.temperatures
    if len(temperatures) < 3:
        return "of too few temperatures"
    if one.peak == one.coldest:
        return "the lowest temperature: order sets in there or below"
    if one.peak == int(np.argmax(temperatures)):
        return "the highest temperature: order sets in there or above"
    return "inside the range"


@styled
def courses_plot(courses: Sequence[Course], key: str, title: str) -> Plot:
    """Energy, heat, entropy and order against temperature, a colour for each composition."""
    figure, panels = new_figure(11.5, 6.4, 2, 3)
    energy, heat, entropy, first, second, order = panels
    for k, one in enumerate(courses):
        samples, colour = one.samples, COLOURS[k % len(COLOURS)]
        label = f"{list(one.shares)[-1]} {one.x:.3g}"
        _line(energy, one, 1e3 * samples.mean_energy, colour, label)
        energy.axhline(1e3 * samples.random, color=colour, linestyle=":", linewidth=1)
        _line(heat, one, samples.heat_capacity, colour, label)
        _line(entropy, one, samples.entropy, colour, label)
        entropy.axhline(samples.ideal_entropy, color=colour, linestyle=":", linewidth=1)
        for axes, shell in ((first, 0), (second, 1)):
            _line(axes, one, one.alpha[..., shell], colour, label)
        _line(order, one, one.order, colour, f"{label}, star {one.star}")
        order.axhline(one.at_random, color=colour, linestyle=":", linewidth=1)
    distances = courses[0].distances
    energy.set(title="Mixing energy", ylabel="meV per site")
    heat.set(title="Heat capacity", ylabel="kB per site", ylim=(0, None))
    entropy.set(title="Entropy", ylabel="kB per site")
    first.set(title=f"Short-range order, {distances[0]:.2f} Å", ylabel="Warren–Cowley parameter")
    second.set(title=f"Short-range order, {distances[1]:.2f} Å", ylabel="Warren–Cowley parameter")
    order.set(title="Long-range order", ylabel="share of the variance", ylim=(0, 1.02))
    for axes in panels:
        axes.set(xlabel="temperature (K)", xscale="log")
    energy.legend(fontsize=8)
    order.legend(fontsize=8)
    caption = (
        f"{title}. Dotted: an ideal, random mixture. Bars: standard errors over replicas. "
        f"Temperatures are logarithmic.{_others(courses)}"
    )
    return Plot(key, figure, caption)


def _line(axes: Axes, one: Course, values: Array, colour: str, label: str) -> None:
    """Means over replicas with their errors, by temperature."""
    order = np.argsort(one.samples.temperatures)
    error = np.nan_to_num(spread(values)[order])
    axes.errorbar(
        one.samples.temperatures[order],
        values.mean(0)[order],
        error,
        color=colour,
        marker="o",
        markersize=3,
        capsize=2,
        label=label,
    )


def _order_map(figure: Figure, axes: Axes, courses: Sequence[Course]) -> None:
    """A square for each composition and temperature, coloured by the order of the first shell."""
    x = np.concatenate([np.full(len(one.samples.temperatures), one.x) for one in courses])
    temperatures = np.concatenate([one.samples.temperatures for one in courses])
    order = np.concatenate([one.alpha[..., 0].mean(0) for one in courses])
    largest = max(0.1, float(abs(order).max()))
    squares = axes.scatter(
        x,
        temperatures,
        s=90,
        c=order,
        marker="s",
        cmap="RdBu_r",
        alpha=0.7,
        vmin=-largest,
        vmax=largest,
    )
    figure.colorbar(squares, ax=axes, label="short-range order, first shell", shrink=0.9)


@styled
def sketch_plot(courses: Sequence[Course], key: str, title: str) -> Plot:
    """Temperature of the largest heat capacity against composition, over short-range order."""
    figure, (axes,) = new_figure(6.4, 3.8)
    _order_map(figure, axes, courses)
    inside = [one for one in courses if _certainty(one).startswith("inside")]
    below = [one for one in courses if one.peak == one.coldest]
    above = [one for one in courses if one not in inside and one not in below]
    for chosen, marker, label in (
        (inside, "o", "largest heat capacity"),
        (below, "v", "largest heat capacity, there or below"),
        (above, "^", "largest heat capacity, there or above"),
    ):
        if chosen:
            at = [float(one.samples.temperatures[one.peak]) for one in chosen]
            axes.plot([one.x for one in chosen], at, marker, color="#202020", label=label)
    for one in inside:  # between which temperatures of the list it lies
        known = np.sort(one.samples.temperatures)
        place = int(np.searchsorted(known, one.samples.temperatures[one.peak]))
        axes.vlines(one.x, known[place - 1], known[place + 1], color="#202020", alpha=0.6)
    separating = [one for one in courses if np.isfinite(spinodal(one))]
    if separating:
        at = [spinodal(one) for one in separating]
        label = "spinodal of a regular solution"
        axes.plot([one.x for one in separating], at, "--", color=COLOURS[1], label=label)
    for one in courses:
        at_peak = float(one.samples.temperatures[one.peak])
        axes.annotate(one.star, (one.x, at_peak), (7, 7), textcoords="offset points", fontsize=8)
    last = list(courses[0].shares)[-1]
    axes.margins(y=0.1)
    axes.set(xlabel=f"share of {last}", ylabel="temperature (K)", xlim=(0, 1), yscale="log")
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    caption = (
        f"{title}: a sketch. Squares: order of the nearest sites after Warren and Cowley, red "
        "where like keeps to like, blue where unlike species are neighbours, white where they are "
        "mixed. Other points: the temperature with the largest heat capacity, bars to its "
        "neighbours in the list; beside them the star of waves that is strongest at the lowest "
        "temperature. A largest heat capacity is a transition only where it grows with the cell."
        + _others(courses)
    )
    return Plot(key, figure, caption)
