"""Constant temperature by stochastic rescaling of the velocities."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import units
from torch import Tensor

from ..slabs import Slabs
from .noise import BATH, generators, require_seed
from .nve import verlet
from .state import (
    Evaluate,
    MDState,
    Temperature,
    begin,
    degrees_of_freedom,
    kelvin,
    kinetic_energy,
    positive,
    require_motion,
)


@dataclass(frozen=True)
class Bussi:
    """Stochastic velocity rescaling.

    Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101 (2007). All velocities
    of a replica are scaled by one random number, so that its kinetic energy is drawn towards its
    canonical distribution, and transport is hardly disturbed.

    Attributes
    ----------
    timestep : fs
    temperature : K, or a function from the number of steps done to K
    relaxation : fs, the time in which the kinetic energy is renewed
    seed : of the noise; replicas differ by their keys
    """

    timestep: float = 1.0
    temperature: Temperature = 300.0
    relaxation: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive(timestep=self.timestep, relaxation=self.relaxation)
        require_seed(self.seed)

    def init(
        self, slabs: Slabs, velocities: Tensor, evaluate: Evaluate, masses: Tensor | None = None
    ) -> MDState:
        """See `Integrator`."""
        state = begin(slabs, velocities, evaluate, masses)
        require_motion(state)
        return replace(state, bath={"heat": torch.zeros_like(state.energy)})

    def step(self, state: MDState, evaluate: Evaluate) -> MDState:
        """See `Integrator`; conserved is the total energy less the heat taken from the bath."""
        moved = verlet(state, evaluate, self.timestep * units.fs, self._rescaled)
        total = moved.energy + kinetic_energy(moved)
        return replace(moved, conserved=total - moved.bath["heat"])

    def _rescaled(self, state: MDState) -> MDState:
        kinetic, slabs = kinetic_energy(state), state.slabs
        n_free = degrees_of_freedom(slabs)
        drawn = [
            (g.standard_normal(), g.chisquare(n - 1))
            for n, g in zip(
                n_free.tolist(),
                generators(slabs.key, self.seed, state.step, BATH),
                strict=True,
            )
        ]
        one, others = torch.from_numpy(np.array(drawn)).to(kinetic).unbind(1)
        kt = units.kB * kelvin(self.temperature, state.step)
        kept = math.exp(-self.timestep / self.relaxation)
        factor = scaling(kinetic, kt, kept, one, others)
        heat = state.bath["heat"] + (factor - 1) * kinetic
        velocities = state.velocities * factor.sqrt()[slabs.batch, None]
        return replace(state, velocities=velocities, bath={**state.bath, "heat": heat})


def scaling(kinetic: Tensor, kt: float, kept: float, one: Tensor, others: Tensor) -> Tensor:
    """(S,) the factor on kinetic energies in eV, the square of equation A7.

    `one` (S,) is a normal number, `others` (S,) the sum of the squares of as many more as make up
    the degrees of freedom, and `kept` exp(-time / relaxation).
    """
    share = (1 - kept) * kt / 2 / kinetic
    return kept + share * (others + one**2) + 2 * one * (kept * share).sqrt()
