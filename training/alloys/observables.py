"""What arrangements at several temperatures say: energies, heat, entropy, order.

Axes: R replicas, T temperatures, M sweeps, n shared sites, S shells, Q stars of wave vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list
from ase.units import kB
from numpy.typing import NDArray

from .system import System

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """Arrangements of one composition at several temperatures.

    Attributes
    ----------
    temperatures : (T,) K
    energies : (R, T, M) mixing energies in eV per shared site
    arrangements : (R, T, M, n) uint8 atomic numbers on the shared sites
    acceptance : (R, T) share of the trials that were accepted; NaN of what is not done yet
    random : eV per shared site, mean over random arrangements: at infinite temperature
    failed : trials that were refused because the arrangement had no energy
    """

    temperatures: Array
    energies: Array
    arrangements: NDArray[np.uint8]
    acceptance: Array
    random: float
    failed: int = 0

    @property
    def finished(self) -> bool:
        """Whether every replica has been at every temperature."""
        return bool(np.isfinite(self.acceptance).all())

    @property
    def mean_energy(self) -> Array:
        """(R, T) eV per shared site."""
        mean: Array = self.energies.mean(-1)
        return mean

    @property
    def heat_capacity(self) -> Array:
        """(R, T) of the arrangement, kB per shared site: n times the variance of e over (kT)²."""
        n = self.arrangements.shape[-1]
        capacity: Array = n * self.energies.var(-1) / (kB * self.temperatures) ** 2
        return capacity

    @property
    def ideal_entropy(self) -> float:
        """kB per shared site of all arrangements alike: (ln n! - sum of ln n_s!) / n."""
        from scipy.special import gammaln

        numbers = self.arrangements[0, 0, 0]
        counts = np.unique(numbers, return_counts=True)[1]
        ways = gammaln(len(numbers) + 1) - gammaln(counts + 1).sum()
        return float(ways / len(numbers))

    @property
    def entropy(self) -> Array:
        """(R, T) kB per shared site, by thermodynamic integration from infinite temperature.

        S/k = S_ideal/k + E/kT - integral of E over 1/kT from zero, of which the integral is taken
        between temperatures by the trapezoid rule with the slopes at both ends, dE/d(1/kT) being
        minus the variance (Euler and Maclaurin). As good as the temperatures lie close.
        """
        n = self.arrangements.shape[-1]
        order = np.argsort(-self.temperatures)
        beta = np.concatenate([[0.0], 1 / (kB * self.temperatures[order])])
        energy = self.mean_energy[:, order] - self.random
        energy = np.concatenate([np.zeros_like(energy[:, :1]), energy], axis=1)
        slope = -n * self.energies.var(-1)[:, order]
        width = np.diff(beta)
        area = width * (energy[:, 1:] + energy[:, :-1]) / 2
        # At infinite temperature the variance is not known; the slope is that of the first step.
        area[:, 1:] += width[1:] ** 2 / 12 * (slope[:, :-1] - slope[:, 1:])
        entropy = np.empty_like(self.mean_energy)
        entropy[:, order] = self.ideal_entropy + beta[1:] * energy[:, 1:] - np.cumsum(area, axis=1)
        return entropy


def spread(values: Array) -> Array:
    """Standard error of the mean over replicas, the first axis; NaN of a single one."""
    R = len(values)
    if R < 2:
        return np.full(values.shape[1:], np.nan)
    error: Array = values.std(0, ddof=1) / np.sqrt(R)
    return error


@dataclass(frozen=True)
class Shells:
    """Pairs of shared sites by their distance.

    Attributes
    ----------
    distances : (S,) Å, ascending
    pairs : S arrays (P, 2) of numbers of shared sites, each pair both ways
    """

    distances: Array
    pairs: Sequence[Integers]


def shared_sites(system: System, supercell: tuple[int, int]) -> Integers:
    """(n,) atoms of a supercell of the parent on shared sites, cell after cell."""
    return np.flatnonzero(np.tile(system.lattice.shared_mask, supercell[0] * supercell[1]))


def shells(supercell: Atoms, sites: Integers, count: int = 3) -> Shells:
    """The first shells of neighbours among the sites of a supercell of the parent."""
    shared = supercell[sites]
    reach = 1.0 + count * float(
        np.sqrt(np.abs(np.linalg.det(supercell.cell.array[:2, :2])) / len(sites))
    )
    while True:
        i, j, d = neighbor_list("ijd", shared, reach)
        steps = np.flatnonzero(np.diff(np.sort(d)) > 1e-3)
        if len(steps) >= count:
            break
        reach *= 1.3
    limits = np.concatenate([[0.0], np.sort(d)[steps[:count]] + 5e-4])
    chosen = [(d > low) & (d <= high) for low, high in pairwise(limits)]
    return Shells(
        np.array([d[one].mean() for one in chosen]),
        [np.stack([i[one], j[one]], axis=1) for one in chosen],
    )


def warren_cowley(arrangements: NDArray[np.uint8], found: Shells) -> Array:
    """(..., S) short-range order of (..., n) arrangements: 1 - P(unlike) / (1 - sum of x_s²).

    P is the share of unlike pairs in a shell. Between two species that is 1 - P_AB / x_B (Cowley,
    Phys. Rev. 77, 669, 1950): 0 without order, 1 where like keeps to like, negative where unlike
    species are neighbours. Of random arrangements of n sites it is -1/(n - 1) on average.
    """
    numbers = arrangements.reshape(-1, arrangements.shape[-1])[0]
    shares = np.unique(numbers, return_counts=True)[1] / len(numbers)
    expected = 1 - (shares**2).sum()
    unlike = [
        (arrangements[..., pairs[:, 0]] != arrangements[..., pairs[:, 1]]).mean(-1)
        for pairs in found.pairs
    ]
    alpha: Array = 1 - np.stack(unlike, axis=-1) / expected
    return alpha


@dataclass(frozen=True)
class Stars:
    """Wave vectors that a supercell allows, those of equal length together.

    Attributes
    ----------
    names : Q, a vector of each in units of the parent's reciprocal lattice: "(1/3 1/3)"
    lengths : (Q,) 1/Å, ascending, without the factor 2π
    members : Q masks (n1, n2) of vectors
    """

    names: Sequence[str]
    lengths: Array
    members: NDArray[np.bool_]


def stars(parent: Atoms, supercell: tuple[int, int]) -> Stars:
    """The stars of a supercell of so many cells of the parent along its two lattice vectors."""
    n1, n2 = supercell
    reciprocal = np.linalg.inv(parent.cell.array[:2, :2]).T
    k = np.stack(np.meshgrid(np.arange(n1) / n1, np.arange(n2) / n2, indexing="ij"), axis=-1)
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 2)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    lengths = np.linalg.norm((k[:, :, None] + shifts) @ reciprocal, axis=-1).min(-1).round(6)
    distinct = np.unique(lengths)
    members = np.array([lengths == one for one in distinct])
    names = []
    for mask in members:
        one, two = np.argwhere(mask)[0]
        names.append(f"({Fraction(int(one), n1)} {Fraction(int(two), n2)})")
    return Stars(names, distinct, members)


def waves(arrangements: NDArray[np.uint8], supercell: tuple[int, int], found: Stars) -> Array:
    """(..., Q) share of each star in the variance of the composition from site to site.

    Of the concentration waves n_q = sum over sites of (n_j - x) exp(-i q r_j), for each species and
    each shared site of the parent's cell, which is what a structure factor measures (Krivoglaz).
    The shares add up to 1; that of a star is 1 where only its waves are there, and about its share
    of all wave vectors where nothing is ordered.
    """
    n1, n2 = supercell
    whole = np.zeros((*arrangements.shape[:-1], n1, n2))
    for species in np.unique(arrangements):
        here = (arrangements == species).astype(np.float64)
        here -= here.mean(-1, keepdims=True)
        grid = here.reshape(*here.shape[:-1], n1, n2, -1)
        whole += (abs(np.fft.fft2(grid, axes=(-3, -2))) ** 2).sum(-1)
    shares: Array = np.einsum("...ij,qij->...q", whole, found.members.astype(np.float64))
    return shares / shares.sum(-1, keepdims=True)


@dataclass(frozen=True)
class Course:
    """One composition at all temperatures.

    Attributes
    ----------
    shares : by species
    alpha : (R, T, S) short-range order, means over sweeps; see `warren_cowley`
    distances : (S,) Å, of its shells in the parent
    order : (R, T) share of the star in the variance of the composition; see `waves`
    star : the star whose waves are strongest at the lowest temperature
    at_random : share of that star in all wave vectors, which it has where nothing is ordered
    """

    shares: Mapping[str, float]
    samples: Samples
    alpha: Array
    distances: Array
    order: Array
    star: str
    at_random: float

    @property
    def x(self) -> float:
        """Share of the last species."""
        return list(self.shares.values())[-1]

    @property
    def coldest(self) -> int:
        """Place of the lowest temperature."""
        return int(np.argmin(self.samples.temperatures))

    @property
    def peak(self) -> int:
        """Place of the temperature with the largest mean heat capacity."""
        return int(np.argmax(self.samples.heat_capacity.mean(0)))


def course_of(system: System, supercell: tuple[int, int], samples: Samples) -> Course:
    """What samples of a supercell of a system's parent say."""
    parent = system.lattice.parent
    cell = parent.repeat((*supercell, 1))
    near = shells(cell, shared_sites(system, supercell))
    found = stars(parent, supercell)
    by_star = waves(samples.arrangements, supercell, found).mean(2)
    cold = int(np.argmin(samples.temperatures))
    # By the wave: a star of many has the larger share already where nothing is ordered.
    strongest = int(np.argmax(by_star[:, cold].mean(0) / found.members.sum((1, 2))))
    numbers = samples.arrangements[0, 0, 0]
    return Course(
        {s: float((numbers == atomic_numbers[s]).mean()) for s in system.lattice.shared},
        samples,
        warren_cowley(samples.arrangements, near).mean(2),
        near.distances,
        by_star[..., strongest],
        found.names[strongest],
        float(found.members[strongest].mean()),
    )
