"""Two atoms alone, of every pair of elements: do they repel each other when they are close?

Axes: P pairs, R distances.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from mlff2d.graph import Graph
from mlff2d.potential import Potential
from mlff2d.training.evaluation.tables import Cell, Table
from mlff2d.training.figures.style import GREY, new_figure, png, styled

from .common import MODEL, TEACHER, Job, PartResult, Subject

NEAREST, FARTHEST = 0.3, 6.0
"""Å."""

WITHIN = 0.5
"""Sums of covalent radii within which any two atoms repel each other. Of the shortest bonds known,
V2, Mo2 and Cr2 are 0.58 to 0.63 of it (from molecular spectroscopy: 1.77, 1.94 and 1.68 Å)."""

NOISE = 0.05
"""eV. A fall by less when two atoms come closer is not counted."""

DEEP = 15.0
"""eV. No bond of two atoms is as strong; the strongest, of CO, has 11.2 eV."""

REACH = 10.0
"""eV. What atoms of hot or ill-made structures may come by."""

_AT_ONCE = 1024

Array = NDArray[np.float64]


def distances(step: float) -> Array:
    """(R,) Å: the step up to 3.5 Å, three times it beyond."""
    near = np.arange(NEAREST, 3.5 + 1e-9, step)
    return np.concatenate([near, np.arange(near[-1] + 3 * step, FARTHEST + 1e-9, 3 * step)])


def energies(potential: Potential, pairs: NDArray[np.int64], r: Array) -> Array:
    """(P, R) energies in eV of pairs (P, 2) of atomic numbers, beside that of the atoms apart."""
    device = next(potential.parameters()).device
    z = np.repeat(pairs, len(r), axis=0)
    lengths = np.tile(r, len(pairs))
    found = np.empty(len(lengths))
    for first in range(0, len(lengths), _AT_ONCE):
        here = slice(first, first + _AT_ONCE)
        graph = _dimers(z[here], lengths[here], potential.cutoff).to(device)
        with torch.no_grad():
            found[here] = potential(graph, forces=False, virial=False).energy.cpu().numpy()
    elements = np.unique(pairs)
    far = np.full(len(elements), potential.cutoff + 1)
    apart = _dimers(np.repeat(elements[:, None], 2, axis=1), far, potential.cutoff).to(device)
    with torch.no_grad():
        alone = potential(apart, forces=False, virial=False).energy.cpu().numpy() / 2
    return (
        found.reshape(len(pairs), len(r)) - alone[np.searchsorted(elements, pairs)].sum(1)[:, None]
    )


def _dimers(z: NDArray[np.int64], lengths: Array, cutoff: float) -> Graph:
    """Molecules of two atoms along x, of atomic numbers (S, 2)."""
    n = len(lengths)
    pos = torch.zeros(2 * n, 3, dtype=torch.float64)
    pos[1::2, 0] = torch.from_numpy(np.array(lengths))
    first = torch.from_numpy(2 * np.flatnonzero(lengths < cutoff))
    pair = torch.stack([first, first + 1], dim=1)
    index = torch.stack([pair.reshape(-1), pair.flip(1).reshape(-1)])
    return Graph(
        z=torch.from_numpy(z.reshape(-1)),
        pos=pos,
        cell=torch.zeros(n, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(n, 3, dtype=torch.bool),
        edge_index=index,
        edge_shift=torch.zeros(index.shape[1], 3, dtype=torch.int64),
        batch=torch.arange(n).repeat_interleave(2),
    )


def judged(curve: Array, r: Array, sum_of_radii: float) -> dict[str, float]:
    """What is wrong with the energy (R,) of a pair in eV, and its well.

    fall : the most that the energy falls, in eV, when the atoms come closer within `WITHIN`
    hole : by how much the lowest energy there is below the lowest farther out, at least 0
    depth, length : of the lowest energy farther out, in eV and Å
    barrier : the highest wall between two wells farther out, in eV above the higher of them
    way : eV that it takes to get from there to where it falls; 0 where it does not fall
    """
    n = int((r < WITHIN * sum_of_radii).sum())
    inner, outer = curve[:n], curve[n:]
    well = n + int(outer.argmin())
    # Going inwards; from the first point outside on, so that one point inside can be judged.
    inwards = curve[n::-1]
    falls = np.maximum.accumulate(inwards) - inwards
    begins = n - int((falls > NOISE).argmax()) if (falls > NOISE).any() else None
    return {
        "fall": float(falls.max()),
        "hole": max(0.0, float(outer.min() - inner.min())) if n else 0.0,
        "depth": float(-curve[well]),
        "length": float(r[well]),
        "barrier": _barrier(outer),
        "way": 0.0 if begins is None else float(curve[begins : well + 1].max() - curve[well]),
    }


def _barrier(curve: Array) -> float:
    """The highest wall in eV above the higher of the lowest points on its two sides."""
    left = np.minimum.accumulate(curve)
    right = np.minimum.accumulate(curve[::-1])[::-1]
    return float((curve - np.maximum(left, right)).max())


def of_all_pairs(job: Job) -> PartResult:
    """Every pair of the elements that the model knows, and the same by its teacher."""
    pairs = np.array(list(combinations_with_replacement(job.model.single.elements, 2)))
    r = distances(job.options.dimer_step)
    found = {s.name: _verdicts(job, s, pairs, r) for s in job.subjects}
    columns = ["potential", "pairs", "not finite", f"attracted within {WITHIN}"]
    columns += [f"behind less than {REACH:g} eV", "with a hole"]
    columns += [f"deeper than {DEEP:g} eV", "with a wall above 1 eV"]
    rows: list[list[Cell]] = []
    figures: dict[str, Any] = {"pairs": len(pairs)}
    for name, verdicts in found.items():
        counts = {
            "pairs": len(verdicts),
            "not finite": sum(not v["finite"] for v in verdicts.values()),
            "attracted": sum(v["fall"] > NOISE for v in verdicts.values()),
            "within reach": sum(0 < v["way"] < REACH for v in verdicts.values()),
            "holes": sum(v["hole"] > NOISE for v in verdicts.values()),
            "too deep": sum(v["depth"] > DEEP for v in verdicts.values()),
            "walls": sum(v["barrier"] > 1 for v in verdicts.values()),
        }
        rows.append([name, *counts.values()])
        figures[name] = counts
    mine, other = found[MODEL], found[TEACHER]
    both = [(mine[p], other[p]) for p in mine.keys() & other.keys()]
    deep = [abs(a["depth"] - b["depth"]) for a, b in both]
    long = [abs(a["length"] - b["length"]) for a, b in both if b["depth"] > 0.5]
    figures["depth, median difference (eV)"] = float(np.median(deep))
    figures["length, median difference (Å)"] = float(np.median(long)) if long else None
    bad = {p: v for p, v in mine.items() if v["fall"] > NOISE or not v["finite"]}
    figures["bad pairs"] = bad
    lines = [
        f"{len(pairs):,} pairs alone in space, {len(r)} distances from {NEAREST} to {FARTHEST} Å. "
        f"Attracted: the energy falls by more than {NOISE} eV somewhere when the atoms come closer "
        f"than {WITHIN} times the sum of their covalent radii (no bond known is shorter than 0.58 "
        "of it). A hole: it falls below the well farther out. In brackets how far it falls, and "
        "the energy that it takes from the well to get there.",
        f"Beside the teacher's, wells differ by {figures['depth, median difference (eV)']:.2f} eV "
        "in the median. Neither was trained on molecules: that they do not collapse is what is "
        "asked for.",
        "Attracted pairs of the model: " + (_listed(bad) if bad else "none") + ".",
    ]
    result = PartResult("Two atoms alone", lines, [Table("dimers", "", columns, rows)], figures)
    result.images.append(f"dimers-{job.model.sha256[:8]}.png")
    picture = png(_draw(job.model.single.elements, found))
    (job.kept.folder / result.images[0]).write_bytes(picture)
    return result


def _verdicts(
    job: Job, subject: Subject, pairs: NDArray[np.int64], r: Array
) -> dict[str, dict[str, Any]]:
    """By the symbols of a pair, of those that a potential knows."""
    known = pairs[np.isin(pairs, subject.single.elements).all(1)]

    def measure() -> list[list[float]]:
        rounded: list[list[float]] = np.round(energies(subject.single, known, r), 4).tolist()
        return rounded

    curves = job.kept.get("dimers-curves", [subject.sha256, known.tolist(), r.tolist()], measure)
    found: dict[str, dict[str, Any]] = {}
    for (a, b), curve in zip(known.tolist(), np.array(curves, float), strict=True):
        pair = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
        radii = float(covalent_radii[a] + covalent_radii[b])
        finite = bool(np.isfinite(curve).all())
        verdict = judged(curve, r, radii) if finite else dict.fromkeys(_NUMBERS, 0.0)
        found[pair] = {"finite": finite, **verdict}
    return found


_NUMBERS = ("fall", "hole", "depth", "length", "barrier", "way")


def _listed(bad: dict[str, dict[str, Any]], most: int = 40) -> str:
    worst = sorted(bad, key=lambda p: -bad[p]["fall"])
    text = ", ".join(
        f"{pair} ({bad[pair]['fall']:.1f} eV, behind {bad[pair]['way']:.0f} eV)"
        for pair in worst[:most]
    )
    return text + (f" and {len(worst) - most} more" if len(worst) > most else "")


@styled
def _draw(elements: tuple[int, ...], found: dict[str, dict[str, dict[str, Any]]]) -> Any:
    """The depth of the well of every pair, the model below the diagonal, the teacher above."""
    n = len(elements)
    table = np.full((n, n), np.nan)
    places = {chemical_symbols[z]: k for k, z in enumerate(elements)}
    for name, verdicts in found.items():
        for pair, verdict in verdicts.items():
            a, b = sorted(places[symbol] for symbol in pair.split("-"))
            row, column = (b, a) if name == MODEL else (a, b)
            if a != b or name == MODEL:
                table[row, column] = verdict["depth"]
    figure, (axes,) = new_figure(8.6, 7.6)
    axes.grid(False)
    axes.set_facecolor(GREY)
    image = axes.imshow(table, vmin=0, vmax=12, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8).set_label("depth of the well (eV)")
    ticks = range(0, n, 4)
    labels = [chemical_symbols[elements[k]] for k in ticks]
    axes.set_xticks(ticks, labels, size=7)
    axes.set_yticks(ticks, labels, size=7)
    axes.set_title("below the diagonal: model; above: teacher")
    return figure
