"""Canonical Monte Carlo with a cluster expansion, by icet's mchammer.

Swaps of unlike species, accepted after Metropolis et al., J. Chem. Phys. 21, 1087 (1953); energies
of swaps from the clusters about them (Angqvist et al., Adv. Theory Simul. 2, 1900015, 2019).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms

from .observables import Integers, Samples

RANDOM = 200
"""Random arrangements whose mean energy is that of infinite temperature."""

SAVE_SECONDS = 60.0
"""Between two calls of `save`; a process that is killed loses no more, and one temperature."""


def anneal(
    expansion: Any,
    supercell: Atoms,
    temperatures: tuple[float, ...],
    sweeps: int,
    equilibration: int,
    replicas: int,
    seed: int,
    begun: Samples | None = None,
    save: Callable[[Samples], None] = lambda samples: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Samples:
    """Cool random arrangements of a supercell, temperature after temperature.

    Parameters
    ----------
    expansion : icet's ClusterExpansion of mixing energies in eV per atom of the cell
    supercell : of the parent, on its ideal sites, with as many of each species as there shall be
    temperatures : K, gone through from the highest on
    sweeps : trials for each shared site at each temperature
    equilibration : of these, sweeps that are not kept
    begun : what the same call had done when it was stopped, to go on from, in place
    save : called with what is done, now and then and at the end
    stopped : whether to stop, asked after every temperature

    The samples have the temperatures in the order given; see `Samples.finished`. Raises ValueError
    where the supercell is so small that a cluster meets its own images.
    """
    from mchammer.calculators import ClusterExpansionCalculator

    start = supercell.copy()
    start.pbc = True  # as the expansion has it; the vacuum keeps layers apart
    calculator = ClusterExpansionCalculator(start, expansion)
    if calculator.cpp_calc.is_self_interacting:
        raise ValueError(
            f"a supercell of {len(start)} atoms is so small that clusters of the expansion meet "
            "their own images; take a larger monte_carlo.expansion.supercell"
        )
    sites = np.sort([k for one in calculator.sublattices.active_sublattices for k in one.indices])
    n, order = len(sites), np.argsort(temperatures)[::-1]
    if begun is None:
        rng = np.random.default_rng([seed, replicas])
        drawn = [shuffled(start, sites, rng).numbers.tolist() for _ in range(RANDOM)]
        alike = float(np.mean([calculator.calculate_total(occupations=one) for one in drawn])) / n
        shape = (replicas, len(temperatures))
        energies = np.full((*shape, sweeps - equilibration), np.nan)
        arrangements = np.zeros((*energies.shape, n), np.uint8)
        begun = Samples(
            np.array(temperatures), energies, arrangements, np.full(shape, np.nan), alike
        )
    state = random.getstate()  # which mchammer seeds and draws from
    saved = time.monotonic()
    for replica, k in product(range(replicas), range(len(order))):
        place = order[k]
        if np.isfinite(begun.acceptance[replica, place]):
            continue
        rng = np.random.default_rng([seed, replica, k])
        structure = shuffled(start, sites, rng)
        if k > 0:
            structure.numbers[sites] = begun.arrangements[replica, order[k - 1], -1]
        mc = _ensemble(structure, calculator, temperatures[place], n, rng)
        mc.run(n * sweeps)
        energy, accepted, kept = mc.data_container.get(
            "potential", "acceptance_ratio", "trajectory", start=n * equilibration + 1
        )
        begun.energies[replica, place] = energy / n
        begun.arrangements[replica, place] = [one.numbers[sites] for one in kept]
        begun.acceptance[replica, place] = accepted.mean()
        if time.monotonic() - saved > SAVE_SECONDS:
            save(begun)
            saved = time.monotonic()
        if stopped():
            break
    random.setstate(state)
    save(begun)
    return begun


def shuffled(supercell: Atoms, sites: Integers, rng: np.random.Generator) -> Atoms:
    """The same atoms on the shared sites in a random order."""
    atoms = supercell.copy()
    atoms.numbers[sites] = rng.permutation(atoms.numbers[sites])
    return atoms


def _ensemble(
    start: Atoms, calculator: Any, temperature: float, n: int, rng: np.random.Generator
) -> Any:
    """A canonical ensemble that keeps energy and arrangement after every sweep."""
    from mchammer.ensembles import CanonicalEnsemble

    return CanonicalEnsemble(
        start,
        calculator,
        temperature,
        random_seed=int(rng.integers(2**31)),
        ensemble_data_write_interval=n,
        trajectory_write_interval=n,
    )
