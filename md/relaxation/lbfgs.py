"""L-BFGS for many structures at once: Nocedal, Math. Comput. 35, 773 (1980).

Each structure has its own history, and the scalar products run over all its rows, the cell's too:
it moves as `ase.optimize.LBFGS` with its defaults but a shorter memory moves it alone, as long as
the energy curves up along its steps. A step along which it curves down is not remembered: what
ASE's makes of it leads uphill, and flat germanene stays flat. There is no line search: a step is
shortened so that no row moves farther than `MAX_STEP`.

Axes: S structures, R rows, see `rows`; M pairs remembered, the last the newest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .rows import Rows

ALPHA = 70.0
"""eV/Å², the curvature before anything is known of it."""

MAX_STEP = 0.2
"""Å, the bound on the displacement of any row."""

MEMORY = 25
"""M. Half of 100 slabs of 2DMatPedia come to rest with the shipped model within 19 steps, so that
few ever forget anything."""


@dataclass(frozen=True)
class State:
    """What L-BFGS keeps from step to step.

    Attributes
    ----------
    moved : (R, M, 3) differences of positions from step to step
    changed : (R, M, 3) differences of gradients
    rho : (S, M) one over the scalar products of the two, zero for what is not there, or not used
    position, force : (R, 3) at the last step
    begun : (S,) bool, whether there was one
    """

    moved: Tensor
    changed: Tensor
    rho: Tensor
    position: Tensor
    force: Tensor
    begun: Tensor

    ROWS: ClassVar[frozenset[str]] = frozenset({"moved", "changed", "position", "force"})


def init(rows: Rows, like: Tensor) -> State:
    """The state before the first step, with the dtype and on the device of `like`."""
    n_rows, n = len(rows.owner), rows.n_structures
    return State(
        moved=like.new_zeros(n_rows, MEMORY, 3),
        changed=like.new_zeros(n_rows, MEMORY, 3),
        rho=like.new_zeros(n, MEMORY),
        position=like.new_zeros(n_rows, 3),
        force=like.new_zeros(n_rows, 3),
        begun=torch.zeros(n, dtype=torch.bool, device=like.device),
    )


def step(state: State, rows: Rows, position: Tensor, force: Tensor) -> tuple[State, Tensor]:
    """The next state and the displacement (R, 3) from forces (R, 3) at the positions (R, 3)."""
    owner, begun = rows.owner, state.begun[rows.owner, None]
    newest = torch.where(begun, position - state.position, 0.0)
    change = torch.where(begun, state.force - force, 0.0)
    (curvature,) = rows.dots((newest, change))
    newest_rho = torch.where(curvature > 0, 1 / curvature, 0.0)
    moved = torch.cat([state.moved[:, 1:], newest[:, None]], dim=1)
    changed = torch.cat([state.changed[:, 1:], change[:, None]], dim=1)
    rho = torch.cat([state.rho[:, 1:], newest_rho[:, None]], dim=1)

    known = torch.nonzero((rho != 0).any(0))[:, 0].tolist()
    q, alphas = -force, {}
    for m in reversed(known):
        alphas[m] = rho[:, m] * rows.dots((moved[:, m], q))[0]
        q = q - alphas[m][owner, None] * changed[:, m]
    z = q / ALPHA
    for m in known:
        beta = rho[:, m] * rows.dots((changed[:, m], z))[0]
        z = z + (alphas[m] - beta)[owner, None] * moved[:, m]

    longest = rows.longest(z)
    shortened = torch.where(longest >= MAX_STEP, MAX_STEP / longest, 1.0)
    kept = State(moved, changed, rho, position, force, torch.ones_like(state.begun))
    return kept, -z * shortened[owner, None]
