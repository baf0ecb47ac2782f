"""FIRE for many structures at once: Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006).

Each structure has its own time step and mixing, and the scalar products run over all its rows, the
cell's too: it moves as `ase.optimize.FIRE` with its defaults moves it alone. That is FIRE with the
velocity updated before the position (semi-implicit Euler) and a bound on the length of the whole
displacement of a structure.

Axes: S structures, R rows, see `rows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .rows import Rows

DT = 0.1
DT_MAX = 1.0
A_START = 0.1
N_MIN = 5
F_INC = 1.1
F_DEC = 0.5
F_A = 0.99
MAX_STEP = 0.2
"""Å, the bound on the norm of the displacement of a structure."""


@dataclass(frozen=True)
class State:
    """What FIRE keeps from step to step.

    Attributes
    ----------
    velocity : (R, 3)
    dt : (S,) time step
    a : (S,) share of the force's direction in the velocity
    downhill : (S,) int64, steps since the power was last negative; -1 before the first step
    """

    velocity: Tensor
    dt: Tensor
    a: Tensor
    downhill: Tensor

    ROWS: ClassVar[frozenset[str]] = frozenset({"velocity"})


def init(rows: Rows, like: Tensor) -> State:
    """The state before the first step, with the dtype and on the device of `like`."""
    n = rows.n_structures
    return State(
        velocity=like.new_zeros(len(rows.owner), 3),
        dt=like.new_full((n,), DT),
        a=like.new_full((n,), A_START),
        downhill=torch.full((n,), -1, device=like.device),
    )


def step(state: State, rows: Rows, position: Tensor, force: Tensor) -> tuple[State, Tensor]:
    """The next state and the displacement (R, 3) from forces (R, 3) at the positions (R, 3)."""
    v, owner = state.velocity, rows.owner
    power, force2, v2 = rows.dots((force, v), (force, force), (v, v))
    first, good = state.downhill < 0, power > 0
    # Where the power is positive the force is not zero; elsewhere the quotient is not used.
    mixed = torch.where(good, state.a * torch.sqrt(v2 / force2), 0.0)[owner, None] * force
    v = torch.where(good, 1 - state.a, 0.0)[owner, None] * v + mixed
    faster = good & (state.downhill > N_MIN)
    dt = torch.where(faster, (state.dt * F_INC).clamp(max=DT_MAX), state.dt)
    dt = torch.where(good | first, dt, state.dt * F_DEC)
    a = torch.where(faster, state.a * F_A, state.a)
    a = torch.where(good | first, a, A_START)
    v = v + dt[owner, None] * force
    displacement = dt[owner, None] * v
    length = torch.sqrt(rows.dots((displacement, displacement))[0])
    shortened = torch.where(length > MAX_STEP, MAX_STEP / length, 1.0)
    downhill = torch.where(good, state.downhill + 1, 0)
    return State(v, dt, a, downhill), displacement * shortened[owner, None]
