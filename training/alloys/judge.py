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

from .formation import ON_HULL, dft_formation, ground_states, hull_distances
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
    formation, shares = dft_formation(everything), shares_of(everything)
    told = predicted_formation(everything, answers)
    ours, theirs = hull_distances(shares, told), hull_distances(shares, formation)
    stable, truly = ground_states(shares, ours), ground_states(shares, theirs)
    names = {one.name for one in split.test if one.system == system.name}
    held = np.array([one.name in names for one in everything])
    test = [one for one in everything if one.name in names]
    said = [answers.of.get((system.name, one.name), Answer(np.nan)) for one in test]
    true, predicted = formation[held], told[held]
    errors = 1e3 * (predicted - true)
    known = np.isfinite(errors)
    return Judged(
        system.name,
        method,
        split.number,
        split.size,
        sum(one.system == system.name for one in split.train),
        len(test),
        _mean(abs(errors[known])),
        float(np.sqrt(_mean(errors[known] ** 2))),
        _spearman(predicted[known], true[known]),
        _mean_known(1e3 * (ours - theirs)[held]),
        len(stable & truly),
        len(truly - stable),
        len(stable - truly),
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


def _mean_known(values: Sequence[float] | Array) -> float:
    array = np.asarray(values)
    return _mean(abs(array[np.isfinite(array)]))


def _spearman(predicted: Array, true: Array) -> float:
    if len(true) < FEWEST_RANKED or np.ptp(predicted) < ON_HULL or np.ptp(true) < ON_HULL:
        return float("nan")
    # What rounding alone tells apart is equal.
    ranked = [np.round(values / ON_HULL) for values in (predicted, true)]
    return float(spearmanr(*ranked).statistic)


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


def predicted_formation(configurations: Sequence[Configuration], answers: Answers) -> Array:
    """(C,) a method's formation energies in eV per shared site; NaN where it has none."""
    missing = Answer(np.nan)
    return np.array(
        [answers.of.get((one.system, one.name), missing).formation for one in configurations]
    )


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
