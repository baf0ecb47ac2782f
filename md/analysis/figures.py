"""The results of an analysis as figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import units
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .analyse import Analysis
from .averages import Expansion
from .msd import Diffusion
from .rdf import RDF
from .ripples import Ripples

_CORE = 0.5  # Å; atoms on top of each other make a peak at 0 that would hide the others


def draw(analysis: Analysis, folder: Path) -> list[Path]:
    """Write a PNG of everything that was found; their paths."""
    paths = []

    def save(name: str, fill: Callable[[Axes], None]) -> None:
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        fill(axes)
        axes.grid(color="#D8D8D8", lw=0.6)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150, metadata={"Software": None})

    for k, group in enumerate(analysis.groups):
        tail = f"-{k}" if len(analysis.groups) > 1 else ""
        save(f"rdf{tail}", lambda axes, g=group.rdf: _draw_rdf(axes, g))  # type: ignore[misc]
        if group.diffusion:
            found = group.diffusion
            save(f"msd{tail}", lambda axes, d=found: _draw_msd(axes, d))  # type: ignore[misc]
        if group.ripples is not None:
            waves = group.ripples
            save(f"ripples{tail}", lambda axes, w=waves: _draw_ripples(axes, w))  # type: ignore[misc]
    if analysis.expansions:
        save("area", lambda axes: _draw_areas(axes, analysis.expansions))
    return paths


def _draw_rdf(axes: Axes, found: RDF) -> None:
    highest = 1.0
    for pair, g in found.g.items():
        axes.plot(found.r, g, lw=1.2, label=pair)
        highest = max(highest, float(g[found.r > _CORE].max(initial=0.0)))
    axes.set(xlabel="distance in the plane (Å)", ylabel="g(r)", ylim=(0, 1.05 * highest))
    axes.legend(frameon=False)


def _draw_msd(axes: Axes, found: dict[str, Diffusion]) -> None:
    for element, of in found.items():
        half = max(2, len(of.lag) // 2)  # of longer lags there is hardly a mean
        axes.plot(of.lag[:half], of.msd[:half], lw=1.2, label=element)
    axes.set(xlabel="time (ps)", ylabel="mean squared displacement (Å²)")
    axes.legend(frameon=False)


def _draw_ripples(axes: Axes, found: Ripples) -> None:
    axes.errorbar(found.q, found.square, np.nan_to_num(found.error), fmt="o", ms=3, lw=1.0)
    axes.set(xscale="log", yscale="log", xlabel="wave number (1/Å)", ylabel="<|h(q)|²> (Å²)")
    if np.isfinite(found.rigidity):
        q = found.q[(found.q >= found.q_range[0]) & (found.q <= found.q_range[1])]
        line = units.kB * found.temperature / (found.area * found.rigidity * q**4)
        axes.plot(q, line, "k--", lw=1.0, label=f"kT/(A κ q⁴), κ = {found.rigidity:.2f} eV")
        axes.legend(frameon=False)


def _draw_areas(axes: Axes, found: Sequence[Expansion]) -> None:
    for of in found:
        scale = 100 / of.area_at_zero
        change, error = of.areas * scale - 100, np.nan_to_num(of.errors) * scale
        axes.errorbar(of.temperatures, change, error, fmt="o", ms=3, lw=1.0, label=of.formula)
        ends = np.array([0.0, of.temperatures.max()])
        slope = of.coefficient / (1 - of.coefficient * of.temperatures.mean())
        axes.plot(ends, 100 * slope * ends, "k--", lw=0.8)
    axes.set(xlabel="temperature (K)", ylabel="area, change from 0 K (%)")
    axes.legend(frameon=False)
