"""What the comparison of methods means, in words.

Each kind of method is represented by one that is named without looking at held-out configurations:
a cluster expansion by that of least error in cross-validation inside the training part, the others
by the first of a fixed order. Two methods are compared on the configurations that both answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .choices import NOT_PREDICTIONS
from .judge import Judged, mean_and_spread, of

EXPANSION, POTENTIAL, READOUT, COMPOSITION = (
    "a cluster expansion",
    "a potential",
    "a fit to its features",
    "the composition alone",
)
ORDER = {
    EXPANSION: ("ce-ardr", "ce-ridge", "ce-lasso", "ce-ols"),
    POTENTIAL: ("fine-tuned", "energy-only", "scratch", "zero-shot"),
    READOUT: ("readout",),
    COMPOSITION: ("roost", "fractions", "ideal"),
}
"""Who represents its kind: the first that there is."""

FLOOR = 1.0
"""meV per site. What settings of DFT and unfinished relaxations leave; below it nothing is told."""


def verdict(judged: Sequence[Judged], system: str) -> list[str]:
    """Sentences on one system: which kind of method is best, and whether that is certain."""
    methods = {one.method for one in judged if one.system == system} - set(NOT_PREDICTIONS)
    chosen = {kind: _representative(judged, system, kind, methods) for kind in ORDER}
    present = {kind: method for kind, method in chosen.items() if method is not None}
    if len(present) < 2:
        return []
    lines = [_ranking(judged, system, present)]
    expansion = present.get(EXPANSION)
    if expansion is not None:
        potentials = [present.get(POTENTIAL), "energy-only", present.get(READOUT)]
        for method in dict.fromkeys(m for m in potentials if m in methods):
            lines.append(_expansion_or_potential(judged, system, expansion, str(method)))
    floor = present.pop(COMPOSITION, None)
    if floor is not None:
        lines += _composition(judged, system, floor, list(present.values()))
    return lines


def _representative(
    judged: Sequence[Judged], system: str, kind: str, methods: set[str]
) -> str | None:
    own = [method for method in ORDER[kind] if method in methods]
    if kind == EXPANSION and own:
        cv = {m: mean_and_spread([one.cv for one in of(judged, system, m)])[0] for m in own}
        known = [m for m in own if np.isfinite(cv[m])]
        return min(known, key=lambda m: cv[m]) if known else own[0]
    return own[0] if own else None


def _ranking(judged: Sequence[Judged], system: str, present: dict[str, str]) -> str:
    parts = []
    for kind, method in present.items():
        found = of(judged, system, method)
        mean, _ = mean_and_spread([one.mae for one in found])
        lost, asked = sum(one.failed for one in found), sum(one.n_test for one in found)
        without = f", {lost} of {asked} without an answer" if lost else ""
        error = f"{mean:.2f} meV/site" if np.isfinite(mean) else "unknown"
        parts.append(f"{kind} ({method}{without}) {error}")
    return f"{system}: errors on held-out configurations are for " + ", for ".join(parts) + "."


def _compared(judged: Sequence[Judged], system: str, one: str, other: str) -> list[float]:
    """For each split the difference of the errors in meV per site, where both answer."""
    second = {j.split: j for j in of(judged, system, other)}
    gaps = []
    for first in of(judged, system, one):
        theirs = second[first.split].errors if first.split in second else {}
        pairs = [(abs(e), abs(theirs.get(name, np.nan))) for name, e in first.errors.items()]
        both = [(a, b) for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
        if both:
            gaps.append(float(np.mean([a - b for a, b in both])))
    return gaps


def _expansion_or_potential(
    judged: Sequence[Judged], system: str, expansion: str, potential: str
) -> str:
    gaps = _compared(judged, system, potential, expansion)
    if not gaps:
        return f"{potential} and {expansion} answer for no configuration in common."
    gap, better, n = float(np.mean(gaps)), sum(gap < 0 for gap in gaps), len(gaps)
    told = (
        f"{expansion} and {potential} differ by {abs(gap):.2f} meV/site in the mean, {potential} "
        f"better in {better} of {n} splits"
    )
    if abs(gap) < FLOOR:
        return f"A cluster expansion is enough here: {told}, and DFT itself leaves {FLOOR:g} open."
    if gap > 0:
        return f"{potential} does not reach a cluster expansion: {told}."
    who = "A fit to its features" if potential in ORDER[READOUT] else "The potential"
    often = " in every split" if better == n else ", but not in every split"
    return f"{who} is better than a cluster expansion{often}: {told}."


def _composition(
    judged: Sequence[Judged], system: str, floor: str, others: Sequence[str]
) -> list[str]:
    for method in others:
        gaps = _compared(judged, system, method, floor)
        if gaps and np.mean(gaps) <= -FLOOR:
            return []
    return [
        f"How the species are arranged hardly matters, or is not learnt: no method is better than "
        f"composition alone ({floor}) by {FLOOR:g} meV/site."
    ]
