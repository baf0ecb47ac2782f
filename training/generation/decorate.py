"""Prototypes with elements put into their slots."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from functools import reduce
from itertools import product
from math import gcd, prod

import numpy as np
from ase import Atoms

from mlff2d.errors import StructureError

from .elements import ELEMENTS
from .guess import Shape
from .prototypes import Prototype, build

Choice = tuple[str, ...]
"""An element for each slot, in the order of the slots."""

MISFIT = 0.25
"""Where a bond deviates by more from what radii ask for, the elements do not fit."""

_ALL = 200_000  # up to so many choices are shuffled as a whole; of more, some are drawn


def decorated(
    prototypes: Sequence[Prototype],
    elements: Collection[str] = ELEMENTS,
    n: int | None = None,
    anything: bool = False,
    seed: int = 0,
) -> Iterator[Atoms | StructureError]:
    """Prototypes made of elements: all that there are, one after another, or `n` drawn by chance.

    Of the drawn ones every prototype gives as many as any other, as far as it has them; those of
    one are the same whichever others are drawn from. A structure has `info`: material, mode and
    prototype. In place of elements that do not fit together there is a StructureError.

    Parameters
    ----------
    elements : those to use
    anything : any element in any slot and no balance of charges, in place of the elements that are
        known there and oxidation states that make the layer neutral

    Raises
    ------
    StructureError where none of the prototypes can be made of these elements.
    """
    streams = [
        _structures(p, drawn(p, elements, anything, seed) if n else choices(p, elements, anything))
        for p in prototypes
    ]
    made = _in_turn(streams, n) if n else (atoms for stream in streams for atoms in stream)
    first = next(made, None)
    if first is None:
        names = ", ".join(p.name for p in prototypes)
        raise StructureError(f"Nothing can be made of these elements in the prototypes {names}.")
    yield first
    yield from made


def choices(prototype: Prototype, elements: Collection[str], anything: bool) -> Iterator[Choice]:
    """All that may be put into the slots of a prototype, in the order of the periodic table."""
    allowed = _allowed(prototype, elements, anything)
    return (c for c in product(*allowed) if _accepted(prototype, c, anything))


def drawn(
    prototype: Prototype, elements: Collection[str], anything: bool, seed: int
) -> Iterator[Choice]:
    """What `choices` gives, in a random order; where there are very many, not quite all of it."""
    rng = np.random.default_rng([seed, zlib.crc32(prototype.name.encode())])
    allowed = _allowed(prototype, elements, anything)
    if prod(map(len, allowed)) <= _ALL:
        everything = list(choices(prototype, elements, anything))
        yield from (everything[k] for k in rng.permutation(len(everything)))
        return
    seen: set[Choice] = set()
    for _ in range(_ALL):
        choice = tuple(of_slot[rng.integers(len(of_slot))] for of_slot in allowed)
        if choice not in seen and _accepted(prototype, choice, anything):
            seen.add(choice)
            yield choice


def formula(prototype: Prototype, symbols: Sequence[str]) -> str:
    """The least formula, elements in the order of the slots, such as 'MoS2'."""
    counts = list(prototype.counts.values())
    divisor = reduce(gcd, counts)
    return "".join(
        symbol + (str(count // divisor) if count > divisor else "")
        for symbol, count in zip(symbols, counts, strict=True)
    )


def make(shape: Shape, choice: Sequence[str]) -> Atoms:
    """A prototype with an element in each slot, in standard form.

    Raises StructureError where the elements are so unlike that bonds come out far from the lengths
    that radii ask for.
    """
    prototype = shape.prototype
    symbols = dict(zip(prototype.slots, choice, strict=True))
    geometry = shape.guess(symbols, prototype.balance(symbols))
    name = f"{formula(prototype, choice)}-{prototype.name}"
    if not geometry.misfit <= MISFIT:  # NaN too
        raise StructureError(
            f"{name}: these elements do not fit, a bond would be off by {geometry.misfit:.0%}"
        )
    atoms = build(shape.layer.slots, symbols, geometry.positions, geometry.lattice)
    atoms.info = {"material": name, "mode": "prototype", "prototype": prototype.name}
    return atoms


def _structures(
    prototype: Prototype, choices: Iterator[Choice]
) -> Iterator[Atoms | StructureError]:
    shape: Shape | None = None
    for choice in choices:
        shape = shape or Shape(prototype)
        try:
            yield make(shape, choice)
        except StructureError as error:
            yield error


def _in_turn(
    streams: list[Iterator[Atoms | StructureError]], n: int
) -> Iterator[Atoms | StructureError]:
    """One of each stream in turn, until `n` structures are made or all streams have ended."""
    made = 0
    while streams and made < n:
        left = []
        for stream in streams:
            if made == n:
                return
            item = next(stream, None)
            if item is None:
                continue
            left.append(stream)
            made += isinstance(item, Atoms)
            yield item
        streams = left


def _allowed(
    prototype: Prototype, elements: Collection[str], anything: bool
) -> list[tuple[str, ...]]:
    chosen = set(elements)
    return [
        tuple(s for s in (ELEMENTS if anything else slot.elements) if s in chosen)
        for slot in prototype.slots.values()
    ]


def _accepted(prototype: Prototype, choice: Choice, anything: bool) -> bool:
    """Whether a choice makes a compound, and one that no other choice makes as well."""
    if len(set(choice)) < len(choice):
        return False  # the same element in two slots is another, simpler prototype
    symbols = dict(zip(prototype.slots, choice, strict=True))
    if not anything and not _is_compound(prototype, symbols):
        return False
    if not prototype.alike:
        return True
    one, other = prototype.alike
    exchanged = {**symbols, one: symbols[other], other: symbols[one]}
    in_order = ELEMENTS.index(symbols[one]) < ELEMENTS.index(symbols[other])
    return in_order or not (anything or _is_compound(prototype, exchanged))


def _is_compound(prototype: Prototype, symbols: dict[str, str]) -> bool:
    if any(s not in prototype.slots[slot].elements for slot, s in symbols.items()):
        return False
    return not prototype.neutral or prototype.balance(symbols) is not None
