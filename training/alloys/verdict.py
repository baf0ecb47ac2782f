"""What the comparison of methods means, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .judge import Judged, mean_and_spread, of

COMPOSITION = ("fractions", "roost", "ideal")
NOT_PREDICTIONS = ("ce-all", "energy-only-dft")
"""Methods that know of the held-out configurations what nobody knows of a new one."""

FLOOR = 1.0
"""meV per site. What settings of DFT and unfinished relaxations leave; below it nothing is told."""


def verdict(judged: Sequence[Judged], system: str) -> list[str]:
    """Sentences on one system: which kind of method is best, and whether that is certain."""
    methods = list(dict.fromkeys(one.method for one in judged if one.system == system))
    honest = [m for m in methods if m not in NOT_PREDICTIONS and _mae(judged, system, m) < np.inf]
    kinds = {
        "a cluster expansion": [m for m in honest if m.startswith("ce-")],
        "a potential": [m for m in honest if not m.startswith("ce-") and m not in COMPOSITION],
        "the composition alone": [m for m in honest if m in COMPOSITION],
    }
    best = {
        kind: min(own, key=lambda m: _mae(judged, system, m)) for kind, own in kinds.items() if own
    }
    if len(best) < 2:
        return []
    order = sorted(best, key=lambda kind: _mae(judged, system, best[kind]))
    lines = [_ranking(judged, system, best, order)]
    if {"a cluster expansion", "a potential"} <= set(best):
        pair = best["a cluster expansion"], best["a potential"]
        lines.append(_expansion_or_potential(judged, system, *pair))
    if "the composition alone" in best and order[0] != "the composition alone":
        lines += _composition(judged, system, best["the composition alone"], best[order[0]])
    return lines


def _mae(judged: Sequence[Judged], system: str, method: str) -> float:
    mean, _ = mean_and_spread([one.mae for one in of(judged, system, method)])
    return mean if np.isfinite(mean) else np.inf


def _ranking(
    judged: Sequence[Judged], system: str, best: dict[str, str], order: Sequence[str]
) -> str:
    parts = [
        f"{kind} ({best[kind]}) {_mae(judged, system, best[kind]):.2f} meV/site" for kind in order
    ]
    return f"{system}: the best of each kind errs by " + ", ".join(parts) + "."


def _compared(
    judged: Sequence[Judged], system: str, one: str, other: str
) -> tuple[float, int, int]:
    """Mean difference of the errors in meV per site; in how many splits `one` is better, of all."""
    first = {j.split: j.mae for j in of(judged, system, one)}
    second = {j.split: j.mae for j in of(judged, system, other)}
    gaps = [first[k] - second[k] for k in first if k in second]
    gaps = [gap for gap in gaps if np.isfinite(gap)]
    return (float(np.mean(gaps)) if gaps else np.nan), sum(gap < 0 for gap in gaps), len(gaps)


def _expansion_or_potential(
    judged: Sequence[Judged], system: str, expansion: str, potential: str
) -> str:
    gap, better, n = _compared(judged, system, potential, expansion)
    told = f"{abs(gap):.2f} meV/site in the mean, the potential better in {better} of {n} splits"
    if abs(gap) < FLOOR:
        return (
            f"A cluster expansion is enough here: the two differ by less than the {FLOOR:g} "
            f"meV/site that DFT itself leaves open ({told})."
        )
    if gap > 0:
        return f"A cluster expansion is enough here, and better ({told})."
    if better == n:
        return f"The potential is better than a cluster expansion in every split ({told})."
    return f"The potential is better than a cluster expansion, but not in every split ({told})."


def _composition(judged: Sequence[Judged], system: str, floor: str, winner: str) -> list[str]:
    gap, better, n = _compared(judged, system, winner, floor)
    if -gap >= FLOOR and better > n / 2:
        return []
    return [
        "How the species are arranged hardly matters: composition alone is as good within "
        f"{abs(gap):.2f} meV/site ({winner} better in {better} of {n} splits)."
    ]
