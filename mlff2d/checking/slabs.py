"""Slabs on which a potential is checked, and the ways in which one slab can be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from ase import Atoms
from ase.build import fcc111, graphene, mx2
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.floating]

HEIGHT = 20.0
"""Å, of the cells of the slabs."""

RATTLE = 0.08
"""Å, the standard deviation by which atoms are moved: symmetry would hide faults."""

MOST = 3

# Of each kind the first is taken whose elements are known; lattice constants in Å are round.
_KINDS: tuple[dict[str, Callable[[], Atoms]], ...] = (
    {
        "1H-MoS2": lambda: mx2("MoS2", "2H", 3.18, 3.13),
        "1H-WS2": lambda: mx2("WS2", "2H", 3.18, 3.14),
        "1H-MoSe2": lambda: mx2("MoSe2", "2H", 3.32, 3.34),
        "1H-WSe2": lambda: mx2("WSe2", "2H", 3.32, 3.36),
        "1H-NbS2": lambda: mx2("NbS2", "2H", 3.35, 3.13),
        "1H-TaS2": lambda: mx2("TaS2", "2H", 3.34, 3.13),
    },
    {
        "graphene": lambda: graphene("C2", a=2.46),
        "hBN": lambda: graphene("BN", a=2.51),
        "silicene": lambda: graphene("Si2", a=3.87, thickness=0.45),
        "germanene": lambda: graphene("Ge2", a=4.06, thickness=0.69),
    },
    {
        f"{metal} bilayer": partial(fcc111, metal, (1, 1, 2), a=a)
        for metal, a in {"Cu": 3.6, "Au": 4.1, "Ag": 4.1, "Al": 4.05, "Ni": 3.5, "Pt": 3.9}.items()
    },
    {
        "1T-TiS2": lambda: mx2("TiS2", "1T", 3.41, 2.85),
        "1T-ZrS2": lambda: mx2("ZrS2", "1T", 3.68, 2.90),
        "1T-PtSe2": lambda: mx2("PtSe2", "1T", 3.75, 2.66),
        "1T-MoS2": lambda: mx2("MoS2", "1T", 3.18, 3.13),
        "1T-WS2": lambda: mx2("WS2", "1T", 3.18, 3.14),
        "1T-TaS2": lambda: mx2("TaS2", "1T", 3.36, 3.0),
    },
)


def bundled(elements: Iterable[int]) -> dict[str, Atoms]:
    """Rattled slabs of these elements (atomic numbers), by name; at least one.

    Known materials where the elements allow, each of another kind, `MOST` at most. Else prototypes
    with bonds as long as covalent radii say, whose names tell that they are made up.
    """
    known, found = {int(z) for z in elements}, {}
    for kind in _KINDS:
        for name, build in kind.items():
            atoms = build()
            if known.issuperset(atoms.numbers):
                found[name] = rattled(atoms)
                break
    return dict(list(found.items())[:MOST]) or _made_up(sorted(known))


def rattled(atoms: Atoms) -> Atoms:
    """Two cells of a layer, rattled, in the middle of a cell of `HEIGHT`, pbc TTF."""
    atoms = atoms * (2, 1, 1)
    atoms.rattle(RATTLE, seed=0)
    return in_cell(atoms, HEIGHT)


def in_cell(atoms: Atoms, height: float) -> Atoms:
    """The layer in the middle of an upright cell of a height in Å, pbc TTF; in place."""
    atoms.set_cell([*atoms.cell[:2], [0, 0, height]])
    atoms.center(axis=2)
    atoms.pbc = (True, True, False)
    return atoms


def bilayer(z: int) -> Atoms:
    """Two close-packed layers of one element, bonds as long as covalent radii say, rattled."""
    bond = 2 * _radius(z)
    return rattled(fcc111(chemical_symbols[z], (1, 1, 2), a=bond * np.sqrt(2)))


def _made_up(elements: list[int]) -> dict[str, Atoms]:
    """A bilayer, and with two elements a layer like 1H-MoS2 whose metal has the longer radius."""
    by_size = sorted(elements, key=_radius)
    x, m = by_size[0], by_size[-1]
    found = {f"{chemical_symbols[m]} bilayer (made up)": bilayer(m)}
    if m != x:
        formula = f"{chemical_symbols[m]}{chemical_symbols[x]}2"
        scale = (_radius(m) + _radius(x)) / 2.41  # Å, the bond of MoS2
        layer = mx2(formula, "2H", 3.18 * scale, 3.13 * scale)
        found[f"1H-{formula} (made up)"] = rattled(layer)
    return found


def _radius(z: int) -> float:
    """Covalent radius in Å; ASE writes 0.2 for elements of which none is known.

    At least 0.7 Å: packed closely, smaller atoms would have many hundreds of neighbours.
    """
    return max(0.7, float(covalent_radii[z]) if covalent_radii[z] > 0.2 else 1.5)


@dataclass(frozen=True)
class Way:
    """A slab written in another way.

    Attributes
    ----------
    atoms : M atoms, M being a multiple of N
    rotation : (3, 3) that was applied, possibly with a mirror
    source : (M,) which of the N atoms each one is
    """

    atoms: Atoms
    rotation: Array = field(default_factory=lambda: np.eye(3))
    source: NDArray[np.intp] | None = None


def _height(empty: float, pbc: bool | tuple[bool, bool, bool]) -> Callable[[Atoms], Way]:
    def rewrite(atoms: Atoms) -> Way:
        in_cell(atoms, float(np.ptp(atoms.positions[:, 2])) + empty)
        atoms.pbc = pbc
        return Way(atoms)

    return rewrite


def _third(vector: tuple[float, float, float], pbc: bool = False) -> Callable[[Atoms], Way]:
    def rewrite(atoms: Atoms) -> Way:
        atoms.cell[2] = vector
        atoms.pbc = (True, True, pbc)
        return Way(atoms)

    return rewrite


def _vectors(order: list[int], pbc: tuple[bool, bool, bool]) -> Callable[[Atoms], Way]:
    def rewrite(atoms: Atoms) -> Way:
        atoms.set_cell(atoms.cell.array[order])
        atoms.pbc = pbc
        return Way(atoms)

    return rewrite


def _straddling(pbc: bool) -> Callable[[Atoms], Way]:
    def rewrite(atoms: Atoms) -> Way:
        atoms.positions[:, 2] += atoms.cell[2, 2] / 2
        atoms.pbc = True
        atoms.wrap()
        atoms.pbc = (True, True, pbc)
        return Way(atoms)

    return rewrite


def _sheared(atoms: Atoms) -> Way:
    a, b, c = atoms.cell.array
    atoms.set_cell([a, b + 2 * a, c])
    return Way(atoms)


def _turned(rotation: Array) -> Callable[[Atoms], Way]:
    def rewrite(atoms: Atoms) -> Way:
        atoms.set_cell(atoms.cell.array @ rotation.T)
        atoms.positions = atoms.positions @ rotation.T
        return Way(atoms, rotation)

    return rewrite


def _moved(atoms: Atoms) -> Way:
    atoms.positions += (1.3, -7.1, 2.9)
    return Way(atoms)


def _reversed(atoms: Atoms) -> Way:
    order = np.arange(len(atoms))[::-1]
    return Way(atoms[order], source=order)


def _repeated(atoms: Atoms) -> Way:
    return Way(atoms * (2, 2, 1), source=np.tile(np.arange(len(atoms)), 4))


_TTF, _TTT = (True, True, False), (True, True, True)

WAYS: dict[str, Callable[[Atoms], Way]] = {
    **{f"vacuum of {x} Å": _height(x, _TTF) for x in (4.6, 12, 27)},
    **{f"vacuum of {x} Å TTT": _height(x, _TTT) for x in (4.6, 12, 27)},
    "no third vector": _third((0.0, 0.0, 0.0)),
    "short third vector": _third((0.0, 0.0, 1.0)),
    "tilted": _third((5.0, -3.0, 22.0)),
    "tilted TTT": _third((5.0, -3.0, 22.0), pbc=True),
    "left-handed": _third((0.0, 0.0, -HEIGHT)),
    "swapped": _vectors([1, 0, 2], _TTF),
    "vacuum first": _vectors([2, 0, 1], (False, True, True)),
    "vacuum second TTT": _vectors([0, 2, 1], _TTT),
    "straddling": _straddling(False),
    "straddling TTT": _straddling(True),
    "another in-plane cell": _sheared,
    "rotated": _turned(Rotation.from_rotvec([0.7, -1.1, 2.3]).as_matrix()),
    "axes permuted": _turned(np.eye(3)[[2, 0, 1]]),
    "mirrored": _turned(np.diag([1.0, 1.0, -1.0])),
    "translated": _moved,
    "atoms in another order": _reversed,
    "supercell": _repeated,
}
"""Each changes the slab given, which is upright with its first lattice vector along x, pbc TTF."""

TURNS = ("mirrored", "translated", "atoms in another order", "supercell")
"""Those that make another structure of it; the others only write the same one otherwise."""
