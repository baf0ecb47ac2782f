"""Neighbour lists with periodicity per axis, and a skin list for dynamics.

Axes: N atoms, E edges.
"""

from __future__ import annotations

import numpy as np
import vesin
from numpy.typing import NDArray

from mlff2d.slab import Array, Mask, complete_cell

Edges = tuple[NDArray[np.int64], NDArray[np.int64]]

_THREADED_FROM = 2000  # atoms; below, starting threads costs more than it saves


def neighbor_list(pos: Array, cell: Array, pbc: Mask, cutoff: float) -> Edges:
    """All pairs of atoms, periodic images included, closer than the cutoff.

    Parameters
    ----------
    pos, cell, pbc : (N, 3), (3, 3) in Å and (3,); rows of `cell` that are not periodic are not used
    cutoff : Å

    Returns
    -------
    edge_index (2, E) receiver and neighbour, sorted by receiver, and edge_shift (E, 3): the edge
    vector is pos[j] + shift @ cell - pos[i].

    Raises ValueError where periodic lattice vectors are zero or linearly dependent.
    """
    pbc = np.asarray(pbc, dtype=bool)
    box = complete_cell(cell, pbc)
    calculator = vesin.NeighborList(
        cutoff=cutoff, full_list=True, sorted=True, n_threads=0 if len(pos) > _THREADED_FROM else 1
    )
    i, j, shift = calculator.compute(
        points=np.ascontiguousarray(pos), box=box, periodic=pbc, quantities="ijS"
    )
    return np.stack([i, j]).astype(np.int64), shift.astype(np.int64)


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

    def get(self, pos: Array, cell: Array, pbc: Mask) -> Edges:
        """Edges within the cutoff, as `neighbor_list` gives them up to order within a receiver."""
        if self._edges is None or not self._still_right(pos, cell, pbc):
            self._edges = neighbor_list(pos, cell, pbc, self.cutoff + self.skin)
            self._built = (np.array(pos), complete_cell(cell, pbc), np.array(pbc))
            self.n_builds += 1
        (i, j), shift = self._edges
        vectors = pos[j] - pos[i] + shift @ np.where(pbc[:, None], cell, 0.0)
        near = np.einsum("ex,ex->e", vectors, vectors) < self.cutoff**2
        return np.stack([i[near], j[near]]), shift[near]

    def _still_right(self, pos: Array, cell: Array, pbc: Mask) -> bool:
        assert self._built is not None
        old_pos, old_cell, old_pbc = self._built
        if old_pos.shape != pos.shape or not np.array_equal(old_pbc, pbc):
            return False
        deformation = np.linalg.solve(old_cell, complete_cell(cell, pbc))
        moved = np.linalg.norm(pos - old_pos @ deformation, axis=1).max(initial=0.0)
        shrink = np.linalg.svd(deformation, compute_uv=False).min()
        return bool(shrink * (self.cutoff + self.skin) - 2 * moved >= self.cutoff)
