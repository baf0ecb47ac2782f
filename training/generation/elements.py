"""The elements that generated structures are made of: classes, charges, radii, chemical distance.

Elements are named by their symbols throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import yaml
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from mlff2d.errors import StructureError, nearest

ELEMENTS = tuple(chemical_symbols[z] for z in chain(range(1, 84), range(89, 95)))
"""The 89 that universal potentials know: H to Bi and Ac to Pu."""

_NOBLE = (2, 10, 18, 36, 54, 86)  # what closes each period
_LANTHANIDES = range(57, 72)
_ACTINIDES = range(89, 95)


@cache
def period(symbol: str) -> int:
    """Row of the periodic table, from 1."""
    return 1 + sum(atomic_numbers[symbol] > z for z in _NOBLE)


@cache
def group(symbol: str) -> float:
    """Column of the periodic table, 1 to 18; lanthanides and actinides follow in group 3.

    They lie from 3 to below 4, in steps of a fifteenth, so that their order counts for something.
    """
    z = atomic_numbers[symbol]
    for series in (_LANTHANIDES, _ACTINIDES):
        if z in series:
            return 3 + (z - series[0]) / 15
    if symbol == "He":
        return 18.0
    last = _NOBLE[period(symbol) - 2] if z > 2 else 0
    column, length = z - last, _NOBLE[period(symbol) - 1] - last
    return float(column if column <= 2 else column + 18 - length)


def _columns(*columns: int) -> frozenset[str]:
    return frozenset(s for s in ELEMENTS if group(s) in columns)


_METALLOIDS = frozenset({"B", "Si", "Ge", "As", "Sb", "Te"})
_LANTHANIDE = frozenset(chemical_symbols[z] for z in _LANTHANIDES)
_ACTINIDE = frozenset(chemical_symbols[z] for z in _ACTINIDES)
_POST_TRANSITION = frozenset({"Al", "Ga", "In", "Tl", "Sn", "Pb", "Bi"})

CLASSES: dict[str, frozenset[str]] = {
    "alkali": _columns(1) - {"H"},
    "alkaline-earth": _columns(2),
    "transition": _columns(*range(3, 13)) - _LANTHANIDE - _ACTINIDE,
    "lanthanide": _LANTHANIDE,
    "actinide": _ACTINIDE,
    "post-transition": _POST_TRANSITION,
    "metalloid": _METALLOIDS,
    "tetrel": _columns(14),
    "pnictogen": _columns(15),
    "chalcogen": _columns(16),
    "halogen": _columns(17),
    "noble": _columns(18),
}
CLASSES["metal"] = frozenset().union(
    *(CLASSES[c] for c in ("alkali", "alkaline-earth", "transition", "lanthanide", "actinide")),
    _POST_TRANSITION,
)
"""Names for sets of elements; "metal" are all of the first six."""


@cache
def _radii() -> Mapping[str, Mapping[int, float]]:
    text = Path(__file__).with_name("elements.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def oxidation_states(symbol: str) -> tuple[int, ...]:
    """The common ones of an element; none of a noble gas."""
    return tuple(_radii().get(symbol, {}))


def ionic_radius(symbol: str, state: int) -> float:
    """Å, of an ion with six neighbours. Raises KeyError for a state that is not common."""
    return _radii()[symbol][state]


def covalent_radius(symbol: str) -> float:
    """Å; B. Cordero et al., Dalton Trans. 2832 (2008), as in ASE."""
    return float(covalent_radii[atomic_numbers[symbol]])


def chemical_distance(first: str, second: str) -> float:
    """How unlike two elements are: columns and rows of the periodic table between them.

    0 for an element and itself, 1 for neighbours in a column or row, below 1 among lanthanides. The
    measure follows Pettifor (Solid State Commun. 51, 31, 1984), who found that structures go with
    the column first and the row next; here both count alike, and H is in columns 1 and 17.
    """
    columns = min(abs(a - b) for a in _places(first) for b in _places(second))
    return float((columns**2 + (period(first) - period(second)) ** 2) ** 0.5)


def _places(symbol: str) -> tuple[float, ...]:
    return (1.0, 17.0) if symbol == "H" else (group(symbol),)


@cache
def neighbours(symbol: str, within: float = 2.0) -> tuple[str, ...]:
    """Elements at most so far from one by `chemical_distance`, the nearest first, not itself."""
    found = [(chemical_distance(symbol, other), other) for other in ELEMENTS if other != symbol]
    return tuple(
        other
        for distance, other in sorted(found, key=lambda f: (f[0], atomic_numbers[f[1]]))
        if distance <= within
    )


def require_elements(symbols: Iterable[str]) -> tuple[str, ...]:
    """Symbols or names of classes as symbols, each once, in the order of the table.

    Raises StructureError for a word that is neither, naming the nearest.
    """
    found: set[str] = set()
    for word in symbols:
        if word in CLASSES:
            found |= CLASSES[word]
        elif word in ELEMENTS:
            found.add(word)
        else:
            raise StructureError(
                f"{word!r} is neither one of the {len(ELEMENTS)} elements known here nor a class "
                f"of them.{nearest(word, [*CLASSES, *ELEMENTS])}"
            )
    return tuple(s for s in ELEMENTS if s in found)


def chosen_elements(wanted: Sequence[str], left_out: Sequence[str]) -> tuple[str, ...]:
    """Those of symbols and classes, all where none are given, without those left out.

    Raises StructureError for a word that is neither, and where nothing is left.
    """
    without = set(require_elements(left_out))
    left = tuple(s for s in require_elements(wanted or ELEMENTS) if s not in without)
    if not left:
        raise StructureError("No element is left; name more elements, or leave out fewer.")
    return left
