"""The layer group of a slab and its operations, by moyopy.

Arrays follow ASE as in `slab`: `cell` (3, 3) rows in Å, `pbc` (3,), `pos` (N, 3) in Å.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import moyopy
import numpy as np
from numpy.typing import NDArray

from mlff2d import slab

# moyopy warns of every supercell, which is no news to those who made it.
logging.getLogger("moyo").setLevel(logging.ERROR)


MIN_LATTICE_VECTOR = 1.5
"""Å. In smaller cells moyopy 0.21 may search without end; no layer has one (graphene: 2.46)."""


@dataclass(frozen=True)
class LayerSymmetry:
    """The operations that map a layer onto itself, G of them, translations in its cell included.

    They act in the frame of `lattice`: a position (two fractions of its rows and a height in Å
    along its normal) goes to (fractions @ plane, flip * height) + shift.

    Attributes
    ----------
    number : of the layer group, 1 to 80
    lattice : (2, 3) in-plane lattice vectors, reduced; they span the lattice of the cell given
    normal : (3,) unit vector
    plane : (G, 2, 2) integers
    flip : (G,) 1 or -1
    shift : (G, 3) as found: exact within the tolerance only
    """

    number: int
    lattice: slab.Array
    normal: slab.Array
    plane: NDArray[np.int64]
    flip: NDArray[np.int64]
    shift: slab.Array

    def __len__(self) -> int:
        """G."""
        return len(self.plane)


def layer_symmetry(
    numbers: NDArray[np.integer], pos: slab.Array, cell: slab.Array, pbc: slab.Mask, symprec: float
) -> LayerSymmetry | None:
    """The symmetry of a slab in canonical form, None where none is found.

    Atoms equivalent within `symprec` Å count as equivalent; `numbers` need be no elements. Of what
    is not periodic along exactly two axes there is no layer group, so None as well.
    """
    if pbc.sum() != 2:
        return None
    first, second = reduced(*cell[pbc])
    if np.linalg.norm(first) < MIN_LATTICE_VECTOR:
        return None
    n = np.cross(first, second)
    n /= np.linalg.norm(n)
    x = first / np.linalg.norm(first)
    # moyopy wants the plane to be xy. The third vector only has to hold the layer.
    frame = np.array([x, np.cross(n, x), n])
    pos = pos @ frame.T
    bottom = pos[:, 2].min()
    height = np.ptp(pos[:, 2]) + slab.MIN_VACUUM
    flat = np.array([frame @ first, frame @ second, [0.0, 0.0, height]])
    flat[:2, 2] = 0.0
    fractional = np.linalg.solve(flat.T, (pos - [0, 0, bottom]).T).T
    try:
        dataset = moyopy.MoyoLayerDataset(
            moyopy.Cell(flat.tolist(), fractional.tolist(), numbers.tolist()),
            symprec=symprec,
            rotate_basis=False,
        )
    except BaseException as error:  # what moyopy's Rust raises when it panics is no Exception
        if isinstance(error, ValueError) or type(error).__name__ == "PanicException":
            return None
        raise
    rotations = np.array(dataset.operations.rotations, dtype=np.int64)
    shift = np.array(dataset.operations.translations)
    flip = rotations[:, 2, 2]
    shift[:, 2] = shift[:, 2] * height + (1 - flip) * bottom
    return LayerSymmetry(
        number=int(dataset.number),
        lattice=np.array([first, second]),
        normal=n,
        plane=rotations[:, :2, :2].transpose(0, 2, 1),
        flip=flip,
        shift=shift,
    )


def layer_group(
    numbers: NDArray[np.integer], pos: slab.Array, cell: slab.Array, pbc: slab.Mask, symprec: float
) -> int:
    """Number of the layer group (1 to 80) of a slab, 0 where none is found; as `layer_symmetry`."""
    found = layer_symmetry(numbers, pos, cell, pbc, symprec)
    return 0 if found is None else found.number


def reduced(first: slab.Array, second: slab.Array) -> tuple[slab.Array, slab.Array]:
    """The two shortest lattice vectors of a plane, the shorter one first (Lagrange and Gauss)."""
    while True:
        if first @ first > second @ second:
            first, second = second, first
        along = first @ second / (first @ first)
        # At a half, as between vectors of a hexagonal lattice, rounding errors would go to and fro.
        if abs(along) < 0.5 + 1e-9:
            return first, second
        second = second - np.round(along) * first
