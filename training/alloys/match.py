"""Which site of a parent lattice each atom of a layer belongs to, in any cell, relaxed or not.

And which arrangements on these sites are the same but for a symmetry of the parent, exactly.

Axes: N atoms of the structure, n primitive cells in it, P atoms and G symmetries of the parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mlff2d.errors import StructureError
from mlff2d.symmetry import layer_symmetry

from ..generation.layers import reduced_formula, standard

Array = NDArray[np.float64]

LONGEST_STRAIN = 0.12
"""Relative change of the length of a lattice vector, its area apart, up to which a cell matches."""

FARTHEST = 0.35
"""Of the shortest distance between sites: an atom farther from its site belongs to none."""

ON_THE_SITES = 1e-3
"""Å. With no atom farther from its site, no shorter displacements are looked for."""

SYMPREC = 0.01
"""Å, within which sites of the parent count as equivalent."""


@dataclass(frozen=True)
class Match:
    """A structure on the lattice of its parent.

    Attributes
    ----------
    ideal : the sites of the parent in the structure's cell, right-handed, with its species; atom by
        atom as in the structure
    farthest : Å, how far the atom is that is farthest from its site, once both lattices have the
        same area for each primitive cell and are strained onto each other
    """

    ideal: Atoms
    farthest: float


@dataclass(frozen=True)
class Symmetries:
    """What maps a parent onto itself, translations by its lattice apart.

    The atom k of the cell t, in lattice vectors, goes to `image[k]` of t @ plane + cell[k].

    Attributes
    ----------
    plane : (G, 2, 2) integers
    image : (G, P)
    cell : (G, P, 2) integers
    proper : (G,) whether it is a rotation of space, which a layer can undergo
    """

    plane: NDArray[np.int64]
    image: NDArray[np.intp]
    cell: NDArray[np.int64]
    proper: NDArray[np.bool_]


def symmetries(parent: Atoms) -> Symmetries:
    """Those of a parent in the standard form; the identity alone where none are found."""
    lattice, P = parent.cell.array[:2, :2], len(parent)
    heights = parent.positions[:, 2] - parent.positions[:, 2].mean()
    fractions = parent.positions[:, :2] @ np.linalg.inv(lattice)
    found = layer_symmetry(parent.numbers, parent.positions, parent.cell.array, parent.pbc, SYMPREC)
    if found is None:
        one = np.eye(2, dtype=np.int64)[None]
        no_cell = np.zeros((1, P, 2), dtype=np.int64)
        return Symmetries(one, np.arange(P)[None], no_cell, np.array([True]))
    change = found.lattice[:, :2] @ np.linalg.inv(lattice)
    plane = np.round(np.linalg.inv(change) @ found.plane @ change).astype(np.int64)
    images = fractions @ plane + (found.shift[:, :2] @ change)[:, None]
    gaps = images[:, :, None] - fractions  # (G, P, P, 2)
    off = np.linalg.norm((gaps - np.round(gaps)) @ lattice, axis=-1)
    off += abs((found.flip[:, None] * heights)[..., None] - heights)
    off[:, parent.numbers[:, None] != parent.numbers] = np.inf
    image = off.argmin(-1)
    cell = np.round(np.take_along_axis(gaps, image[:, :, None, None], axis=2)[:, :, 0])
    proper = np.round(np.linalg.det(plane)) * found.flip > 0
    return Symmetries(plane, image, cell.astype(np.int64), proper)


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
    for rows in _cells(layer, parent, cells):
        for farthest, sites, cell in _placed(layer, parent, species, rows):
            if farthest < least - 1e-6:
                best, least = (sites, cell), farthest
        if least < ON_THE_SITES:
            break
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
    sites, cell = best
    return Match(_ideal(layer, sites, cell), least)


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


def _cells(layer: Atoms, parent: Atoms, cells: int) -> list[NDArray[np.int64]]:
    """Pairs of lattice vectors of the parent, as integer rows, that the structure's may be.

    The least strained come first. Of pairs that a rotation in the symmetry of the parent makes from
    each other there is one, as all of them place the structure alike.
    """
    ours, theirs = layer.cell.array[:2, :2], parent.cell.array[:2, :2]
    ours = ours * np.sqrt(cells * _area(theirs) / _area(ours))
    lengths = np.linalg.norm(ours, axis=1)
    reach = int(np.ceil(lengths.max() * (1 + LONGEST_STRAIN) * _longest_row(theirs))) + 1
    grid = np.arange(-reach, reach + 1)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    norms = np.linalg.norm(points @ theirs, axis=1)
    first, second = (points[abs(norms / length - 1) < LONGEST_STRAIN] for length in lengths)
    pairs = np.stack(
        [np.repeat(first, len(second), axis=0), np.tile(second, (len(first), 1))], axis=1
    )
    areas = pairs[:, 0, 0] * pairs[:, 1, 1] - pairs[:, 0, 1] * pairs[:, 1, 0]
    found = symmetries(parent)
    rotations = found.plane[found.proper]
    seen: set[bytes] = set()
    strains, kept = [], []
    for rows in pairs[abs(areas) == cells]:
        if rows.tobytes() in seen:
            continue
        seen.update((rows @ one).tobytes() for one in rotations)
        strain = _strain(rows @ theirs, ours)
        if strain < LONGEST_STRAIN:
            strains.append(strain)
            kept.append(rows)
    return [kept[k] for k in np.argsort(strains, kind="stable")]


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
    # Sites of one kind are the same but for a translation of the lattice of sites.
    for site in np.unique(kinds, return_index=True)[1]:
        if not allowed[rarest, site]:
            continue
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


Arrangement = tuple[int, int, int, bytes]


def canonical(ideal: Atoms, parent: Atoms, found: Symmetries) -> Arrangement:
    """The same for arrangements that a symmetry maps onto each other, whatever their cell.

    And for no others: the smallest cell with the arrangement, as the Hermite normal form of its
    lattice vectors (Hart and Forcade, Phys. Rev. B 77, 224115, 2008) and the atomic number on every
    site, of all images by symmetry and by translation the first in order.

    Parameters
    ----------
    ideal : on the sites of the parent, as `match` gives it
    found : the symmetries of the parent
    """
    form, occupied = _smallest(*_occupied(ideal, parent))
    forms = [_hermite(_rows(form) @ plane) for plane in found.plane]
    first = min(forms)
    cells = _points(form)
    images = set()
    for g in np.flatnonzero([one == first for one in forms]):
        places = cells[:, None] @ found.plane[g] + found.cell[g]  # (n, P, 2)
        image = np.empty_like(occupied)
        image[_wrapped(places, first), found.image[g]] = occupied
        images.add(min(one.tobytes() for one in _translated(image, first)))
    return (*first, min(images))


Form = tuple[int, int, int]
"""a, b and d of the lattice vectors (a, b) and (0, d), 0 <= b < d: Hermite's normal form."""


def _rows(form: Form) -> NDArray[np.int64]:
    a, b, d = form
    return np.array([[a, b], [0, d]])


def _points(form: Form) -> NDArray[np.int64]:
    """(n, 2) cells, in the order in which `_wrapped` counts them."""
    grid = np.meshgrid(np.arange(form[0]), np.arange(form[2]), indexing="ij")
    return np.stack(grid, axis=-1).reshape(-1, 2)


def _wrapped(cells: NDArray[np.int64], form: Form) -> NDArray[np.int64]:
    """(...) number of the cell of each of (..., 2) cells, translations apart."""
    a, b, d = form
    turns, row = np.divmod(cells[..., 0], a)
    number: NDArray[np.int64] = row * d + (cells[..., 1] - turns * b) % d
    return number


def _hermite(vectors: NDArray[np.int64]) -> Form:
    """Normal form of the lattice that integer vectors (V, 2) span."""
    a, b, d = 0, 0, 0
    for x, y in vectors.tolist():
        while x:
            turns = a // x
            a, b, x, y = x, y, a - turns * x, b - turns * y
        d = gcd(d, y)
    if a < 0:
        a, b = -a, -b
    return a, b % d, d


def _occupied(ideal: Atoms, parent: Atoms) -> tuple[Form, NDArray[np.int64]]:
    """The cell of an arrangement, and (n, P) atomic numbers."""
    inverse = np.linalg.inv(parent.cell.array[:2, :2])
    form = _hermite(np.round(ideal.cell.array[:2, :2] @ inverse).astype(np.int64))
    gaps = ideal.positions[:, None] - parent.positions
    gaps[..., 2] += parent.positions[:, 2].mean() - ideal.positions[:, 2].mean()
    fractions = gaps[..., :2] @ inverse
    cells = np.round(fractions).astype(np.int64)
    off = np.linalg.norm((fractions - cells) @ parent.cell.array[:2, :2], axis=-1)
    kinds = (off + abs(gaps[..., 2])).argmin(1)
    places = _wrapped(cells[np.arange(len(ideal)), kinds], form)
    occupied = np.zeros((form[0] * form[2], len(parent)), dtype=np.int64)
    occupied[places, kinds] = ideal.numbers
    if not occupied.all():
        raise StructureError("two of its atoms are on one site of the parent")
    return form, occupied


def _translated(occupied: NDArray[np.int64], form: Form) -> NDArray[np.int64]:
    """(n, n, P) numbers after a translation by each of the cells."""
    cells = _points(form)
    return occupied[_wrapped(cells[:, None] + cells, form)]


def _smallest(form: Form, occupied: NDArray[np.int64]) -> tuple[Form, NDArray[np.int64]]:
    """The same in the smallest cell that has the arrangement."""
    same = (_translated(occupied, form) == occupied).all((1, 2))
    smaller = _hermite(np.concatenate([_rows(form), _points(form)[same]]))
    return smaller, occupied[_wrapped(_points(smaller), form)]
