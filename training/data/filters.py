"""Rules by which frames are left out of training, each with a count and an example.

Axes: S structures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sections import FilterConfig
from .dataset import Dataset

SAME_ENERGY = 1e-3
"""eV/atom. Above it, equal structures with two energies are no mere repetition."""


@dataclass(frozen=True)
class Removed:
    """How many frames a rule took out of those that the rules before it had left.

    Attributes
    ----------
    rule : in words
    example : the first of them, with file, frame, material and what broke the rule
    """

    rule: str
    count: int
    example: str = ""


@dataclass(frozen=True)
class _Rule:
    """A rule in words, the (S,) frames that break it, and their (S,) values with a unit."""

    name: str
    broken: NDArray[np.bool_]
    values: NDArray[Any] | None = None
    unit: str = ""


def apply_filters(
    data: Dataset, config: FilterConfig, ids: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], list[Removed]]:
    """Ascending indices of the frames that pass every rule, and what each rule removed.

    A missing label (NaN) breaks no rule but `require`. Of structures that are the same the first
    that passes all other rules stays. `ids` are the frames to choose from, by default all.
    """
    keep = np.ones(len(data), dtype=bool)
    if ids is not None:
        keep[:] = False
        keep[ids] = True
    report = []
    for rule in _rules(data, config):
        report.append(_removed(data, rule, keep & rule.broken))
        keep &= ~rule.broken
    if config.duplicates == "remove":
        rule = _repeated(data, np.flatnonzero(keep))
        report.append(_removed(data, rule, rule.broken))
        keep &= ~rule.broken
    return np.flatnonzero(keep), report


def _rules(data: Dataset, config: FilterConfig) -> Iterator[_Rule]:
    """The rules that are switched on, but for duplicates."""
    for label in config.require:
        yield _Rule(f"has no {label}", missing(data, label))
    if config.max_atoms is not None:
        broken = data.n_atoms > config.max_atoms
        yield _Rule(f"more than {config.max_atoms} atoms", broken, data.n_atoms, "atoms")
    if config.isolated_atoms == "remove":
        yield _Rule(f"an atom without neighbour within {data.cutoff:g} Å", data.isolated)
    per_atom, unit = data.energy / data.n_atoms, "eV/atom"
    if (low := config.min_energy) is not None:
        yield _Rule(f"energy below {low:g} {unit}", per_atom < low, per_atom, unit)
    if (high := config.max_energy) is not None:
        yield _Rule(f"energy above {high:g} {unit}", per_atom > high, per_atom, unit)
    for limit, values, what, unit in (
        (config.max_force, data.max_force, "a force component", "eV/Å"),
        (config.max_stress, largest_stress(data), "an in-plane stress", "N/m"),
        (config.max_stress_kbar, data.max_stress_kbar, "a stress of the cell as given", "kbar"),
    ):
        if limit is not None:
            yield _Rule(f"{what} above {limit:g} {unit}", values > limit, values, unit)


def _removed(data: Dataset, rule: _Rule, gone: NDArray[np.bool_]) -> Removed:
    if not gone.any():
        return Removed(rule.name, 0)
    first = int(gone.argmax())
    value = "" if rule.values is None else f": {rule.values[first]:.4g} {rule.unit}"
    return Removed(rule.name, int(gone.sum()), data.name(first) + value)


def _repeated(data: Dataset, ids: NDArray[np.int64]) -> _Rule:
    """The frames of `ids` whose structure an earlier one of them has; another energy is said."""
    _, first, of = np.unique(data.fingerprint[ids], return_index=True, return_inverse=True)
    energy = data.energy[ids] / data.n_atoms[ids]
    contrary = int((np.abs(energy - energy[first[of]]) > SAME_ENERGY).sum())
    name = "the same structure as an earlier frame"
    if contrary:
        name += f" ({contrary} with an energy that differs by more than {SAME_ENERGY:g} eV/atom)"
    repeated = np.zeros(len(data), dtype=bool)
    repeated[np.delete(ids, first)] = True
    return _Rule(name, repeated)


def missing(data: Dataset, label: str) -> NDArray[np.bool_]:
    """(S,) mask of the frames without energy, forces, or stress in the plane ('stress')."""
    if label == "energy":
        return np.isnan(data.energy)
    return np.isnan(data.max_force if label == "forces" else largest_stress(data))


def largest_stress(data: Dataset) -> NDArray[np.float64]:
    """(S,) largest absolute in-plane component in N/m; NaN where absent or no slab."""
    largest: NDArray[np.float64] = np.abs(data.stress_2d).max(axis=1)
    return largest
