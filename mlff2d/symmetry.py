"""The layer group of a slab, by moyopy.

Arrays follow ASE as in `slab`: `cell` (3, 3) rows in Å, `pbc` (3,), `pos` (N, 3) in Å.
"""

from __future__ import annotations

import logging

import moyopy
import numpy as np
from numpy.typing import NDArray

from mlff2d import slab

# moyopy warns of every supercell, which is no news to those who made it.
logging.getLogger("moyo").setLevel(logging.ERROR)


MIN_LATTICE_VECTOR = 1.5
"""Å. In smaller cells moyopy 0.21 may search without end; no layer has one (graphene: 2.46)."""


def layer_group(
    numbers: NDArray[np.integer], pos: slab.Array, cell: slab.Array, pbc: slab.Mask, symprec: float
) -> int:
    """Number of the layer group (1 to 80) of a slab in canonical form, 0 where none is found.

    Atoms equivalent within `symprec` Å count as equivalent. Of what is not periodic along exactly
    two axes there is no layer group, so 0 as well.
    """
    if pbc.sum() != 2:
        return 0
    first, second = _reduced(*cell[pbc])
    if np.linalg.norm(first) < MIN_LATTICE_VECTOR:
        return 0
    n = np.cross(first, second)
    n /= np.linalg.norm(n)
    x = first / np.linalg.norm(first)
    # moyopy wants the plane to be xy. The third vector only has to hold the layer.
    frame = np.array([x, np.cross(n, x), n])
    pos = pos @ frame.T
    height = np.ptp(pos[:, 2]) + slab.MIN_VACUUM
    flat = np.array([frame @ first, frame @ second, [0.0, 0.0, height]])
    flat[:2, 2] = 0.0
    fractional = np.linalg.solve(flat.T, (pos - [0, 0, pos[:, 2].min()]).T).T
    try:
        dataset = moyopy.MoyoLayerDataset(
            moyopy.Cell(flat.tolist(), fractional.tolist(), numbers.tolist()),
            symprec=symprec,
            rotate_basis=False,
        )
    except ValueError:
        return 0
    return int(dataset.number)


def _reduced(first: slab.Array, second: slab.Array) -> tuple[slab.Array, slab.Array]:
    """The two shortest lattice vectors of a plane, the shorter one first (Lagrange and Gauss)."""
    while True:
        if first @ first > second @ second:
            first, second = second, first
        steps = np.round(first @ second / (first @ first))
        if steps == 0:
            return first, second
        second = second - steps * first
