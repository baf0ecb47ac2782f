"""Structures that are the same, whatever their cell, order of atoms, origin and orientation.

Each atom is told by its height above or below the middle of the layer and its distances to the
nearest atoms of each element, sorted: the pointwise distance distribution of Widdowson and Kurlin
(NeurIPS 2022), by element. None of it changes where a layer is turned, reflected or given another
cell, and where atoms move by some ångström it changes by twice as many at most.

Two colourings of a lattice may look alike near every site and differ farther away; so what looks
alike within `_NEAR` is compared once more within `_FAR`.

Axes: N atoms, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.atoms import canonical_slab
from mlff2d.neighbors import neighbor_list

from .layers import reduced_formula
from .options import TOLERANCE

_NEAR, _FAR = 6.0, 18.0  # Å
_NEAREST = 16  # atoms of each element to which distances are kept within _NEAR

Array = NDArray[np.floating]


class Known:
    """The structures seen so far, to tell whether a new one is among them.

    Two of one composition are the same where each atom of one has a counterpart in the other, and
    the other way round, of which no distance to a neighbour differs by `tolerance` Å or more; of
    neighbours beyond 6 Å, by no more than the strain that this is at 6 Å.
    """

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        self.tolerance = tolerance
        self._groups: dict[str, _Group] = {}

    def add(self, atoms: Atoms, name: str) -> str | None:
        """The name of an earlier structure that is the same; else this one is remembered.

        Raises StructureError for what no potential could work on.
        """
        near = surroundings(atoms, _NEAR, _NEAREST)
        group = self._groups.setdefault(reduced_formula(atoms), _Group(near.shape[1]))
        same = group.find(atoms, near, self.tolerance)
        if same is None:
            group.append(atoms, near, name)
        return same


@dataclass
class _Group:
    """Structures of one composition, told within `_NEAR` by so many columns."""

    width: int
    means: Array = field(init=False)
    rows: list[Array] = field(default_factory=list)
    atoms: list[Atoms] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.means = np.empty((4, self.width), dtype=np.float32)

    def find(self, atoms: Atoms, near: Array, tolerance: float) -> str | None:
        """The name of the first structure that is the same."""
        # Where atoms correspond one to one, their means differ by no more than they do.
        apart = np.abs(self.means[: len(self.rows)] - near.mean(0)).max(1)
        for k in np.flatnonzero(apart < tolerance):
            if _farthest(near, self.rows[k]) < tolerance and _alike(
                atoms, self.atoms[k], tolerance * _FAR / _NEAR
            ):
                return self.names[k]
        return None

    def append(self, atoms: Atoms, near: Array, name: str) -> None:
        """Remember a structure."""
        n = len(self.rows)
        if n == len(self.means):
            self.means = np.concatenate([self.means, np.empty_like(self.means)])
        self.means[n] = near.mean(0)
        self.rows.append(near)
        self.atoms.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
        self.names.append(name)


def _alike(one: Atoms, other: Atoms, tolerance: float) -> bool:
    """Whether two structures agree within `_FAR`."""
    # Both have as many neighbours up to the cutoff, give or take some at its very end.
    most = max(_most(one), _most(other))
    return _farthest(surroundings(one, _FAR, most), surroundings(other, _FAR, most)) < tolerance


def _most(atoms: Atoms) -> int:
    """More neighbours of one element than an atom has within `_FAR`."""
    layer = canonical_slab(atoms)
    (i, _), _ = neighbor_list(layer.pos, atoms.cell.array, layer.pbc, _FAR)
    return int(np.bincount(i, minlength=1).max()) + 1


def difference(first: Atoms, second: Atoms) -> float:
    """Å by which distances of two structures of one composition differ within 6 Å; see `Known`."""
    one, other = (surroundings(atoms, _NEAR, _NEAREST) for atoms in (first, second))
    return max(_farthest(one, other), float(np.abs(one.mean(0) - other.mean(0)).max()))


def _farthest(one: Array, other: Array) -> float:
    """The largest difference of a row from the nearest of the other set, both ways."""
    apart = np.array([np.abs(row - other).max(1) for row in one])
    return float(max(apart.min(0).max(), apart.min(1).max()))


def surroundings(atoms: Atoms, cutoff: float, most: int) -> Array:
    """(N, 1 + `most` for each element) float32 in Å, what each atom is told by.

    Distances above `cutoff` count as the cutoff, so that all change continuously. Raises
    StructureError as `canonical_slab` does.
    """
    layer = canonical_slab(atoms)
    cell, n, z = atoms.cell.array, len(atoms), atoms.numbers
    (i, j), shift = neighbor_list(layer.pos, cell, layer.pbc, cutoff)
    vectors = layer.pos[j] - layer.pos[i] + shift @ np.where(layer.pbc[:, None], cell, 0.0)
    distance = np.linalg.norm(vectors, axis=1)
    # Buckling of a flat layer changes distances in second order only, heights in first.
    heights = np.zeros(n)
    if layer.pbc.sum() == 2:
        heights = layer.pos @ slab.normal(cell, layer.pbc)
    told = [np.abs(heights - heights.mean())[:, None]]
    for element in np.unique(z):
        of = z[j] == element
        told.append(_sorted(i[of], distance[of], n, cutoff, most))
    return np.concatenate(told, axis=1).astype(np.float32)


def _sorted(i: NDArray[np.int64], distance: Array, n: int, cutoff: float, most: int) -> Array:
    """(N, most) distances of each atom from the shortest on; `i` is sorted."""
    order = np.lexsort((distance, i))
    place = np.arange(len(i)) - np.searchsorted(i, i)
    found = np.full((n, most), cutoff)
    kept = place < most
    found[i[kept], place[kept]] = distance[order][kept]
    return found
