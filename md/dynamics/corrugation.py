r"""How far the middle surface of a layer is from flat.

Its waves are those of the heights z_i above their mean, at the places r_i in the plane,

    h(q) = 1/N Σ_i z_i exp(-i q·r_i),

q a reciprocal lattice vector of the cell. Short of the reciprocal lattice of the crystal itself,
what stands still in its unit cells (the two sulphur planes of MoS2) adds nothing to them. The mean
square of the middle surface is Σ |h(q)|² over all waves but q = 0.

Axes: N atoms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHORTEST_WAVE = 6.0
"""Å. Shorter waves are not counted: they are phonons inside unit cells, not ripples."""


def waves(pos: Tensor, cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
    """Wave numbers |q| in 1/Å and |h(q)|² in Å² of all q with wavelengths that are counted.

    Both of q and -q are there. Positions (N, 3) of one slab in one piece, its cell (3, 3).
    """
    plane = cell[pbc]
    n = torch.linalg.cross(plane[0], plane[1])
    heights = pos @ (n / n.norm())
    heights = heights - heights.mean()
    inverse = torch.linalg.pinv(plane)
    bound = 2 * math.pi / SHORTEST_WAVE
    # q·a = 2πm, so that |m| is at most |q| |a| / 2π.
    most = (plane.norm(dim=1) / SHORTEST_WAVE).long().tolist()
    orders = [torch.arange(-m, m + 1, dtype=pos.dtype, device=pos.device) for m in most]
    phases = [
        torch.polar(torch.ones_like(angle), angle)
        for angle in (
            -2 * math.pi * m[:, None] * along
            for m, along in zip(orders, (pos @ inverse).T, strict=True)
        )
    ]
    modes = (phases[0] * heights) @ phases[1].T / len(pos)
    q = orders[0][:, None, None] * inverse[:, 0] + orders[1][None, :, None] * inverse[:, 1]
    q = 2 * math.pi * q.norm(dim=2)
    counted = (q > 0) & (q <= bound)
    return q[counted], modes[counted].abs() ** 2


def corrugation(pos: Tensor, cell: Tensor, pbc: Tensor) -> float:
    """Root mean square in Å of the height of the middle surface about its mean.

    Zero where the cell is too small for a wave. Arguments as of `waves`.
    """
    return math.sqrt(float(waves(pos, cell, pbc)[1].sum()))
