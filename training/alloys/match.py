"""Which site of a parent lattice each atom of a layer belongs to, in any cell, relaxed or not.

Axes: N atoms of the structure, n primitive cells in it, P atoms of the parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mlff2d.errors import StructureError

from ..generation.layers import reduced_formula, standard

Array = NDArray[np.float64]

LONGEST_STRAIN = 0.12
"""Relative change of the length of a lattice vector, its area apart, up to which a cell matches."""

FARTHEST = 0.35
"""Of the shortest distance between sites: an atom farther from its site belongs to none."""


@dataclass(frozen=True)
class Match:
    """A structure on the lattice of its parent.

    Attributes
    ----------
    ideal : the sites of the parent in the structure's cell, right-handed, with its species; atom by
        atom as in the structure
    farthest : Å, how far the atom is that is farthest from its site, once both lattices have the
        same area for each primitive cell and are strained onto each other
    strain : largest relative change of the length of a lattice vector, the area apart
    """

    ideal: Atoms
    farthest: float
    strain: float


def match(structure: Atoms, parent: Atoms, species: Sequence[Sequence[str]]) -> Match:
    """Find the cell of the parent that a layer is, and the site of each of its atoms.

    Parameters
    ----------
    structure : any cell, in any orientation, relaxed or rattled
    parent : the primitive layer in the standard form
    species : for each atom of the parent, what may stand on its site

    The lattice may be turned, turned over and strained; of several ways the one with the shortest
    displacements is taken. Raises StructureError where the structure is no cell of the parent.
    """
    layer = standard(structure)
    cells, rest = divmod(len(layer), len(parent))
    if rest:
        raise StructureError(
            f"{len(layer)} atoms are no whole number of cells of {reduced_formula(parent)}, which "
            f"has {len(parent)}"
        )
    _refuse_composition(layer, parent, species, cells)
    best, least = None, np.inf
    for rows, strain in _cells(layer, parent, cells):
        for farthest, sites, cell in _placed(layer, parent, species, rows):
            if farthest < least - 1e-6:
                best, least = (sites, cell, strain), farthest
    if best is None or least > FARTHEST * _shortest(parent):
        how = (
            "its lattice is none of the parent's"
            if best is None
            else f"an atom is {least:.2f} Å from its site"
        )
        raise StructureError(
            f"it is no arrangement on the lattice of {reduced_formula(parent)}: {how}; another "
            "phase is another parent"
        )
    sites, cell, strain = best
    return Match(_ideal(layer, sites, cell), least, strain)


def _refuse_composition(
    layer: Atoms, parent: Atoms, species: Sequence[Sequence[str]], cells: int
) -> None:
    counts = layer.symbols.formula.count()
    kinds = {tuple(allowed) for allowed in species}
    for allowed in kinds:
        sites = cells * sum(tuple(one) == allowed for one in species)
        atoms = sum(counts.pop(one, 0) for one in allowed)
        if atoms != sites:
            raise StructureError(
                f"{atoms} atoms of {', '.join(allowed)} cannot fill {sites} sites of "
                f"{reduced_formula(parent)}"
            )
    if counts:
        raise StructureError(f"it has {', '.join(sorted(counts))}, which the alloy has not")


def _cells(layer: Atoms, parent: Atoms, cells: int) -> Iterator[tuple[NDArray[np.int64], float]]:
    """Pairs of lattice vectors of the parent, as integer rows, that the structure's may be."""
    ours, theirs = layer.cell.array[:2, :2], parent.cell.array[:2, :2]
    ours = ours * np.sqrt(cells * _area(theirs) / _area(ours))
    lengths = np.linalg.norm(ours, axis=1)
    reach = int(np.ceil(lengths.max() * (1 + LONGEST_STRAIN) * _longest_row(theirs))) + 1
    grid = np.arange(-reach, reach + 1)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    vectors = points @ theirs
    norms = np.linalg.norm(vectors, axis=1)
    for p in np.flatnonzero(abs(norms / lengths[0] - 1) < LONGEST_STRAIN):
        for q in np.flatnonzero(abs(norms / lengths[1] - 1) < LONGEST_STRAIN):
            rows = points[[p, q]]
            if abs(rows[0, 0] * rows[1, 1] - rows[0, 1] * rows[1, 0]) != cells:
                continue
            strain = _strain(rows @ theirs, ours)
            if strain < LONGEST_STRAIN:
                yield rows, strain


def _strain(ideal: Array, ours: Array) -> float:
    """Largest relative change of a length between two lattices, however they are turned."""
    stretches = np.linalg.svd(np.linalg.solve(ideal, ours), compute_uv=False)
    return float(abs(stretches - 1).max())


def _area(cell: Array) -> float:
    return float(abs(np.linalg.det(cell)))


def _longest_row(cell: Array) -> float:
    return float(np.linalg.norm(np.linalg.inv(cell), axis=0).max())


def _placed(
    layer: Atoms,
    parent: Atoms,
    species: Sequence[Sequence[str]],
    rows: NDArray[np.int64],
) -> Iterator[tuple[float, Array, Array]]:
    """The structure on that cell, its rarest atom on each of its sites: farthest, sites, cell."""
    cell = np.zeros((3, 3))
    cell[:2, :2] = rows @ parent.cell.array[:2, :2]
    cell[2, 2] = parent.cell.array[2, 2]
    turned_over = np.linalg.det(rows) < 0
    heights = layer.positions[:, 2] - layer.positions[:, 2].mean()
    fractions = np.linalg.solve(layer.cell.array[:2, :2].T, layer.positions[:, :2].T).T
    pos = np.column_stack([fractions @ cell[:2, :2], -heights if turned_over else heights])
    sites, kinds = _sites(parent, cell, rows)
    allowed = np.array([[s in species[kind] for kind in kinds] for s in layer.symbols])
    rarest = int(np.argmin(allowed.sum(1)))
    for site in np.flatnonzero(allowed[rarest]):
        shift = sites[site] - pos[rarest]
        shift[2] = 0.0
        order, gaps = _assign(pos + shift, sites, allowed, cell)
        if order is None:
            continue
        mean = gaps.mean(0)
        farthest = float(np.linalg.norm(gaps - mean, axis=1).max())
        yield farthest, sites[order], cell


def _sites(parent: Atoms, cell: Array, rows: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """(N, 3) sites of the cell from its middle, and the atom of the parent that each repeats."""
    reach = int(abs(rows).sum())
    grid = np.arange(-reach, reach + 1)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = np.linalg.solve(rows.T, points.T).T
    points = points[((inside > -1e-9) & (inside < 1 - 1e-9)).all(1)]
    base = parent.positions.copy()
    base[:, 2] -= base[:, 2].mean()
    shifts = points @ parent.cell.array[:2, :2]
    sites = np.repeat(base, len(points), axis=0)
    sites[:, :2] += np.tile(shifts, (len(base), 1))
    return sites, np.repeat(np.arange(len(base)), len(points))


def _assign(
    pos: Array, sites: Array, allowed: NDArray[np.bool_], cell: Array
) -> tuple[NDArray[np.intp] | None, Array]:
    """(N,) site of each atom by the least sum of squares, and (N, 3) vectors from site to atom."""
    gaps = pos[:, None] - sites[None]
    fractions = np.linalg.solve(cell[:2, :2].T, gaps[..., :2].reshape(-1, 2).T).T
    fractions -= np.round(fractions)
    gaps[..., :2] = (fractions @ cell[:2, :2]).reshape(*gaps.shape[:2], 2)
    costs = np.where(allowed, (gaps**2).sum(-1), 1e6)
    atoms, order = linear_sum_assignment(costs)
    if costs[atoms, order].max() >= 1e6:
        return None, gaps[0]
    return order, gaps[atoms, order]


def _ideal(layer: Atoms, sites: Array, cell: Array) -> Atoms:
    if np.linalg.det(cell) < 0:
        cell = cell[[1, 0, 2]]
    pos = sites + np.array([0, 0, cell[2, 2] / 2])
    return Atoms(layer.numbers, pos, cell=cell, pbc=(True, True, False))


def _shortest(parent: Atoms) -> float:
    """The shortest distance between sites of the parent, its lattice vectors among them."""
    pairs = parent.repeat((3, 3, 1)).get_all_distances()
    return float(pairs[pairs > 1e-6].min())
