"""Pairs of atoms that may be bonded, by their distance over the sum of their covalent radii.

Two atoms surely form a bond where they are closer than `BONDED` times that sum, and surely none
where they are farther apart than `BROKEN` times; between the two nothing is said. All work grows
with the number of atoms, not with its square.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mlff2d.neighbors import neighbor_list

BONDED = 1.25
"""Closer than this many times the sum of the covalent radii, two atoms are surely bonded."""

BROKEN = 1.5
"""Farther apart than this many times the sum of the covalent radii, a bond is surely broken."""

COLLAPSED = 0.5
"""Closer than this many times the sum of the covalent radii no two atoms are; N2 has 0.77."""

_SHIFTS = 512  # more than lattice vectors that any bond spans, so that numbers made of them differ


class Contacts:
    """Pairs of atoms closer than `BROKEN` times the sum of their covalent radii.

    Attributes
    ----------
    i, j : (P,) atoms, each pair in both directions
    shift : (P, 3) lattice vectors from the image of j in the cell to the one meant
    distance : (P,) Å
    ratio : (P,) distance over the sum of the radii
    """

    def __init__(self, atoms: Atoms, pbc: NDArray[np.bool_]) -> None:
        radii = covalent_radii[atoms.numbers]
        pos, cell = atoms.positions, atoms.cell.array
        (i, j), shift = neighbor_list(pos, cell, pbc, 2 * BROKEN * float(radii.max()))
        vectors = pos[j] - pos[i] + shift @ np.where(pbc[:, None], cell, 0.0)
        distance = np.sqrt(np.einsum("px,px->p", vectors, vectors))
        ratio = distance / (radii[i] + radii[j])
        near = ratio < BROKEN
        self.i, self.j, self.shift = i[near], j[near], shift[near]
        self.distance, self.ratio = distance[near], ratio[near]
        self._n_atoms = len(atoms)

    def n_pieces(self, scale: float) -> int:
        """Number of parts that pairs below `scale` join."""
        near = self.ratio < scale
        ones, n = np.ones(int(near.sum()), dtype=bool), self._n_atoms
        graph = coo_array((ones, (self.i[near], self.j[near])), shape=(n, n))
        return int(connected_components(graph, directed=False, return_labels=False))

    def dimension(self) -> int:
        """Number of directions in which the first atom's piece goes on to its own images."""
        offset: dict[int, NDArray[np.int64]] = {0: np.zeros(3, dtype=np.int64)}
        starts = np.searchsorted(self.i, np.arange(self._n_atoms + 1))
        queue, loops = [0], set()
        while queue:
            here = queue.pop()
            for k in range(starts[here], starts[here + 1]):
                there, to = int(self.j[k]), offset[here] + self.shift[k]
                if there not in offset:
                    offset[there] = to
                    queue.append(there)
                elif (to != offset[there]).any():
                    loops.add(tuple((to - offset[there]).tolist()))
        return int(np.linalg.matrix_rank(np.array(sorted(loops)))) if loops else 0

    def not_in(self, other: Contacts) -> NDArray[np.intp]:
        """Places of the pairs that are surely bonded here and surely not in another geometry."""
        theirs = np.sort(other._keys)
        if not len(theirs):
            return self._bonded
        keys = self._keys[self._bonded]
        place = np.minimum(np.searchsorted(theirs, keys), len(theirs) - 1)
        return self._bonded[theirs[place] != keys]

    @cached_property
    def _bonded(self) -> NDArray[np.intp]:
        """Places of the pairs that are surely bonded, of both directions one."""
        # A bond of an atom to its own image has two directions too.
        once = (self.i < self.j) | ((self.i == self.j) & (self._image > 0))
        return np.flatnonzero((self.ratio < BONDED) & once)

    @cached_property
    def _image(self) -> NDArray[np.int64]:
        """(P,) a number for each lattice vector, that of the opposite one negative."""
        return self.shift @ np.array([_SHIFTS**2, _SHIFTS, 1])

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        """(P,) a number for each pair of an atom and an image in the plane."""
        return (self.i * self._n_atoms + self.j) * _SHIFTS**3 + self._image
