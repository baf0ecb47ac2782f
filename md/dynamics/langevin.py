"""Constant temperature by friction and noise: Langevin dynamics in the BAOAB splitting."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from ase import units
from torch import Tensor

from ..slabs import Slabs
from .noise import ATOMS, normal, require_seed
from .nve import verlet
from .state import (
    Evaluate,
    MDState,
    Temperature,
    begin,
    kelvin,
    kinetic_energy,
    positive,
    without_net,
)


@dataclass(frozen=True)
class Langevin:
    """Langevin dynamics, BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)).

    Of the splittings of one evaluation a step it has the smallest error in the positions: none in a
    harmonic crystal. What a time step costs shows in the velocities instead: the temperature of a
    mode of angular frequency ω comes out lower by the factor 1 - (ω dt)²/4. Every mode has a
    thermostat of its own, so that a harmonic crystal is sampled rightly too. The noise leaves the
    centre of mass at rest.

    Attributes
    ----------
    timestep : fs
    temperature : K, or a function from the number of steps done to K
    friction : 1/ps, by which velocities are forgotten
    seed : of the noise; replicas differ by their keys
    """

    timestep: float = 1.0
    temperature: Temperature = 300.0
    friction: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive(timestep=self.timestep, friction=self.friction)
        require_seed(self.seed)

    def init(
        self, slabs: Slabs, velocities: Tensor, evaluate: Evaluate, masses: Tensor | None = None
    ) -> MDState:
        """See `Integrator`."""
        state = begin(slabs, velocities, evaluate, masses)
        return replace(state, bath={"heat": torch.zeros_like(state.energy)})

    def step(self, state: MDState, evaluate: Evaluate) -> MDState:
        """See `Integrator`; conserved is the total energy less the heat taken from the bath.

        Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007).
        """
        dt = self.timestep * units.fs
        kept = math.exp(-self.friction / 1000 * self.timestep)
        kt = units.kB * kelvin(self.temperature, state.step)
        moved = verlet(state, evaluate, dt, lambda s: shaken(s, kept, kt, self.seed))
        total = moved.energy + kinetic_energy(moved)
        return replace(moved, conserved=total - moved.bath["heat"])


def shaken(state: MDState, kept: float, kt: float, seed: int) -> MDState:
    """Velocities times `kept`, and noise in the place of what was lost; its heat in the bath.

    The exact solution of an Ornstein-Uhlenbeck process at kT in eV.
    """
    masses, slabs = state.masses, state.slabs
    noise = normal(slabs, seed, state.step, ATOMS) * masses.sqrt()[:, None]
    noise = without_net(noise, slabs, masses) / masses[:, None]
    velocities = kept * state.velocities + math.sqrt((1 - kept**2) * kt) * noise
    after = replace(state, velocities=velocities)
    heat = state.bath["heat"] + kinetic_energy(after) - kinetic_energy(state)
    return replace(after, bath={**state.bath, "heat": heat})
