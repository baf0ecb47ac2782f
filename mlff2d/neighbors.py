"""Neighbour lists with periodicity per axis, and a skin list for dynamics.

Axes: N atoms, E edges.
"""

from __future__ import annotations

import numpy as np
import vesin
from ase.neighborlist import primitive_neighbor_list
from numpy.typing import NDArray

from mlff2d.errors import StructureError
from mlff2d.slab import Array, Mask, complete_cell

Edges = tuple[NDArray[np.int64], NDArray[np.int64]]

_THREADED_FROM = 2000  # atoms; below, starting threads costs more than it saves

_MAX_IMAGES = 100_000
_MAX_POSITION = 1e8  # Å, where float64 still resolves 1e-8 Å
_TALL = 100.0  # Å

# With more cells of the size of the cutoff vesin 0.6 ends the process (a division by zero).
_VESIN_CELLS = 90_000


def neighbor_list(pos: Array, cell: Array, pbc: Mask, cutoff: float) -> Edges:
    """All pairs of atoms, periodic images included, closer than the cutoff.

    Parameters
    ----------
    pos, cell, pbc : (N, 3), (3, 3) in Å and (3,); rows of `cell` that are not periodic are not used
    cutoff : Å

    Returns
    -------
    edge_index (2, E) receiver and neighbour, and edge_shift (E, 3): the edge vector is
    pos[j] + shift @ cell - pos[i]. Ordered by receiver, then by neighbour, then by shift.

    Raises ValueError where periodic lattice vectors are zero or linearly dependent, StructureError
    where an atom has images without number within the cutoff, and for an atom absurdly far away.
    """
    pbc = np.asarray(pbc, dtype=bool)
    box = complete_cell(cell, pbc)
    if len(pos) and np.abs(pos).max() > _MAX_POSITION:
        raise StructureError(
            f"an atom is more than {_MAX_POSITION:g} Å away from the origin; "
            "move it back or remove it"
        )
    pos, spacing = _without_gaps(np.ascontiguousarray(pos), box, pbc, cutoff)
    if np.prod(2 * np.ceil(cutoff / spacing[pbc]) + 1) > _MAX_IMAGES:
        raise StructureError(
            f"an atom has more than {_MAX_IMAGES:,} periodic images within {cutoff:g} Å; the "
            "lattice vectors are too short, or nearly parallel; mend the cell"
        )
    if np.prod(np.maximum(spacing / cutoff, 1.0)) > _VESIN_CELLS:
        i, j, shift = primitive_neighbor_list("ijS", pbc, box, pos, cutoff, self_interaction=False)
    else:
        i, j, shift = vesin.NeighborList(
            cutoff=cutoff,
            full_list=True,
            sorted=True,  # by receiver alone, but then all that follows reads memory in order
            n_threads=0 if len(pos) > _THREADED_FROM else 1,
        ).compute(points=pos, box=box, periodic=pbc, quantities="ijS")
    edges, shift = np.stack([i, j]).astype(np.int64), shift.astype(np.int64)
    rank = edges[0] * len(pos) + edges[1]
    if len(rank):
        low = shift.min(0)
        for axis, width in enumerate((shift.max(0) - low + 1).tolist()):
            if width > 1:
                rank = rank * width + (shift[:, axis] - low[axis])
    order = np.argsort(rank)
    return edges.take(order, 1), shift.take(order, 0)


def _without_gaps(pos: Array, box: Array, pbc: Mask, cutoff: float) -> tuple[Array, Array]:
    """Positions with the same neighbours, no emptiness between them higher than needed, and spans.

    (N, 3) and (3,): along an axis that is periodic the span is the distance of lattice planes, else
    the extent of the atoms, which is what searching them costs.
    """
    spacing = 1.0 / np.sqrt((np.linalg.inv(box) ** 2).sum(0))
    for axis in np.flatnonzero(~pbc):
        height = pos @ box[axis]
        spacing[axis] = np.ptp(height) if len(pos) else 0.0
        if spacing[axis] > _TALL:
            order = np.argsort(height, kind="stable")
            gaps = np.diff(height[order])
            closed = np.minimum(gaps, 2 * cutoff)
            down = np.zeros(len(pos))
            down[order[1:]] = np.cumsum(gaps - closed)
            pos = pos - down[:, None] * box[axis]
            spacing[axis] = closed.sum()
    return pos, spacing


class SkinList:
    """A neighbour list kept until atoms or cell have moved enough to make it wrong.

    Built with cutoff + skin. Between two builds let the cell deform by F and atoms move by at most
    u on top of that: a pair that was farther apart than cutoff + skin is then at least
    σ_min(F) (cutoff + skin) - 2u apart, σ_min being the smallest singular value. The list is
    rebuilt when that falls below the cutoff, which holds for far images too, where counting only
    displacements of atoms would not.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        if cutoff <= 0 or skin < 0:
            raise ValueError(f"cutoff must be positive and skin not negative: {cutoff}, {skin}")
        self.cutoff = cutoff
        self.skin = skin
        self.n_builds = 0
        self._built: tuple[Array, Array, Mask] | None = None
        self._edges: Edges | None = None
        self._shift: Array = np.empty((0, 3))

    def get(self, pos: Array, cell: Array, pbc: Mask) -> Edges:
        """Edges within the cutoff, as `neighbor_list` gives them."""
        if self._edges is None or not self._still_right(pos, cell, pbc):
            self._edges = neighbor_list(pos, cell, pbc, self.cutoff + self.skin)
            self._shift = self._edges[1].astype(float)
            self._built = (np.array(pos), complete_cell(cell, pbc), np.array(pbc))
            self.n_builds += 1
        edges, shift = self._edges
        vectors = pos.take(edges[1], 0)
        vectors -= pos.take(edges[0], 0)
        vectors += self._shift @ np.where(pbc[:, None], cell, 0.0)
        near = np.einsum("ex,ex->e", vectors, vectors) < self.cutoff**2
        return edges.compress(near, 1), shift.compress(near, 0)

    def _still_right(self, pos: Array, cell: Array, pbc: Mask) -> bool:
        assert self._built is not None
        old_pos, old_cell, old_pbc = self._built
        if old_pos.shape != pos.shape or not np.array_equal(old_pbc, pbc):
            return False
        deformation = np.linalg.solve(old_cell, complete_cell(cell, pbc))
        moved = np.linalg.norm(pos - old_pos @ deformation, axis=1).max(initial=0.0)
        shrink = np.linalg.svd(deformation, compute_uv=False).min()
        return bool(shrink * (self.cutoff + self.skin) - 2 * moved >= self.cutoff)
