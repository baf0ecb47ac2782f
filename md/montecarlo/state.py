"""Where walkers are, and how they move.

A trial is a swap of two unlike species on the shared sites of a walker. It is accepted with the
probability min(1, exp(-(E' - E) / kT)) (Metropolis et al., J. Chem. Phys. 21, 1087, 1953): the
first site is drawn among all, the second among those with another species, and as a swap conserves
the composition, it is proposed as often as its reverse. Walkers at neighbouring temperatures
exchange their arrangements with min(1, exp((1/kT - 1/kT') (E - E'))) (Swendsen and Wang, Phys. Rev.
Lett. 57, 2607, 1986; Hukushima and Nemoto, J. Phys. Soc. Jpn. 65, 1604, 1996).

Axes: L structures, R replicas, T temperatures, W = L R T walkers in this order, n shared sites,
M sweeps that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from ase.units import kB
from numpy.typing import NDArray

from ..dynamics.noise import generators
from .energies import Asked, Energies, Lattice
from .settings import SwapSettings

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

TRIALS, EXCHANGES, STARTS = range(3)
"""Streams of random numbers."""


@dataclass
class Walkers:
    """The state of a run, changed in place.

    Attributes
    ----------
    step : trials made by each walker
    numbers : (W, n) atomic numbers on the shared sites
    energy : (W,) eV; infinite where the arrangement has none
    first : (W,) eV of the random arrangements with which they began
    energies : (W, M) eV at the ends of sweeps
    arrangements : (W, M, n) uint8 atomic numbers at the ends of sweeps
    accepted, failed : (W,) trials since equilibration, of all and of those without an energy
    exchanged, asked : (L, T - 1) exchanges between neighbouring temperatures from the lowest on,
        and those tried
    """

    step: int
    numbers: Numbers
    energy: Array
    first: Array
    energies: Array
    arrangements: NDArray[np.uint8]
    accepted: Numbers
    failed: Numbers
    exchanged: Numbers
    asked: Numbers

    def as_dict(self) -> dict[str, Any]:
        """Tensors and primitives."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "step"}
        return {"step": self.step} | {
            name: torch.from_numpy(array) for name, array in arrays.items()
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Walkers:
        """What `as_dict` gave."""
        arrays = {name: value.numpy() for name, value in plain.items() if name != "step"}
        return cls(step=plain["step"], **arrays)


class Walk:
    """How the walkers of a run move.

    Parameters
    ----------
    keys : (L,) a number for each of the structures, on which its random numbers depend
    """

    def __init__(
        self,
        lattices: Sequence[Lattice],
        keys: Sequence[int],
        settings: SwapSettings,
        energies: Energies,
    ) -> None:
        self._lattices, self._settings, self._energies = lattices, settings, energies
        self._n = len(lattices[0].sites)
        self._shape = (len(lattices), settings.replicas, len(settings.temperatures))
        self._order = np.argsort(settings.temperatures)
        beta = 1 / (kB * np.array(settings.temperatures))
        self._beta = np.tile(beta, len(lattices) * settings.replicas)
        of_lattice = settings.replicas * len(settings.temperatures)
        self._lattice = np.repeat(np.arange(len(lattices)), of_lattice)
        self._keys = torch.tensor([key * of_lattice + k for key in keys for k in range(of_lattice)])
        self._draws: tuple[int, Array] | None = None

    @property
    def steps(self) -> int:
        """Trials of each walker in the whole run."""
        return self._settings.sweeps * self._n

    def begin(self) -> Walkers:
        """Walkers with random arrangements."""
        W, pairs = len(self._keys), (self._shape[0], self._shape[2] - 1)
        own = generators(self._keys, self._settings.seed, 0, STARTS)
        numbers = np.stack(
            [
                generator.permutation(self._lattices[k].atoms.numbers[self._lattices[k].sites])
                for k, generator in zip(self._lattice.tolist(), own, strict=True)
            ]
        ).astype(np.int64)
        kept = self._settings.sweeps - self._settings.equilibration
        energy = np.array(self._energies(self._asked(numbers)))
        return Walkers(
            step=0,
            numbers=numbers,
            energy=energy,
            first=energy.copy(),
            energies=np.full((W, kept), np.nan),
            arrangements=np.zeros((W, kept, self._n), np.uint8),
            accepted=np.zeros(W, np.int64),
            failed=np.zeros(W, np.int64),
            exchanged=np.zeros(pairs, np.int64),
            asked=np.zeros(pairs, np.int64),
        )

    def advance(self, now: Walkers) -> None:
        """One trial of each walker; at the end of a sweep exchanges, and a record."""
        sweep, place = divmod(now.step, self._n)
        draws = self._uniform(sweep)[:, place]
        trials = swapped(now.numbers, draws[:, 0], draws[:, 1])
        energy = np.array(self._energies(self._asked(trials)))
        lost = ~np.isfinite(energy)
        with np.errstate(invalid="ignore"):  # infinity less infinity, of two without an energy
            rise = np.where(lost, np.inf, energy - now.energy)
        accept = np.log(draws[:, 2]) < -self._beta * rise
        now.numbers[accept], now.energy[accept] = trials[accept], energy[accept]
        kept = sweep - self._settings.equilibration
        if kept >= 0:
            now.accepted += accept
            now.failed += lost
        now.step += 1
        if place == self._n - 1:
            if self._settings.exchange:
                self._exchange(now, sweep, kept >= 0)
            if kept >= 0:
                now.energies[:, kept] = now.energy
                now.arrangements[:, kept] = now.numbers

    def _exchange(self, now: Walkers, sweep: int, counted: bool) -> None:
        """Let neighbours in temperature change places: even and odd pairs by turns."""
        _, R, T = self._shape
        own = generators(self._keys[::T], self._settings.seed, sweep, EXCHANGES)
        for group, generator in enumerate(own):
            draws = np.log(1 - generator.random(T))
            for pair in range(sweep % 2, T - 1, 2):
                one, other = group * T + self._order[pair], group * T + self._order[pair + 1]
                both = [one, other]
                gain = (self._beta[one] - self._beta[other]) * (now.energy[one] - now.energy[other])
                accept = np.isfinite(gain) and draws[pair] < gain
                if accept:
                    now.numbers[both] = now.numbers[both[::-1]]
                    now.energy[both] = now.energy[both[::-1]]
                if counted:
                    now.asked[group // R, pair] += 1
                    now.exchanged[group // R, pair] += accept

    def _uniform(self, sweep: int) -> Array:
        """(W, n, 3) numbers of a sweep, from 0 to below 1, the third from above 0 to 1."""
        if self._draws is None or self._draws[0] != sweep:
            own = generators(self._keys, self._settings.seed, sweep, TRIALS)
            drawn = np.stack([generator.random((self._n, 3)) for generator in own])
            drawn[..., 2] = 1 - drawn[..., 2]
            self._draws = sweep, drawn
        return self._draws[1]

    def _asked(self, numbers: Numbers) -> list[Asked]:
        return list(zip(self._lattice.tolist(), numbers, strict=True))


def swapped(numbers: Numbers, first: Array, second: Array) -> Numbers:
    """(W, n) atomic numbers with two unlike of each walker swapped, where it has such.

    `first` and `second` (W,), from 0 to below 1, choose them.
    """
    rows, n = np.arange(len(numbers)), numbers.shape[1]
    i = (first * n).astype(np.int64)
    unlike = numbers != numbers[rows, i][:, None]
    # The second is the one of the unlike that has so many of them before it.
    rank = np.cumsum(unlike, axis=1)
    wanted = (second * rank[:, -1]).astype(np.int64) + 1
    j = np.where(rank[:, -1] > 0, np.argmax(rank == wanted[:, None], axis=1), i)
    trial = numbers.copy()
    trial[rows, i], trial[rows, j] = numbers[rows, j], numbers[rows, i]
    return trial
