"""Errors of methods on held-out configurations, over repeated splits.

Axes: C configurations held out in a split, R splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mlff2d import slab
from mlff2d.atoms import canonical_slab

from .formation import dft_formation, ground_states, hull_distances
from .method import Answer, Answers
from .splits import Split
from .system import Configuration, System

Array = NDArray[np.float64]

FEWEST_RANKED = 4
"""Configurations below which ranks say nothing."""


@dataclass(frozen=True)
class Judged:
    """How one method did in one system and one split.

    Attributes
    ----------
    mae, rmse : meV per shared site, of formation energies of held-out configurations
    spearman : rank correlation of the same; NaN for fewer than `FEWEST_RANKED`
    hull_mae : meV per shared site, of distances from the hull, each on its own
    found, missed, false : ground states of DFT that the method has, lacks, and those that only it
        has, among all configurations with DFT results
    energy_mae : meV/atom of relaxed energies, NaN for methods without
    area_mae : Å²/atom of relaxed areas, NaN for methods without
    failed : held-out configurations without an answer, which no mean includes
    sites_per_atom : shared sites in an atom, a third in MX2
    cv : meV per shared site, error in cross-validation inside the training part where the method
        has one; NaN else
    predicted : by name of the held-out configurations, formation energy in eV per shared site
    errors : the same less that of DFT, in meV per shared site; NaN without an answer
    """

    system: str
    method: str
    split: int
    size: int | None
    n_train: int
    n_test: int
    mae: float
    rmse: float
    spearman: float
    hull_mae: float
    found: int
    missed: int
    false: int
    energy_mae: float
    area_mae: float
    failed: int
    sites_per_atom: float
    cv: float = np.nan
    predicted: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)


def judge(system: System, method: str, split: Split, answers: Answers) -> Judged:
    """Compare a method's answers in a system with DFT."""
    everything = system.with_dft
    true = dict(zip([one.name for one in everything], dft_formation(everything), strict=True))
    test = [one for one in split.test if one.system == system.name]
    said = [answers.of.get((system.name, one.name), Answer(np.nan)) for one in test]
    predicted = np.array([one.formation for one in said])
    errors = 1e3 * (predicted - np.array([true[one.name] for one in test]))
    known = np.isfinite(errors)
    ours, theirs = _ground_states(system, answers)
    return Judged(
        system.name,
        method,
        split.number,
        split.size,
        sum(one.system == system.name for one in split.train),
        len(test),
        _mean(abs(errors[known])),
        float(np.sqrt(_mean(errors[known] ** 2))),
        _spearman(predicted[known], np.array([true[one.name] for one in test])[known]),
        _hull_error(system, answers, {one.name for one in test}),
        len(ours & theirs),
        len(theirs - ours),
        len(ours - theirs),
        _mean_known([1e3 * _energy_error(one, a) for one, a in zip(test, said, strict=True)]),
        _mean_known([_area_error(one, a) for one, a in zip(test, said, strict=True)]),
        int((~known).sum()),
        everything[0].n_sites / len(everything[0].start),
        float(answers.facts.get(system.name, {}).get("cv_rmse_mev_per_site", np.nan)),
        {one.name: float(value) for one, value in zip(test, predicted, strict=True)},
        {one.name: float(value) for one, value in zip(test, errors, strict=True)},
    )


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _mean_known(values: Sequence[float]) -> float:
    array = np.array(values)
    return _mean(abs(array[np.isfinite(array)]))


def _spearman(predicted: Array, true: Array) -> float:
    if len(true) < FEWEST_RANKED or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return float("nan")
    return float(spearmanr(predicted, true).statistic)


def _energy_error(one: Configuration, answer: Answer) -> float:
    """eV/atom."""
    return (answer.energy - one.energy) * one.n_sites / len(one.start)


def _area_error(one: Configuration, answer: Answer) -> float:
    """Å²/atom."""
    assert one.relaxed is not None
    layer = canonical_slab(one.relaxed)
    return answer.area - slab.area(one.relaxed.cell.array, layer.pbc) / len(one.relaxed)


def shares_of(configurations: Sequence[Configuration]) -> Array:
    """(C, S) shares of the species."""
    return np.array([list(one.shares.values()) for one in configurations])


def predicted_formation(system: System, answers: Answers) -> Array:
    """(C,) a method's formation energies of all configurations with DFT results."""
    missing = Answer(np.nan)
    return np.array(
        [answers.of.get((system.name, one.name), missing).formation for one in system.with_dft]
    )


def _ground_states(system: System, answers: Answers) -> tuple[set[int], set[int]]:
    """Of the method and of DFT."""
    shares = shares_of(system.with_dft)
    ours = ground_states(shares, predicted_formation(system, answers))
    return ours, ground_states(shares, dft_formation(system.with_dft))


def _hull_error(system: System, answers: Answers, test: set[str]) -> float:
    shares = shares_of(system.with_dft)
    ours = hull_distances(shares, predicted_formation(system, answers))
    theirs = hull_distances(shares, dft_formation(system.with_dft))
    held = np.array([one.name in test for one in system.with_dft])
    return _mean_known(list(1e3 * (ours - theirs)[held]))


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over splits; NaN where there are too few."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return float("nan"), float("nan")
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else float("nan")


def of(judged: Sequence[Judged], system: str, method: str, size: int | None = None) -> list[Judged]:
    """Those of one system, method and size, split by split."""
    return [
        one for one in judged if one.system == system and one.method == method and one.size == size
    ]
