"""The geometry of slabs: which axis is the vacuum, and what is measured in the plane.

Arrays follow ASE: `cell` (3, 3) holds lattice vectors as rows in Å, `pbc` (3,) their periodicity,
`pos` (N, 3) positions in Å. Functions named `batched_*` take torch tensors with a leading axis of
S structures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]

MIN_VACUUM = 4.5
"""Å. A fully periodic structure with an empty layer this thick along one axis is a slab.

Wider than the van der Waals gaps of layered crystals (2.8 to 4.2 Å between nuclei).
"""


def complete_cell(cell: Array, pbc: Mask) -> Array:
    """`cell` with each row that is not periodic replaced by a unit vector normal to the others.

    Raises ValueError where the periodic rows are linearly dependent.
    """
    completed = np.array(cell, dtype=float)
    periodic = completed[pbc]
    if len(periodic) == 0:
        return np.eye(3)
    lengths = np.sqrt((periodic * periodic).sum(1))
    if lengths.min() < 1e-6:
        raise ValueError("a periodic lattice vector is zero")
    directions = periodic / lengths[:, None]
    if _least_singular(directions) < 1e-3:
        raise ValueError("the periodic lattice vectors are linearly dependent")
    if len(periodic) == 2:
        n = _cross(*directions)
        completed[~pbc] = n / np.sqrt(n @ n)
    elif len(periodic) == 1:
        completed[~pbc] = np.linalg.svd(directions)[2][1:]
    return completed


def _cross(a: Array, b: Array) -> Array:
    """(3,) a × b; numpy's takes ten times as long for one pair of vectors."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def _least_singular(directions: Array) -> float:
    """The least singular value of one to three rows of length one."""
    if len(directions) == 3:
        return float(np.linalg.svd(directions, compute_uv=False)[-1])
    if len(directions) == 2:  # their Gram matrix has the eigenvalues 1 ± cosine
        return math.sqrt(max(0.0, 1.0 - abs(float(directions[0] @ directions[1]))))
    return 1.0


def normal(cell: Array, pbc: Mask) -> Array:
    """(3,) unit normal of the plane spanned by the two periodic lattice vectors.

    Raises ValueError unless exactly two are periodic.
    """
    first, second = _in_plane_rows(cell, pbc)
    cross = _cross(first, second)
    return cross / math.sqrt(cross @ cross)


def area(cell: Array, pbc: Mask) -> float:
    """Area |a × b| in Å² of the cell in the plane. Raises ValueError unless two are periodic."""
    first, second = _in_plane_rows(cell, pbc)
    cross = _cross(first, second)
    return math.sqrt(cross @ cross)


def thickness(pos: Array, cell: Array, pbc: Mask) -> float:
    """Extent of the nuclei along the normal in Å, of a slab that is not cut by its boundary."""
    return float(np.ptp(pos @ normal(cell, pbc))) if len(pos) else 0.0


def plane_axes(cell: Array, pbc: Mask) -> Array:
    """(2, 3) orthonormal axes in which in-plane tensors are given as (xx, yy, xy).

    Cartesian x and y where the normal is along z; else the first periodic lattice vector and the
    direction that completes it with the normal to a right-handed frame.
    """
    n = normal(cell, pbc)
    if abs(n[2]) > 1 - 1e-10:
        return np.eye(3)[:2]
    first = cell[pbc][0] / np.linalg.norm(cell[pbc][0])
    return np.array([first, np.cross(n, first)])


def stress_2d(virial: Array, cell: Array, pbc: Mask) -> Array:
    """(3,) in-plane stress (xx, yy, xy) in N/m from dE/dstrain (3, 3) in eV, tension positive.

    The axes are those of `plane_axes`.
    """
    axes = plane_axes(cell, pbc)
    tensor = axes @ virial @ axes.T * (EV_PER_ANGSTROM2_IN_N_PER_M / area(cell, pbc))
    return np.array([tensor[0, 0], tensor[1, 1], tensor[0, 1]])


def vacuum_axis(pos: Array, cell: Array, pbc: Mask) -> int | None:
    """The lattice vector along which a structure is a slab, or None where it is not one.

    Two periodic axes make a slab as they stand. A fully periodic cell is a slab if exactly one axis
    holds an empty layer of at least `MIN_VACUUM`; with several it is a chain, a molecule or a very
    open layer, and which axis is the vacuum cannot be told.
    """
    if pbc.sum() == 2:
        return int(np.flatnonzero(~pbc)[0])
    if pbc.sum() != 3:
        return None
    empty = empty_axes(pos, cell)
    return empty[0] if len(empty) == 1 else None


def empty_axes(pos: Array, cell: Array) -> list[int]:
    """Lattice vectors along which a fully periodic structure has a vacuum of `MIN_VACUUM`."""
    gaps = [_gaps(pos, cell, axis) if len(pos) else None for axis in range(3)]
    return [
        axis
        for axis, g in enumerate(gaps)
        if g is not None and max(g.inside.max(initial=0.0), g.boundary) >= MIN_VACUUM
    ]


@dataclass(frozen=True)
class Slab:
    """A structure in one form: periodic in the plane only, in one piece along the normal.

    Attributes
    ----------
    pos : (N, 3) positions in Å, moved by whole lattice vectors where the boundary cut the layer
    pbc : (3,) periodicity with the vacuum's axis off
    axis : lattice vector along the vacuum; None where the structure is not a slab
    """

    pos: Array
    pbc: Mask
    axis: int | None


def canonical(pos: Array, cell: Array, pbc: Mask) -> Slab:
    """Recognise a slab, switch periodicity off along its vacuum and undo a cut by the boundary.

    A fully periodic slab is put together around its vacuum. Where the axis is already not
    periodic, positions are believed unless they fit into one cell, the boundary is no vacuum and
    the inside holds one: then the layer was wrapped, and is put together. A third vector too short
    to hold the structure and any vacuum is never used.
    """
    pos, pbc = np.asarray(pos, dtype=float), np.array(pbc, dtype=bool)
    axis = vacuum_axis(pos, cell, pbc)
    if axis is None:
        return Slab(pos, pbc, None)
    fully_periodic = bool(pbc[axis])
    pbc[axis] = False
    heights = _gaps(pos, cell, axis) if len(pos) else None
    if heights is None:
        return Slab(pos, pbc, axis)
    wrapped = heights.within_one_cell and heights.boundary < MIN_VACUUM <= heights.inside.max(
        initial=0.0
    )
    if not (fully_periodic or wrapped):
        return Slab(pos, pbc, axis)
    shift = -heights.cell_of_atom.astype(float) if fully_periodic else np.zeros(len(pos))
    if heights.inside.max(initial=0.0) > heights.boundary:
        cut = int(np.argmax(heights.inside)) + 1
        shift[heights.order[:cut]] += 1.0
    return Slab(pos + shift[:, None] * cell[axis], pbc, axis)


@dataclass(frozen=True)
class _Gaps:
    inside: Array  # (N-1,) empty heights in Å between neighbours in `order`
    boundary: float  # empty height across the cell boundary
    order: NDArray[np.intp]  # atoms from low to high, each in its own cell
    cell_of_atom: NDArray[np.intp]
    within_one_cell: bool


def _gaps(pos: Array, cell: Array, axis: int) -> _Gaps | None:
    """Empty layers along a lattice vector; None where that vector spans no height."""
    others = [k for k in range(3) if k != axis]
    n = np.cross(cell[others[0]], cell[others[1]])
    norm = np.linalg.norm(n)
    height = float(cell[axis] @ n / norm) if norm > 1e-12 else 0.0
    if abs(height) < 1e-3:
        return None
    fraction = (pos @ n / norm) / height
    # A position a rounding error below a boundary belongs to the cell above it.
    cell_of_atom = np.floor(fraction + 1e-9).astype(np.intp)
    inside_cell = fraction - cell_of_atom
    order = np.argsort(inside_cell, kind="stable")
    heights = inside_cell[order] * abs(height)
    return _Gaps(
        inside=np.diff(heights),
        boundary=float(heights[0] + abs(height) - heights[-1]),
        order=order,
        cell_of_atom=cell_of_atom,
        within_one_cell=bool(np.ptp(cell_of_atom) == 0),
    )


def _in_plane_rows(cell: Array, pbc: Mask) -> Array:
    pbc = np.asarray(pbc, dtype=bool)
    if pbc.sum() != 2:
        raise ValueError(f"a plane needs two periodic lattice vectors, not pbc {pbc.tolist()}")
    missing = int(np.flatnonzero(~pbc)[0])
    # Cyclic order, so that the normal of (a, b) is a × b and of (c, a) is c × a.
    return np.asarray(cell)[[(missing + 1) % 3, (missing + 2) % 3]]


def batched_projector(cell: Tensor, pbc: Tensor) -> Tensor:
    """(S, 3, 3) projectors P on the span of the periodic lattice vectors.

    The identity for a bulk crystal, zero for a molecule, I - n nᵀ for a slab in any orientation.
    """
    n_periodic = pbc.sum(1)
    rows = cell * pbc.unsqueeze(-1)
    eye = torch.eye(3, dtype=cell.dtype, device=cell.device).expand(len(cell), 3, 3)
    # Of three cross products at most the one of the two periodic rows is not zero.
    n = torch.linalg.cross(rows, rows.roll(-1, dims=1)).sum(1)
    along = rows.sum(1)
    plane = eye - _outer_unit(n)
    projector = torch.where((n_periodic == 3).view(-1, 1, 1), eye, plane)
    projector = torch.where((n_periodic == 1).view(-1, 1, 1), _outer_unit(along), projector)
    return projector * (n_periodic > 0).view(-1, 1, 1)


def batched_complete_cell(cell: Tensor, pbc: Tensor) -> Tensor:
    """(S, 3, 3) what `complete_cell` gives for slabs and bulk crystals, NaN where it raises."""
    rows = cell * pbc.unsqueeze(-1)
    # Of three cross products that of the two periodic rows is not zero, in cyclic order.
    n = torch.linalg.cross(rows, rows.roll(-1, dims=1)).sum(1, keepdim=True)
    return torch.where(pbc.unsqueeze(-1), cell, n / n.norm(dim=2, keepdim=True))


def batched_area(cell: Tensor, pbc: Tensor) -> Tensor:
    """(S,) areas in Å² of the cells in the plane; NaN where not exactly two axes are periodic."""
    rows = cell * pbc.unsqueeze(-1)
    area = torch.linalg.cross(rows, rows.roll(-1, dims=1)).sum(1).norm(dim=1)
    return torch.where(pbc.sum(1) == 2, area, torch.full_like(area, torch.nan))


def batched_stress_2d(virial: Tensor, cell: Tensor, pbc: Tensor) -> Tensor:
    """(S, 3, 3) in-plane stress P (dE/dstrain) P / area in N/m; NaN for what is not a slab.

    Cartesian components in the frame of the structure, so that rows and columns along the normal
    are zero.
    """
    projector = batched_projector(cell, pbc)
    scale = EV_PER_ANGSTROM2_IN_N_PER_M / batched_area(cell, pbc)
    return projector @ virial @ projector * scale.view(-1, 1, 1)


def _outer_unit(vector: Tensor) -> Tensor:
    unit = vector / vector.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit.unsqueeze(2) * unit.unsqueeze(1)
