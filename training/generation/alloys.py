"""Alloys of a layer: all distinct cells up to a size, special quasirandom ones, or random ones.

icet enumerates (Hart and Forcade, Phys. Rev. B 77, 224115, 2008) and makes quasirandom structures
(Zunger et al., Phys. Rev. Lett. 65, 353, 1990).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd, sqrt
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.data import chemical_symbols

from mlff2d import slab
from mlff2d.errors import StructureError
from mlff2d.symmetry import reduced

from .elements import covalent_radius
from .layers import reduced_formula, standard

_PAIRS, _TRIPLETS = 2.6, 1.6  # lattice constants up to which a quasirandom cell is judged


@dataclass(frozen=True)
class Sublattice:
    """The sites of one element of the parent, and the species that share them."""

    element: str
    species: tuple[str, ...]


class Alloy:
    """A parent and which of its sites are shared by which species.

    Parameters
    ----------
    parent : a layer, best primitive
    sublattices : one or more, each of another element
    end_members : layers with the parent's structure and another species in place of one element:
        lattice constants follow Vegard's law between these and the parent, those of species
        without one follow covalent radii
    phase : 1H, 1T, ...; by default `info["phase"]` or `info["prototype"]` of the parent

    Raises StructureError for what is no layer, where the parent lacks an element, for a species
    that is no element, and for an end member that is none.
    """

    def __init__(
        self,
        parent: Atoms,
        sublattices: Sequence[Sublattice],
        end_members: Sequence[Atoms] = (),
        phase: str = "",
    ) -> None:
        self.phase = phase or str(parent.info.get("phase") or parent.info.get("prototype") or "")
        self.prototype = parent.info.get("prototype")
        self.parent = standard(parent)
        self.sublattices = list(sublattices)
        symbols = list(self.parent.symbols)
        for sub in self.sublattices:
            if sub.element not in symbols:
                raise StructureError(
                    f"{reduced_formula(self.parent)} has no {sub.element}; name the element of the "
                    f"parent whose sites are shared: {', '.join(sorted(set(symbols)))}"
                )
        self._refuse_species()
        self.n_sites = sum(symbols.count(sub.element) for sub in self.sublattices)
        self._sizes = {(s.element, one): self._guess(s.element, one) for s, one in self._places()}
        for end in end_members:
            self._measure(_end_member(end))

    def _refuse_species(self) -> None:
        """Each species must be an element and tell its sublattice."""
        shared = [sub.element for sub in self.sublattices]
        if len(set(shared)) < len(shared):
            raise StructureError(f"give each element once, not {', '.join(shared)}")
        for _, one in self._places():
            if one not in chemical_symbols[1:]:
                raise StructureError(f"{one!r} is no element; give symbols, such as Mo and W")
        kept = [[s] for s in set(self.parent.symbols) - set(shared)]
        seen: set[str] = set()
        for species in [*kept, *(list(sub.species) for sub in self.sublattices)]:
            for one in species:
                if one in seen:
                    raise StructureError(
                        f"{one} would stand on two kinds of sites; give each species once"
                    )
                seen.add(one)

    def _places(self) -> Iterator[tuple[Sublattice, str]]:
        return ((sub, species) for sub in self.sublattices for species in sub.species)

    def _guess(self, element: str, species: str) -> tuple[float, float]:
        """Factors on lattice and thickness where a species takes an element's place, by radii."""
        others = [s for s in self.parent.symbols if s != element] or [species]
        rest = float(np.mean([covalent_radius(s) for s in others]))
        factor = (covalent_radius(species) + rest) / (covalent_radius(element) + rest)
        return factor, factor

    def _measure(self, end: Atoms) -> None:
        """Take the factors of an end member."""
        for sub, species in self._places():
            made = self.parent.copy()
            made.symbols[made.symbols == sub.element] = species
            if reduced_formula(made) == reduced_formula(end):
                self._sizes[sub.element, species] = _size(end, self.parent)
                return
        raise StructureError(
            f"{reduced_formula(end)} is no end member of {self.system} made from "
            f"{reduced_formula(self.parent)}; leave it out, or give its species to a sublattice"
        )

    @property
    def system(self) -> str:
        """Name of the alloy, species in the order given: MoWS2, or (MoW)3(CN)2."""
        return self._name({sub.element: sub.species for sub in self.sublattices})

    def _name(self, shared: dict[str, tuple[str, ...]]) -> str:
        counts = self.parent.symbols.formula.convert("metal").count()
        divisor = reduce(gcd, counts.values())
        name = ""
        for element, count in counts.items():
            species = shared.get(element, (element,))
            number = count // divisor
            what = "".join(species)
            name += what if number == 1 else f"{f'({what})' if species[1:] else what}{number}"
        return name

    def finished(self, decorated: Atoms, kind: str, number: int) -> Atoms:
        """A decorated cell on the parent's lattice with its own lattice, its name and its info.

        `kind` and `number` make the name: MoWS2-1H-c4-012. An end member is called by its formula.
        """
        shares = [self._shares(decorated, sub) for sub in self.sublattices]
        lattice = thick = 1.0
        for sub, share in zip(self.sublattices, shares, strict=True):
            for species, x in share.items():
                lattice += x * (self._sizes[sub.element, species][0] - 1)
                thick += x * (self._sizes[sub.element, species][1] - 1)
        made = _scaled(decorated, lattice, thick)
        present = {
            sub.element: tuple(s for s in sub.species if share[s] > 0)
            for sub, share in zip(self.sublattices, shares, strict=True)
        }
        mixed = any(len(species) > 1 for species in present.values())
        system = self.system if mixed else self._name(present)
        parts = [system, self.phase, f"{kind}-{number:03d}" if mixed else ""]
        config = "-".join(part for part in parts if part)
        info: dict[str, Any] = {"material": config, "mode": "alloy", "system": system}
        info |= {"config": config, "parent": reduced_formula(self.parent)}
        info["nfu"] = len(made) // self._atoms_per_unit()
        info |= {"phase": self.phase} if self.phase else {}
        info |= {"prototype": self.prototype} if self.prototype else {}
        if len(shares) == 1 and len(shares[0]) == 2:
            info["x"] = list(shares[0].values())[1]
        info |= {f"x_{species}": x for share in shares for species, x in share.items()}
        made.info = info
        return made

    def _shares(self, decorated: Atoms, sub: Sublattice) -> dict[str, float]:
        """The share of each species in the sites of a sublattice."""
        counts = {species: list(decorated.symbols).count(species) for species in sub.species}
        return {species: count / sum(counts.values()) for species, count in counts.items()}

    def counts(
        self, sub: Sublattice, cells: int, share: float, exactly: bool = True
    ) -> dict[str, int]:
        """How many sites each species of a sublattice has, the last a share of them.

        Raises StructureError where that is no whole number and `exactly` is asked for.
        """
        n = cells * list(self.parent.symbols).count(sub.element)
        others = len(sub.species) - 1
        parts = [(1 - share) / others] * others + [share] if others else [1.0]
        whole = [round(part * n) for part in parts]
        if exactly and any(abs(w - part * n) > 1e-6 for w, part in zip(whole, parts, strict=True)):
            raise StructureError(
                f"{n} sites of {sub.element} cannot be shared as {parts}; change --cells or --x"
            )
        whole[0] += n - sum(whole)
        return dict(zip(sub.species, whole, strict=True))

    def _atoms_per_unit(self) -> int:
        return len(self.parent) // reduce(gcd, self.parent.symbols.formula.count().values())

    def species(self) -> list[list[str]]:
        """For each atom of the parent the species that may stand there."""
        shared = {sub.element: list(sub.species) for sub in self.sublattices}
        return [shared.get(symbol, [symbol]) for symbol in self.parent.symbols]


def distinct(alloy: Alloy, max_sites: int) -> Iterator[Atoms]:
    """All cells of up to `max_sites` shared sites that no symmetry maps onto each other.

    Small cells come first. Raises ValueError where icet is missing, StructureError where the parent
    alone has more sites.
    """
    require_icet()
    from icet.tools import enumerate_structures

    if alloy.n_sites > max_sites:
        raise StructureError(
            f"its smallest cell has {alloy.n_sites} shared sites, and --max-sites is {max_sites}"
        )
    for cells in range(1, max_sites // alloy.n_sites + 1):
        found = enumerate_structures(alloy.parent, [cells], alloy.species())
        for number, decorated in enumerate(found):
            yield alloy.finished(decorated, f"c{cells * alloy.n_sites}", number)


def quasirandom(
    alloy: Alloy, cells: int, shares: Sequence[float], n: int, seed: int
) -> Iterator[Atoms | StructureError]:
    """`n` special quasirandom structures of `cells` primitive cells for each share.

    A share is that of the last species of each sublattice; the others have equal parts of the
    rest. A share that the cell cannot have, or that mixes nothing, is a StructureError in place of
    its structures. Raises ValueError where icet is missing.
    """
    require_icet()
    from icet import ClusterSpace
    from icet.tools.structure_generation import generate_sqs_from_supercells

    bulk = alloy.parent.copy()
    bulk.pbc = True  # the vacuum keeps layers apart, and icet knows clusters in bulk
    a = bulk.cell.lengths()[:2].max()
    space = ClusterSpace(bulk, [_PAIRS * a, _TRIPLETS * a], alloy.species())
    supercell = compact(bulk, cells)
    for place, share in enumerate(shares):
        try:
            counts = [alloy.counts(sub, cells, share) for sub in alloy.sublattices]
        except StructureError as error:
            yield error
            continue
        if not any(len([n for n in one.values() if n]) > 1 for one in counts):
            yield StructureError(f"a share of {share:g} leaves nothing to mix; change --x")
            continue
        target = _concentrations(space, counts)
        for k in range(n):
            made = generate_sqs_from_supercells(
                space, [supercell], target, random_seed=_whole([seed, cells, place, k])
            )
            yield alloy.finished(made, f"sqs{cells}", place * n + k)


def random_cells(
    alloy: Alloy, cells: int, shares: Sequence[float], n: int, seed: int
) -> Iterator[Atoms]:
    """`n` cells of `cells` primitive cells for each share, their species drawn by chance.

    Shares are as in `quasirandom`, but rounded to what the cell can have.
    """
    supercell = compact(alloy.parent, cells)
    for place, share in enumerate(shares):
        for k in range(n):
            rng = np.random.default_rng([seed, cells, place, k])
            made = supercell.copy()
            symbols = np.array(list(supercell.symbols), dtype=object)
            for sub in alloy.sublattices:
                counts = alloy.counts(sub, cells, share, exactly=False)
                drawn = np.repeat(list(counts), list(counts.values()))
                symbols[np.array(list(supercell.symbols)) == sub.element] = rng.permutation(drawn)
            made.symbols = symbols.tolist()
            yield alloy.finished(made, f"r{cells}", place * n + k)


def compact(atoms: Atoms, cells: int) -> Atoms:
    """The supercell of so many cells in the plane whose images are farthest apart."""
    best, widest = None, -1.0
    for rows in divisors(cells):
        for slant in range(cells // rows):
            matrix = np.array([[rows, slant], [0, cells // rows]])
            a, _ = reduced(*(matrix @ atoms.cell.array[:2]))
            if np.linalg.norm(a) > widest + 1e-6:
                best, widest = matrix, float(np.linalg.norm(a))
    assert best is not None
    return make_supercell(atoms, np.block([[best, np.zeros((2, 1))], [np.zeros((1, 2)), 1]]))


def divisors(number: int) -> list[int]:
    """Those of a whole number, from 1 on."""
    return [k for k in range(1, number + 1) if number % k == 0]


def _concentrations(space: Any, counts: list[dict[str, int]]) -> dict[str, Any]:
    """What icet calls the concentrations: per sublattice where it names several."""
    targets = [{s: n / sum(one.values()) for s, n in one.items()} for one in counts]
    if len(targets) == 1:
        return targets[0]
    lattices = space.get_sublattices(space.primitive_structure).active_sublattices
    return {
        lattice.symbol: next(t for t in targets if set(t) == set(lattice.chemical_symbols))
        for lattice in lattices
    }


def _whole(seeds: list[int]) -> int:
    return int(np.random.default_rng(seeds).integers(2**31))


def _end_member(atoms: Atoms) -> Atoms:
    try:
        return standard(atoms)
    except StructureError as error:
        raise StructureError(f"the end member {reduced_formula(atoms)}: {error}") from error


def _size(atoms: Atoms, beside: Atoms) -> tuple[float, float]:
    """Factors on lattice and thickness from one layer to another with the same structure."""
    area, there = (slab.area(one.cell.array, one.pbc) / len(one) for one in (atoms, beside))
    thick, other = (float(np.ptp(one.positions[:, 2])) for one in (atoms, beside))
    return sqrt(area / there), thick / other if other > 0.1 else 1.0


def _scaled(atoms: Atoms, lattice: float, thick: float) -> Atoms:
    """The layer with its lattice and its thickness scaled, in the standard form."""
    scaled = atoms.copy()
    scaled.pbc = (True, True, False)
    factors = np.array([lattice, lattice, thick])
    height = float(scaled.cell.array[2, 2])
    scaled.set_cell(scaled.cell.array * factors)
    scaled.positions = scaled.positions * factors
    return standard(scaled, height)


def require_icet() -> None:
    """Raise ValueError where the package that enumerates is missing."""
    try:
        logging.getLogger("trainstation").setLevel(logging.ERROR)
        import icet  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "alloys are enumerated by the package icet: pip install 'mlff2d[alloys]', "
            "or make random cells with --random"
        ) from error
