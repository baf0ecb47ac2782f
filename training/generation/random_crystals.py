"""Random layers with the symmetry of a layer group, as random structure search draws them.

The idea is that of AIRSS (Pickard and Needs, J. Phys. Condens. Matter 23, 053201, 2011) and PyXtal
(Fredericks et al., Comput. Phys. Commun. 261, 107810, 2021): a group is drawn, sites are drawn on
its general and special positions until they hold a composition, with distances and an area that
suit the radii of the elements.

Axes: G operations of a group, M atoms of an orbit, N atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from math import ceil, gcd, pi, sqrt

import moyopy
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from mlff2d.errors import StructureError

from .elements import covalent_radius
from .filters import falls_apart
from .layers import reduced_formula, standard

N_GROUPS = 80
"""Layer groups are numbered from 1 to this."""

CLOSEST = 0.8
"""Times the sum of the covalent radii: atoms are not drawn closer than this."""

_GROUPS_TRIED, _CELLS_TRIED, _SITES_TRIED = 60, 6, 30
_FILLED = (0.35, 0.75)  # share of the layer's volume that spheres of the radii fill
_SPACING = 2.2  # Å of thickness for each atom after the first, at most, and in all:
_MAX_THICKNESS = 9.0
_LOOSER = 1.1  # by which the area grows from one trial to the next
_LARGEST_RATIO = 4
_SAME = 1e-4  # of fractions and Å: images that are one atom
_IMAGES = np.array(list(product((-2, -1, 0, 1, 2), repeat=2)))

Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Group:
    """A layer group in its primitive cell.

    A position (two fractions and a height in Å above the middle) goes to
    (fractions @ plane + shift, flip * height).
    """

    number: int
    plane: NDArray[np.int64]  # (G, 2, 2)
    flip: NDArray[np.int64]  # (G,)
    shift: Array  # (G, 2)

    def images(self, point: Array) -> Array:
        """(G, 3) where the operations take a position."""
        flat = point[:2] @ self.plane + self.shift
        return np.column_stack([flat, self.flip * point[2]])

    def lattice(self, rng: np.random.Generator) -> Array:
        """(2, 2) rows of a random lattice of area 1 that the group leaves as it is."""
        angle, ratio = rng.uniform(pi / 3, 2 * pi / 3), np.exp(rng.uniform(-0.7, 0.7))
        cross = ratio * np.cos(angle)
        metric = np.array([[1.0, cross], [cross, ratio**2]])
        # Averaged over the group, any metric becomes one that the group has.
        metric = np.mean([w @ metric @ w.T for w in self.plane], axis=0)
        rows = np.linalg.cholesky(metric)
        return rows / sqrt(np.linalg.det(rows))

    @lru_cache(maxsize=1000)  # noqa: B019 (groups are kept for good)
    def fixing(self, which: frozenset[int]) -> tuple[Array, Array, Array]:
        """(3, 3 O), (3 O,), (3 O, 3): W - 1 and w of O operations in a row, and the inverse."""
        change = np.zeros((len(which), 3, 3))
        shift = np.zeros((len(which), 3))
        for row, g in enumerate(sorted(which)):
            change[row, :2, :2] = self.plane[g] - np.eye(2)
            change[row, 2, 2] = self.flip[g] - 1
            shift[row, :2] = self.shift[g]
        matrix = np.concatenate(change, axis=1)
        return matrix, shift.ravel(), np.linalg.pinv(matrix)


@cache
def group(number: int) -> Group:
    """The layer group of a number, 1 to 80."""
    found = moyopy.operations_from_layer_number(number, primitive=True)
    rotations = np.array(found.rotations, dtype=np.int64)
    return Group(
        number,
        rotations[:, :2, :2].transpose(0, 2, 1),
        rotations[:, 2, 2],
        np.array(found.translations)[:, :2],
    )


@dataclass(frozen=True)
class Drawn:
    """Draws a composition: how many elements, which, and how many atoms of each.

    Attributes
    ----------
    elements : symbols to draw from
    kinds : least and largest number of different elements
    atoms : least and largest number of atoms of a primitive cell
    """

    elements: tuple[str, ...]
    kinds: tuple[int, int]
    atoms: tuple[int, int]

    def __call__(self, rng: np.random.Generator) -> dict[str, int]:
        """Number of atoms in the cell by element."""
        most = min(self.kinds[1], len(self.elements), self.atoms[1])
        n_kinds = int(rng.integers(min(self.kinds[0], most), most + 1))
        chosen = [str(s) for s in rng.choice(self.elements, n_kinds, replace=False)]
        while True:
            ratio = rng.integers(1, 1 + _LARGEST_RATIO, n_kinds)
            units = _units(int(ratio.sum()), self.atoms)
            if len(units):
                break
            if n_kinds * _LARGEST_RATIO < self.atoms[0]:
                ratio = np.full(n_kinds, 1)
                units = range(ceil(self.atoms[0] / n_kinds), self.atoms[1] // n_kinds + 1)
        return dict(zip(chosen, (ratio * rng.choice(units)).tolist(), strict=True))


@dataclass(frozen=True)
class Given:
    """Draws one of the formulas given, and how many units of it a cell has.

    Raises StructureError, when made, for a formula that is none or does not fit into the cell.
    """

    formulas: tuple[str, ...]
    atoms: tuple[int, int]

    def __post_init__(self) -> None:
        for formula in self.formulas:
            if not len(_units(sum(_unit(formula).values()), self.atoms)):
                low, high = self.atoms
                raise StructureError(f"no whole number of {formula} has {low} to {high} atoms")

    def __call__(self, rng: np.random.Generator) -> dict[str, int]:
        """Number of atoms in the cell by element."""
        counts = _unit(str(rng.choice(self.formulas)))
        k = int(rng.choice(_units(sum(counts.values()), self.atoms)))
        return {symbol: k * n for symbol, n in counts.items()}


def _unit(formula: str) -> dict[str, int]:
    try:
        counts = Formula(formula).count()
        if not counts or not set(counts) <= set(chemical_symbols[1:]):
            raise ValueError("no elements")
    except ValueError as error:
        raise StructureError(f"{formula!r} is no formula; write e.g. MoS2") from error
    divisor = gcd(*counts.values())
    return {symbol: n // divisor for symbol, n in counts.items()}


def _units(size: int, atoms: tuple[int, int]) -> range:
    """How often a formula of so many atoms may be in a cell."""
    return range(ceil(atoms[0] / size), atoms[1] // size + 1)


def random_layers(
    draw: Callable[[np.random.Generator], Mapping[str, int]],
    n: int,
    groups: Sequence[int] = range(1, N_GROUPS + 1),
    seed: int = 0,
) -> Iterator[Atoms | StructureError]:
    """`n` random layers, each connected and seeded by (seed, its number) alone.

    `draw` draws compositions, a `Drawn` or a `Given`; `groups` are the layer groups to draw from.
    `info` gets material and config (a name), layer_group as drawn (what is found may be larger),
    mode "random". Where nothing fits into a layer in many trials, a StructureError stands in its
    place.
    """
    for k in range(n):
        rng = np.random.default_rng([seed, k])
        found = _one(draw, groups, rng)
        if found is None:
            yield StructureError(
                f"random structure {k}: {_GROUPS_TRIED} trials gave no connected layer; allow "
                "fewer atoms, other elements or more layer groups"
            )
            continue
        atoms, number = found
        layer = standard(atoms)
        name = f"{reduced_formula(layer)}-lg{number}-s{seed}-{k:05d}"
        layer.info = {"material": name, "config": name, "mode": "random", "layer_group": number}
        yield layer


def _one(
    draw: Callable[[np.random.Generator], Mapping[str, int]],
    groups: Sequence[int],
    rng: np.random.Generator,
) -> tuple[Atoms, int] | None:
    for _ in range(_GROUPS_TRIED):
        number = int(rng.choice(groups))
        counts = draw(rng)
        for trial in range(_CELLS_TRIED):
            atoms = _crystal(group(number), counts, _LOOSER**trial, rng)
            if atoms is not None and falls_apart(atoms) is None:
                return atoms, number
    return None


def _crystal(
    group: Group, counts: Mapping[str, int], looser: float, rng: np.random.Generator
) -> Atoms | None:
    """A cell of a composition with the symmetry of a group; None where its atoms find no room."""
    n = sum(counts.values())
    spheres = sum(
        4 / 3 * pi * covalent_radius(symbol) ** 3 * many for symbol, many in counts.items()
    )
    mean = sum(covalent_radius(symbol) * many for symbol, many in counts.items()) / n
    thickness = min(rng.uniform(0.0, _SPACING) * (n - 1), _MAX_THICKNESS)
    area = looser * spheres / rng.uniform(*_FILLED) / (thickness + 2 * mean)
    lattice = group.lattice(rng) * sqrt(area)
    places, symbols = np.empty((0, 3)), list[str]()
    for symbol in rng.permutation(sorted(counts)).tolist():
        missing = counts[symbol]
        while missing:
            orbit = _orbit(group, missing, places, symbols, symbol, lattice, thickness, rng)
            if orbit is None:
                return None
            places = np.concatenate([places, orbit])
            symbols += [symbol] * len(orbit)
            missing -= len(orbit)
    cell = np.zeros((3, 3))
    cell[:2, :2] = lattice
    cell[2, 2] = thickness + 20.0
    positions = np.column_stack([places[:, :2] @ lattice, places[:, 2] + cell[2, 2] / 2])
    return Atoms(symbols, positions, cell=cell, pbc=(True, True, False))


def _orbit(
    group: Group,
    most: int,
    places: Array,
    symbols: list[str],
    symbol: str,
    lattice: Array,
    thickness: float,
    rng: np.random.Generator,
) -> Array | None:
    """(M, 3) up to `most` equivalent places with room around each; None where none was found."""
    least = CLOSEST * np.array([covalent_radius(s) + covalent_radius(symbol) for s in symbols])
    for _ in range(_SITES_TRIED):
        orbit = _distinct(group.images(_point(group, thickness, rng)))
        if len(orbit) > most:
            continue
        own = _distances(orbit, orbit, lattice)
        own[own < _SAME] = np.inf  # an atom and itself
        if own.min() < CLOSEST * 2 * covalent_radius(symbol):
            continue
        if (_distances(orbit, places, lattice) >= least).all():
            return orbit
    return None


def _point(group: Group, thickness: float, rng: np.random.Generator) -> Array:
    """(3,) a random position, on a special one of the group more often than not.

    It is moved onto what a few operations, drawn at random, leave in place where they leave
    anything: x (W - 1) = -w, solved by the least change of x.
    """
    point = np.append(rng.random(2), rng.uniform(-0.5, 0.5) * thickness)
    which = frozenset(rng.integers(len(group.plane), size=rng.integers(4)).tolist())
    if not which:
        return point
    matrix, shift, inverse = group.fixing(which)
    off = _nearest(point @ matrix + shift)
    moved = point - off @ inverse
    return moved if np.abs(_nearest(moved @ matrix + shift)).max() < 1e-9 else point


def _nearest(off: Array) -> Array:
    """What is left of fractions, fractions and heights, in turn, without whole lattice vectors."""
    return off - np.where(np.arange(len(off)) % 3 < 2, np.round(off), 0.0)


def _distinct(images: Array) -> Array:
    """Images in the cell, each once."""
    apart = images[:, None] - images
    apart[..., :2] -= np.round(apart[..., :2])
    same = np.abs(apart).max(2) < _SAME
    found = images[~np.tril(same, -1).any(1)]
    found[:, :2] -= np.floor(found[:, :2] + _SAME)
    return found


def _distances(one: Array, other: Array, lattice: Array) -> Array:
    """(images, M, N) Å from each place to each image nearby; `lattice` is not far from reduced."""
    apart = other[None] - one[:, None]
    flat = (apart[None, :, :, :2] + _IMAGES[:, None, None]) @ lattice
    return np.sqrt((flat**2).sum(-1) + apart[None, :, :, 2] ** 2)
