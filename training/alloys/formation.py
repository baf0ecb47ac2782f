"""Formation energies per shared site, and the convex hull under them.

The formation energy of an arrangement with shares x_s of the species s is, per shared site,

    E_f = E / n_sites - sum_s x_s E_s

where E_s is the energy per shared site of the layer that has s on all of them, by the same method.
Per atom it is that times the shared sites in an atom: a third in MX2.

Axes: C configurations, S species.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from .system import Configuration

Array = NDArray[np.float64]

CONVENTION = (
    "Formation energies are per shared site and against the end members by the same method: "
    "E_f = E/n - sum of x_s E_s. Per atom they are {share} of that."
)
COLUMN = "E_f against end members, meV/site"
"""How a column of formation energies is called, in every table and file."""


ON_HULL = 1e-6
"""eV per shared site; what is no farther above the hull is on it."""


def formation_energy(
    energy: float, shares: Mapping[str, float], ends: Mapping[str, float]
) -> float:
    """eV per shared site, from the energy per shared site and those of the end members."""
    return energy - sum(x * ends[species] for species, x in shares.items() if x)


def formation_energies(
    asked: Iterable[Configuration],
    energies: Mapping[str, float],
    ends: Mapping[str, float],
) -> dict[str, float]:
    """By name, eV per shared site; NaN where an energy or an end member lacks."""
    return {
        one.name: formation_energy(
            energies.get(one.name, np.nan), one.shares, _or_nan(ends, one.shares)
        )
        for one in asked
    }


def _or_nan(ends: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    return {species: ends.get(species, np.nan) for species in shares}


def dft_formation(configurations: Sequence[Configuration]) -> Array:
    """(C,) eV per shared site by DFT, end members being among the configurations; NaN without."""
    ends = {one.end_member: one.energy for one in configurations if one.end_member}
    return np.array(
        [
            formation_energy(one.energy, one.shares, _or_nan(ends, one.shares))
            for one in configurations
        ]
    )


def hull_distances(shares: Array, formation: Array) -> Array:
    """(C,) eV per shared site above the convex hull, from (C, S) shares and formation energies.

    The hull is of these configurations and of end members with zero. A configuration on it has 0;
    NaN where the formation energy is.
    """
    known = np.isfinite(formation)
    corners = np.eye(shares.shape[1])
    points = np.concatenate([shares[known], corners])
    heights = np.concatenate([formation[known], np.zeros(len(corners))])
    distances = np.full(len(formation), np.nan)
    for place in np.flatnonzero(known):
        # The least energy of a mixture of all that has this composition (a linear programme).
        found = linprog(heights, A_eq=points.T, b_eq=shares[place], bounds=(0, None))
        distances[place] = max(0.0, formation[place] - found.fun) if found.success else np.nan
    return distances


def ground_states(shares: Array, distances: Array) -> set[int]:
    """Places of the mixtures on the hull, from (C, S) shares and (C,) distances from it."""
    return set(np.flatnonzero((shares.max(1) < 1) & (distances <= ON_HULL)).tolist())
