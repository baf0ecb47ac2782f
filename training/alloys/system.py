"""An alloy and its configurations: what DFT says of each, and where relaxations of it begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, compress, count
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.errors import StructureError
from mlff2d.reading import iter_structures

from ..generation.alloys import Alloy, Sublattice, require_icet
from ..generation.layers import reduced_formula, standard
from .config import SystemConfig
from .frames import energy_of, energy_per_atom, is_relaxed, name_of, residues
from .match import Arrangement, Symmetries, canonical, match, symmetries

NAMED = 8
"""Configurations that a note names; of more it gives the number."""


@dataclass(frozen=True)
class Configuration:
    """One arrangement of the species on the sites of an alloy, whatever cell it is written in.

    Attributes
    ----------
    system, name : of the alloy, and of this arrangement
    ideal : the arrangement on the sites of the parent, for what works on a lattice
    start : the same on a lattice after Vegard's law; where potentials begin to relax
    shares : species to share of the shared sites
    n_sites : shared sites in `ideal` and `start`
    relaxed : its DFT frame of lowest energy, with labels; None without one that counts as relaxed
    energy : eV per shared site by DFT, of `relaxed`; NaN without
    frames : all its DFT frames
    residues : largest force in eV/Å and largest in-plane stress in N/m of its frame of lowest
        energy, whether that counts as relaxed or not; NaN without frames
    """

    system: str
    name: str
    ideal: Atoms
    start: Atoms
    shares: Mapping[str, float]
    n_sites: int
    relaxed: Atoms | None = None
    energy: float = np.nan
    frames: tuple[Atoms, ...] = ()
    residues: tuple[float, float] = (np.nan, np.nan)

    @property
    def end_member(self) -> str | None:
        """The species that has all shared sites, if one has."""
        return next((s for s, x in self.shares.items() if x == 1), None)

    @property
    def x(self) -> float:
        """Share of the last species."""
        return list(self.shares.values())[-1]

    @property
    def has_dft(self) -> bool:
        """Whether DFT relaxed it."""
        return self.relaxed is not None


def in_bulk(atoms: Atoms) -> Atoms:
    """The same, periodic along all vectors, for icet, which knows no layers."""
    bulk = atoms.copy()
    bulk.pbc = True
    return bulk


class Lattice:
    """The shared sites of an alloy's parent, and what tells arrangements on them apart.

    Attributes
    ----------
    parent : primitive layer in the standard form
    bulk : the same, periodic along all vectors
    species : for each atom of the parent what may stand there
    shared : the species of the shared sites
    shared_mask : (P,) which atoms of the parent are on shared sites
    """

    def __init__(self, alloy: Alloy) -> None:
        require_icet()
        self.parent = alloy.parent
        self.bulk = in_bulk(alloy.parent)
        self.species = alloy.species()
        self.shared = alloy.sublattices[0].species
        self.shared_mask: NDArray[np.bool_] = np.array(
            [tuple(one) == self.shared for one in self.species]
        )
        self.a = float(self.parent.cell.lengths()[:2].max())

    @cached_property
    def _symmetries(self) -> Symmetries:
        return symmetries(self.parent)

    @property
    def n_primitive(self) -> int:
        """Primitive cells in the parent."""
        same = (self._symmetries.plane == np.eye(2)).all((1, 2)) & self._symmetries.proper
        return int(same.sum())

    def on_sites(self, atoms: Atoms) -> Atoms:
        """The arrangement that a layer is, on the parent's sites. Raises StructureError."""
        return match(atoms, self.parent, self.species).ideal

    def fingerprint(self, ideal: Atoms) -> Arrangement:
        """The same for arrangements that a symmetry of the parent maps onto each other, only."""
        return canonical(ideal, self.parent, self._symmetries)

    def shares(self, atoms: Atoms) -> tuple[dict[str, float], int]:
        """Share of each species in the shared sites, and the number of these."""
        symbols = list(atoms.symbols)
        counts = {species: symbols.count(species) for species in self.shared}
        n = sum(counts.values())
        return {species: count / n for species, count in counts.items()}, n


@dataclass
class System:
    """An alloy with all its configurations, the end members first.

    Attributes
    ----------
    name : MoWS2
    notes : sentences on frames that could not be used
    """

    name: str
    alloy: Alloy
    lattice: Lattice
    configurations: list[Configuration] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def with_dft(self) -> list[Configuration]:
        """Those that DFT relaxed."""
        return [one for one in self.configurations if one.has_dft]

    @property
    def ends(self) -> dict[str, Configuration]:
        """By species the end members that DFT relaxed."""
        return {one.end_member: one for one in self.with_dft if one.end_member is not None}

    def require_ends(self) -> None:
        """Raise ValueError where DFT has not relaxed every end member."""
        lacking = [species for species in self.lattice.shared if species not in self.ends]
        if lacking:
            raise ValueError(
                f"{self.name}: the frames hold no relaxed end member with {', '.join(lacking)} on "
                "all shared sites, and formation energies need the energy of each; compute them "
                "with the same settings"
            )


def read_parent(config: SystemConfig) -> tuple[Atoms, list[Atoms]]:
    """The parent and the end members that a config names. Raises StructureError."""
    parent = _first(config.parent)
    return parent, [_first(path) for path in config.end_members]


def _first(path: Path) -> Atoms:
    for _, structure in iter_structures(path):
        if isinstance(structure, StructureError):
            raise structure
        try:
            standard(structure)
        except StructureError as error:
            raise StructureError(f"{path}: {error}") from error
        return structure
    raise StructureError(f"{path} holds no structure")


def build_system(
    config: SystemConfig,
    frames: Sequence[Atoms],
    max_fmax: float,
    max_smax: float,
) -> System:
    """An alloy with the configurations that are among DFT frames, of any alloys.

    Frames with another composition are passed over in silence; those with the alloy's composition
    that are no arrangement on its lattice are noted. Raises StructureError for a parent or a
    sublattice that is none, ValueError for relaxed frames of several levels of theory.
    """
    parent, ends = read_parent(config)
    sub = Sublattice(config.sublattice, config.species)
    alloy = Alloy(parent, [sub], ends, config.phase)
    lattice = Lattice(alloy)
    if lattice.n_primitive > 1:
        raise StructureError(
            f"{config.parent}: it is {lattice.n_primitive} primitive cells of "
            f"{reduced_formula(alloy.parent)}; give one"
        )
    system = System(config.name or alloy.system, alloy, lattice)
    found: dict[Arrangement, list[tuple[Atoms, Atoms]]] = {}
    left_out: dict[str, list[str]] = {}
    for frame in frames:
        if not _fits(frame, lattice):
            continue
        try:
            ideal = lattice.on_sites(frame)
        except StructureError as error:
            left_out.setdefault(name_of(frame), []).append(str(error))
            continue
        found.setdefault(lattice.fingerprint(ideal), []).append((frame, ideal))
    if left_out:
        system.notes.append(_left_out(left_out))
    if frames and (unknown := set(lattice.shared).difference(*(one.symbols for one in frames))):
        system.notes.append(f"no frame has {' or '.join(sorted(unknown))}")
    groups = sorted(found.values(), key=lambda group: (len(group[0][1]), name_of(group[0][0])))
    known = {species for end in ends for species in end.symbols if species in lattice.shared}
    lowest = [min((one for one, _ in group), key=energy_per_atom) for group in groups]
    left = [residues(one) for one in lowest]
    relaxed = [is_relaxed(one, max_fmax, max_smax) for one in left]
    measured = [
        one
        for one in compress(lowest, relaxed)
        if any(x == 1 and s not in known for s, x in lattice.shares(one)[0].items())
    ]
    system.alloy = Alloy(parent, [sub], [*ends, *measured], config.phase)
    for group, best, own, counts in zip(groups, lowest, left, relaxed, strict=True):
        system.configurations.append(_configuration(system, group, best, own, counts))
    system.configurations.sort(key=lambda one: (one.end_member is None, one.n_sites, one.name))
    _number_equal_names(system)
    _note_unrelaxed(system)
    _refuse_levels(system, max_fmax, max_smax)
    return system


def _left_out(why: dict[str, list[str]]) -> str:
    """A sentence on frames that are no arrangement of the alloy, by their names."""
    told = [f"{name} ({len(reasons)})" for name, reasons in list(why.items())[:NAMED]]
    more = f" and {len(why) - NAMED} more" if len(why) > NAMED else ""
    n = sum(map(len, why.values()))
    first = next(iter(why.values()))[0]
    return f"frames left out, {n}: {', '.join(told)}{more}; the first because {first}"


def _fits(frame: Atoms, lattice: Lattice) -> bool:
    """Whether a frame has the alloy's elements and shares of sites."""
    kept = set(lattice.parent.symbols[~lattice.shared_mask])
    symbols = set(frame.symbols)
    return kept <= symbols and bool(symbols - kept) and symbols <= kept | set(lattice.shared)


def _note_unrelaxed(system: System) -> None:
    """Say which configurations have frames but none that counts."""
    without = [one for one in system.configurations if one.frames and not one.has_dft]
    if not without:
        return
    told = [
        f"{one.name} (forces up to {one.residues[0]:.3g} eV/Å, in-plane stress up to "
        f"{one.residues[1]:.3g} N/m)"
        for one in without[:NAMED]
    ]
    more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
    system.notes.append(
        "the lowest DFT frame of these configurations is not relaxed, and they have no DFT "
        f"energy here: {', '.join(told)}{more}"
    )


def _refuse_levels(system: System, max_fmax: float, max_smax: float) -> None:
    """Raise ValueError for relaxed frames of several levels; those that name none do not count."""
    by_level: dict[str, list[Atoms]] = {}
    for frame in chain.from_iterable(one.frames for one in system.configurations):
        if frame.info.get("level"):
            by_level.setdefault(str(frame.info["level"]), []).append(frame)
    if len(by_level) < 2:
        return  # without looking at all their forces
    levels = [
        level
        for level, frames in by_level.items()
        if any(is_relaxed(residues(frame), max_fmax, max_smax) for frame in frames)
    ]
    if len(levels) > 1:
        raise ValueError(
            f"{system.name}: its relaxed frames are of {len(levels)} levels of theory "
            f"({'; '.join(sorted(levels))}), and formation energies need one level; give the "
            "frames of one of them"
        )


def _configuration(
    system: System,
    group: list[tuple[Atoms, Atoms]],
    lowest: Atoms,
    left: tuple[float, float],
    relaxed: bool,
) -> Configuration:
    smallest = min((ideal for _, ideal in group), key=len)
    named = next(one for one, ideal in group if len(ideal) == len(smallest))
    made = configuration(system, smallest, name_of(named))
    made = replace(made, frames=tuple(one for one, _ in group), residues=left)
    if not relaxed:
        return made
    energy = energy_of(lowest) / system.lattice.shares(lowest)[1]
    return replace(made, relaxed=lowest, energy=energy)


def configuration(system: System, ideal: Atoms, name: str = "") -> Configuration:
    """An arrangement on the parent's sites, without DFT results."""
    start = system.alloy.finished(ideal, "k", 0)
    name = name or str(start.info["config"])
    start.info |= {"config": name, "material": name}
    shares, n = system.lattice.shares(ideal)
    return Configuration(system.name, name, ideal, start, shares, n)


def _number_equal_names(system: System) -> None:
    """Give configurations that the files call the same a number each."""
    taken: set[str] = set()
    for place, one in enumerate(system.configurations):
        system.configurations[place] = replace(one, name=free_name(one.name, taken))


def free_name(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; which it is from then on."""
    found = next(
        one for one in chain([name], (f"{name}#{k}" for k in count(2))) if one not in taken
    )
    taken.add(found)
    return found
