"""Prototypes of two-dimensional materials: read from `prototypes.yaml`, made into structures.

Heights are in Å above the middle of the layer, as a layer group leaves them; the two coordinates in
the plane are fractions of the conventional cell of the layer group, in moyopy's default setting.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

import moyopy
import numpy as np
import yaml
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.errors import StructureError

from .elements import oxidation_states, require_elements
from .layers import standard

Array = NDArray[np.floating]

SAME_PLACE = 1e-3
"""Å. Images of a site closer than this are one atom."""


@dataclass(frozen=True)
class Slot:
    """What may be put in one place of a prototype.

    Attributes
    ----------
    elements : symbols that occur there
    states : charges that they may have there; none where charges are not asked for
    like_bonds : bonds of each atom to its own element, each of which takes one from the charge that
        its oxidation state would give
    """

    elements: tuple[str, ...]
    states: tuple[int, ...]
    like_bonds: int = 0

    def charges(self, symbol: str) -> dict[int, int]:
        """The common oxidation states that an element may have here, by the charges they give."""
        return _charges(symbol, self.states, self.like_bonds)


@cache
def _charges(symbol: str, wanted: tuple[int, ...], like_bonds: int) -> dict[int, int]:
    found = {q - like_bonds * (1 if q > 0 else -1): q for q in oxidation_states(symbol)}
    return {charge: found[charge] for charge in wanted if charge in found}


@dataclass(frozen=True)
class Site:
    """One orbit of atoms.

    Attributes
    ----------
    slot : letter of what sits there
    wyckoff : multiplicity and letter, such as '2c'
    at : (3,) a representative: two fractions and a height in Å
    """

    slot: str
    wyckoff: str
    at: tuple[float, float, float]


@dataclass(frozen=True)
class Prototype:
    """A structure type of layers.

    Attributes
    ----------
    name, aliases : what it is called
    about : what it looks like, and where it was described
    formula : in letters of slots, such as 'MX2'
    layer_group : number, 1 to 80
    lattice : (3,) a and b in Å and γ in degrees, of the reference
    reference : element in each slot of the compound whose lattice and positions are given
    sites : one for each orbit
    slots : what may be in each, by letter, in the order of the formula
    bonds : pairs of slots whose atoms are bonded
    alike : slots that symmetry makes equivalent, so that exchanging them changes nothing
    examples : known compounds: elements in the order of the slots, and (2,) a and b in Å
    """

    name: str
    aliases: tuple[str, ...]
    about: str
    formula: str
    layer_group: int
    lattice: tuple[float, float, float]
    reference: dict[str, str]
    sites: tuple[Site, ...]
    slots: dict[str, Slot]
    bonds: tuple[tuple[str, str], ...]
    alike: tuple[str, ...]
    examples: dict[tuple[str, ...], tuple[float, float]]

    @cached_property
    def neutral(self) -> bool:
        """Whether the charges of its elements add up to zero in the known compounds."""
        return all(slot.states for slot in self.slots.values())

    @cached_property
    def counts(self) -> dict[str, int]:
        """Atoms of each slot in the cell."""
        found = dict.fromkeys(self.slots, 0)
        for site in self.sites:
            found[site.slot] += int(site.wyckoff[:-1])
        return found

    def balance(self, symbols: Mapping[str, str]) -> dict[str, int] | None:
        """Oxidation states in the slots with which the layer is neutral, None where there are none.

        Of several that which comes first in the order of the slots' states.
        """
        if not self.neutral:
            return None
        counts = self.counts
        choices = [slot.charges(symbols[letter]) for letter, slot in self.slots.items()]
        for charges in product(*choices):
            if sum(q * counts[s] for s, q in zip(self.slots, charges, strict=True)) == 0:
                of_slots = zip(self.slots, choices, charges, strict=True)
                return {letter: states[charge] for letter, states, charge in of_slots}
        return None


@dataclass(frozen=True)
class Expanded:
    """The N atoms of a prototype as linear functions of its P free coordinates.

    Positions (fractions, fractions, Å) are `origin + free @ parameters`.

    Attributes
    ----------
    slots : (N,) letters
    origin : (N, 3)
    free : (N, 3, P)
    parameters : (P,) of the reference
    """

    slots: tuple[str, ...]
    origin: Array
    free: Array
    parameters: Array

    def positions(self, parameters: Array | None = None) -> Array:
        """(N, 3) two fractions and a height in Å, not wrapped; of the reference by default."""
        p = self.parameters if parameters is None else parameters
        return self.origin + self.free @ p


def expand(prototype: Prototype) -> Expanded:
    """The atoms of a prototype by the operations of its layer group.

    Raises ValueError where a site has not the multiplicity that is stated.
    """
    slots: list[str] = []
    origins, blocks, parameters = [], [], []
    for site in prototype.sites:
        images, free = _orbit(site, prototype.layer_group, prototype.lattice)
        if len(images) != int(site.wyckoff[:-1]):
            raise ValueError(
                f"{prototype.name}: site {site.wyckoff} of {site.slot} has {len(images)} images"
            )
        # A displacement of the representative moves its images along: free @ parameters.
        rotations = np.array([r for r, _ in images])
        translations = np.array([t for _, t in images])
        along = free.T @ np.array(site.at)
        fixed = np.array(site.at) - free @ along
        origins.append(rotations @ fixed + translations)
        blocks.append(rotations @ free)
        parameters.append(along)
        slots += [site.slot] * len(images)
    total = sum(map(len, parameters))
    whole = np.zeros((len(slots), 3, total))
    row = column = 0
    for block in blocks:
        rows, columns = row + block.shape[0], column + block.shape[2]
        whole[row:rows, :, column:columns] = block
        row, column = rows, columns
    return Expanded(tuple(slots), np.concatenate(origins), whole, np.concatenate(parameters))


def _orbit(
    site: Site, number: int, lattice: tuple[float, float, float]
) -> tuple[list[tuple[Array, Array]], Array]:
    """One operation (rotation, translation) for each image of a site, and its free directions.

    The translations bring the image of the representative there; free directions are (3, P)
    orthonormal columns that the operations which keep the site keep as well.
    """
    operations = moyopy.operations_from_layer_number(number)
    at, plane = np.array(site.at), plane_vectors(*lattice)
    images: list[tuple[Array, Array]] = []
    places: list[Array] = []
    kept = []
    for rotation, translation in zip(operations.rotations, operations.translations, strict=True):
        r, t = np.array(rotation, dtype=float), np.array(translation)
        place = r @ at + t
        if _apart(place, at, plane) < SAME_PLACE:
            kept.append(r)
        if all(_apart(place, other, plane) >= SAME_PLACE for other in places):
            places.append(place)
            images.append((r, t))
    projector = np.mean(kept, axis=0)
    # The mean of the rotations that keep a site projects on what they leave in place.
    left, strength, _ = np.linalg.svd(projector)
    return images, left[:, strength > 0.5]


def _apart(first: Array, second: Array, plane: Array) -> float:
    difference = first - second
    fractions = difference[:2] - np.round(difference[:2])
    return float(np.hypot(np.linalg.norm(fractions @ plane), difference[2]))


def plane_vectors(a: float, b: float, gamma: float) -> Array:
    """(2, 2) rows: the in-plane lattice vectors in Å, a along x."""
    angle = np.radians(gamma)
    return np.array([[a, 0.0], [b * np.cos(angle), b * np.sin(angle)]])


def build(
    slots: tuple[str, ...],
    symbols: dict[str, str],
    positions: Array,
    lattice: tuple[float, float, float],
) -> Atoms:
    """A structure in standard form from elements of slots and positions as in `Expanded`."""
    cell = np.zeros((3, 3))
    cell[:2, :2] = plane_vectors(*lattice)
    cell[2, 2] = 1.0  # `standard` makes the vacuum
    cartesian = np.zeros_like(positions)
    cartesian[:, :2] = positions[:, :2] @ cell[:2, :2]
    cartesian[:, 2] = positions[:, 2]
    atoms = Atoms([symbols[s] for s in slots], cartesian, cell=cell, pbc=(True, True, False))
    return standard(atoms)


@cache
def prototypes() -> dict[str, Prototype]:
    """All of `prototypes.yaml`, by name in its order."""
    text = Path(__file__).with_name("prototypes.yaml").read_text(encoding="utf-8")
    return {name: _parse(name, entry) for name, entry in yaml.safe_load(text).items()}


def find_prototypes(words: Sequence[str]) -> list[Prototype]:
    """Prototypes by name or alias, each once, in the order of the file.

    Raises StructureError for a word that names none, with the nearest that does.
    """
    known = prototypes()
    names = {word: p.name for p in known.values() for word in (p.name, *p.aliases)}
    for word in words:
        if word not in names:
            close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise StructureError(
                f"There is no prototype {word!r}.{hint} "
                f"`mlff2d generate prototypes --list` shows all {len(known)}."
            )
    wanted = {names[word] for word in words}
    return [p for p in known.values() if p.name in wanted]


def _number(value: Any) -> float:
    return float(Fraction(value)) if isinstance(value, str) else float(value)


def _parse(name: str, entry: dict[str, Any]) -> Prototype:
    lattice = entry["lattice"]
    a, b = lattice["a"], lattice.get("b", lattice["a"])
    slots = {
        letter: Slot(
            require_elements(what["of"]), tuple(what.get("states", ())), what.get("like_bonds", 0)
        )
        for letter, what in entry["slots"].items()
    }
    examples = {}
    for compound, lengths in entry.get("examples", {}).items():
        first, second = lengths if isinstance(lengths, list) else (lengths, lengths)
        examples[tuple(compound.split())] = (float(first), float(second))
    return Prototype(
        name=name,
        aliases=tuple(entry.get("aliases", ())),
        about=" ".join(entry["about"].split()),
        formula=entry["formula"],
        layer_group=entry["layer_group"],
        lattice=(a, b, lattice.get("gamma", 90.0)),
        reference=dict(zip(slots, entry["reference"].split(), strict=True)),
        sites=tuple(
            Site(slot, wyckoff, (_number(x), _number(y), _number(z)))
            for slot, wyckoff, x, y, z in entry["sites"]
        ),
        slots=slots,
        bonds=tuple((one, other) for one, other in (b.split("-") for b in entry["bonds"])),
        alike=tuple(entry.get("alike", ())),
        examples=examples,
    )
