"""Constant temperature by deterministic friction: chains of Nosé-Hoover thermostats."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import units
from numpy.typing import NDArray
from torch import Tensor

from ..slabs import Slabs
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

Array = NDArray[np.floating]

_OUTER = 1 / (2 - 2 ** (1 / 3))
YOSHIDA = (_OUTER, 1 - 2 * _OUTER, _OUTER)
"""Parts of a step for a fourth-order composition (Yoshida, Phys. Lett. A 150, 262 (1990))."""


@dataclass(frozen=True)
class NoseHoover:
    """Nosé-Hoover chains (Martyna, Klein, Tuckerman, J. Chem. Phys. 97, 2635 (1992)).

    Integrated as in Martyna et al., Mol. Phys. 87, 1117 (1996), one chain for a replica. All modes
    feel the same friction: in a nearly harmonic crystal they hardly exchange energy, and the
    positions are then sampled better by `Langevin`.

    Attributes
    ----------
    timestep : fs
    temperature : K, or a function from the number of steps done to K, always above zero
    relaxation : fs, the period of the thermostat over 2π
    length : thermostats in the chain
    """

    timestep: float = 1.0
    temperature: Temperature = 300.0
    relaxation: float = 100.0
    length: int = 3

    def __post_init__(self) -> None:
        positive(timestep=self.timestep, relaxation=self.relaxation)
        if self.length < 1:
            raise ValueError(f"a chain has at least one thermostat: {self.length}")

    def init(
        self, slabs: Slabs, velocities: Tensor, evaluate: Evaluate, masses: Tensor | None = None
    ) -> MDState:
        """See `Integrator`."""
        state = begin(slabs, velocities, evaluate, masses)
        require_motion(state)
        return replace(
            state,
            bath={
                "heat": torch.zeros_like(state.energy),
                "chain": state.energy.new_zeros(slabs.n_structures, self.length),
            },
        )

    def step(self, state: MDState, evaluate: Evaluate) -> MDState:
        """See `Integrator`; conserved is the energy of the extended system.

        E + K + Σ Q v²/2 + ∫ kT (N_f v_1 + Σ v_j) dt, which holds for a ramp of the temperature too.
        """
        kt = units.kB * kelvin(self.temperature, state.step)
        if not kt > 0:
            raise ValueError(
                "Nosé-Hoover chains need a temperature above zero; Langevin dynamics does not"
            )
        half = self.timestep * units.fs / 2
        moved = verlet(self._coupled(state, kt, half), evaluate, 2 * half)
        moved = self._coupled(moved, kt, half)
        chain = (moved.bath["chain"] ** 2).sum(1) / 2
        total = moved.energy + kinetic_energy(moved)
        return replace(moved, conserved=total + chain - moved.bath["heat"])

    def _coupled(self, state: MDState, kt: float, dt: float) -> MDState:
        """The thermostats and the velocities after `dt` of each other.

        In numpy: hundreds of operations on a few numbers.
        """
        n_free = degrees_of_freedom(state.slabs).cpu().numpy()
        weights = [n_free, *[np.ones_like(n_free)] * (self.length - 1)]  # Q = weight kT τ²
        roots = np.sqrt(np.array(weights) * kt) * self.relaxation * units.fs
        twice = 2 * kinetic_energy(state).cpu().numpy()
        heat, scale = np.zeros_like(n_free), np.ones_like(n_free)
        # The bath keeps √Q v, whose energy does not depend on the temperature in Q.
        speeds = list(state.bath["chain"].cpu().numpy().T / roots)
        for part in YOSHIDA:
            turn = part * dt
            for j in reversed(range(self.length)):
                speeds[j] = self._pushed(speeds, j, twice * scale**2, weights, kt, turn)
            scale = scale * np.exp(-turn * speeds[0])
            for w, v in zip(weights, speeds, strict=True):
                heat = heat - kt * turn * w * v
            for j in range(self.length):
                speeds[j] = self._pushed(speeds, j, twice * scale**2, weights, kt, turn)
        device = state.energy.device
        chain = torch.from_numpy((np.array(speeds) * roots).T.copy()).to(device)
        gained = state.bath["heat"] + torch.from_numpy(heat).to(device)
        factor = torch.from_numpy(scale).to(device)[state.slabs.batch, None]
        return replace(
            state, velocities=state.velocities * factor, bath={"heat": gained, "chain": chain}
        )

    def _pushed(
        self,
        speeds: list[Array],
        j: int,
        twice: Array,
        weights: list[Array],
        kt: float,
        dt: float,
    ) -> Array:
        """(S,) the speed of thermostat j after dt/2 of the push from before it, and its friction.

        `twice` (S,) is twice the kinetic energy of the atoms.
        """
        tau = self.relaxation * units.fs
        pushing = twice if j == 0 else weights[j - 1] * kt * (tau * speeds[j - 1]) ** 2
        push = (pushing / (weights[j] * kt) - 1) / tau**2 * (dt / 2)
        if j + 1 == len(speeds):
            return speeds[j] + push
        friction = np.exp(-dt / 4 * speeds[j + 1])
        return (speeds[j] * friction + push) * friction
