"""Constant energy: velocity Verlet, and the middle of a step open to a thermostat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ase import units
from torch import Tensor

from ..slabs import Slabs
from .state import Evaluate, MDState, begin, evaluated, kicked, kinetic_energy, positive


@dataclass(frozen=True)
class NVE:
    """Velocity Verlet, step for step that of `ase.md.verlet.VelocityVerlet`.

    Attributes
    ----------
    timestep : fs
    """

    timestep: float = 1.0

    def __post_init__(self) -> None:
        positive(timestep=self.timestep)

    def init(
        self, slabs: Slabs, velocities: Tensor, evaluate: Evaluate, masses: Tensor | None = None
    ) -> MDState:
        """See `Integrator`."""
        return begin(slabs, velocities, evaluate, masses)

    def step(self, state: MDState, evaluate: Evaluate) -> MDState:
        """See `Integrator`; conserved is the total energy."""
        moved = verlet(state, evaluate, self.timestep * units.fs)
        return replace(moved, conserved=moved.energy + kinetic_energy(moved))


def verlet(
    state: MDState,
    evaluate: Evaluate,
    dt: float,
    middle: Callable[[MDState], MDState] | None = None,
) -> MDState:
    """A step of velocity Verlet of `dt` (ASE's unit), half of the path before `middle`.

    `middle` may change the velocities. A thermostat there, between two halves of the path, samples
    the positions better than one at the ends (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102
    (2013); Zhang et al., J. Phys. Chem. A 123, 6056 (2019)).
    """
    state = kicked(state, dt / 2)
    if middle is None:
        pos = state.slabs.pos + dt * state.velocities
    else:
        before = state.velocities
        state = middle(state)
        pos = state.slabs.pos + dt / 2 * (before + state.velocities)
    state = kicked(evaluated(state, state.slabs.moved(pos), evaluate), dt / 2)
    return replace(state, step=state.step + 1)
