"""What a Monte Carlo run found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MonteCarloResult:
    """Energies and arrangements at the ends of the sweeps after equilibration.

    Axes: L structures, R replicas, T temperatures, M sweeps, n shared sites.

    Attributes
    ----------
    temperatures : (T,) K, as asked for
    energies : (L, R, T, M) eV of the whole structure; NaN of structures that could not begin, and
        of sweeps not yet done; infinite while an arrangement has none
    arrangements : (L, R, T, M, n) uint8 atomic numbers on the shared sites, in the order of the
        atoms
    first : (L, R, T) eV of the random arrangements with which walkers began
    acceptance : (L, R, T) share of the trials that were accepted
    failed : (L, R, T) trials that were refused because the arrangement had no energy
    exchanges : (L, T - 1) share accepted of the exchanges between neighbouring temperatures, from
        the lowest on; NaN where none was tried
    computed : what became of the arrangements whose energies were computed, each once: "on the
        lattice", or the status of its relaxation
    troubles : why a structure could not begin, by its number
    signal : number of a signal that interrupted the run; the same call goes on
    """

    temperatures: Array
    energies: Array
    arrangements: NDArray[np.uint8]
    first: Array
    acceptance: Array
    failed: NDArray[np.int64]
    exchanges: Array
    computed: Mapping[str, int]
    troubles: Mapping[int, str]
    signal: int | None
