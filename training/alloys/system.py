"""An alloy and its configurations: what DFT says of each, and where relaxations of it begin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlff2d import slab
from mlff2d.atoms import canonical_slab
from mlff2d.errors import StructureError
from mlff2d.reading import iter_structures

from ..data.readers import iter_frames
from ..generation.alloys import Alloy, Sublattice, distinct, quasirandom, random_cells, require_icet
from ..generation.layers import material_of
from .config import CellsConfig, SystemConfig
from .match import match

FINGERPRINT = (3.3, 2.1, 1.8)
"""Lattice constants up to which pairs, triplets and quadruplets tell configurations apart."""


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


class Lattice:
    """The shared sites of an alloy's parent, and what tells arrangements on them apart.

    Attributes
    ----------
    parent : primitive layer in the standard form
    bulk : the same, periodic along all vectors, for icet, which knows no layers
    species : for each atom of the parent what may stand there
    shared : the species of the shared sites
    """

    def __init__(self, alloy: Alloy) -> None:
        require_icet()
        self.parent = alloy.parent
        self.bulk = alloy.parent.copy()
        self.bulk.pbc = True
        self.species = alloy.species()
        self.shared = alloy.sublattices[0].species
        self.a = float(self.parent.cell.lengths()[:2].max())

    @cached_property
    def _space(self) -> Any:
        from icet import ClusterSpace

        return ClusterSpace(self.bulk, [self.a * reach for reach in FINGERPRINT], self.species)

    def fingerprint(self, ideal: Atoms) -> tuple[float, ...]:
        """The same for arrangements that a symmetry of the parent maps onto each other."""
        bulk = ideal.copy()
        bulk.pbc = True
        return tuple(np.round(self._space.get_cluster_vector(bulk), 5) + 0.0)

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
        return structure
    raise StructureError(f"{path} holds no structure")


def build_system(
    config: SystemConfig,
    frames: Iterable[Atoms],
    max_fmax: float,
    max_smax: float,
) -> System:
    """An alloy with the configurations that are among DFT frames, of any alloys.

    Frames with another composition are passed over in silence; those with the alloy's composition
    that are no arrangement on its lattice are noted. Raises StructureError for a parent or a
    sublattice that is none.
    """
    parent, ends = read_parent(config)
    sub = Sublattice(config.sublattice, config.species)
    alloy = Alloy(parent, [sub], ends, config.phase)
    lattice = Lattice(alloy)
    system = System(config.name or alloy.system, alloy, lattice)
    found: dict[tuple[float, ...], list[tuple[Atoms, Atoms]]] = {}
    left_out: dict[str, list[str]] = {}
    for frame in frames:
        if not _fits(frame, lattice):
            continue
        try:
            ideal = match(frame, lattice.parent, lattice.species).ideal
        except StructureError as error:
            left_out.setdefault(_name_of(frame), []).append(str(error))
            continue
        found.setdefault(lattice.fingerprint(ideal), []).append((frame, ideal))
    for name, why in left_out.items():
        system.notes.append(f"of {name} {len(why)} frames are left out: {why[0]}")
    groups = sorted(found.values(), key=lambda group: (len(group[0][1]), _name_of(group[0][0])))
    known = {species for end in ends for species in end.symbols if species in lattice.shared}
    relaxed = [_lowest(group, max_fmax, max_smax) for group in groups]
    measured = [
        one
        for one in relaxed
        if one is not None
        and any(x == 1 and s not in known for s, x in lattice.shares(one)[0].items())
    ]
    system.alloy = Alloy(parent, [sub], [*ends, *measured], config.phase)
    for group, best in zip(groups, relaxed, strict=True):
        system.configurations.append(_configuration(system, group, best))
    system.configurations.sort(key=lambda one: (one.end_member is None, one.n_sites, one.name))
    _refuse_equal_names(system)
    return system


def _fits(frame: Atoms, lattice: Lattice) -> bool:
    """Whether a frame has the alloy's elements and shares of sites."""
    kept = {
        symbol
        for symbol, one in zip(lattice.parent.symbols, lattice.species, strict=True)
        if tuple(one) != lattice.shared
    }
    symbols = set(frame.symbols)
    return kept <= symbols and bool(symbols - kept) and symbols <= kept | set(lattice.shared)


def _name_of(frame: Atoms) -> str:
    return str(frame.info.get("config") or material_of(frame))


def _lowest(group: list[tuple[Atoms, Atoms]], max_fmax: float, max_smax: float) -> Atoms | None:
    """The frame of lowest energy, where that is relaxed."""
    frame = min((frame for frame, _ in group), key=lambda one: energy_of(one) / len(one))
    fmax, smax = residues(frame)
    return None if fmax > max_fmax or smax > max_smax else frame


def energy_of(frame: Atoms) -> float:
    """eV, of a frame with labels."""
    return float(frame.get_potential_energy())


def residues(frame: Atoms) -> tuple[float, float]:
    """Largest force in eV/Å and largest in-plane stress in N/m; 0 where none are stored."""
    results = frame.calc.results if frame.calc is not None else {}
    forces = results.get("forces")
    fmax = 0.0 if forces is None else float(np.linalg.norm(forces, axis=1).max())
    if results.get("stress") is None:
        return fmax, 0.0
    cell, pbc = frame.cell.array, canonical_slab(frame).pbc
    virial = frame.get_stress(voigt=False) * frame.get_volume()
    xx, yy, xy = slab.stress_2d(virial, cell, pbc)
    radius = float(np.hypot((xx - yy) / 2, xy))
    return fmax, max(abs((xx + yy) / 2 + radius), abs((xx + yy) / 2 - radius))


def _configuration(
    system: System, group: list[tuple[Atoms, Atoms]], frame: Atoms | None
) -> Configuration:
    smallest = min((ideal for _, ideal in group), key=len)
    named = next((one for one, ideal in group if len(ideal) == len(smallest)), group[0][0])
    made = configuration(system, smallest, _name_of(named))
    energy = np.nan
    if frame is not None:
        energy = energy_of(frame) / system.lattice.shares(frame)[1]
    return Configuration(
        made.system,
        made.name,
        made.ideal,
        made.start,
        made.shares,
        made.n_sites,
        frame,
        energy,
        tuple(one for one, _ in group),
    )


def configuration(system: System, ideal: Atoms, name: str = "") -> Configuration:
    """An arrangement on the parent's sites, without DFT results."""
    start = system.alloy.finished(ideal, "k", 0)
    name = name or str(start.info["config"])
    start.info |= {"config": name, "material": name}
    shares, n = system.lattice.shares(ideal)
    return Configuration(system.name, name, ideal, start, shares, n)


def _refuse_equal_names(system: System) -> None:
    """Give configurations that the files call the same a number each."""
    seen: dict[str, int] = {}
    for place, one in enumerate(system.configurations):
        count = seen[one.name] = seen.get(one.name, 0) + 1
        if count > 1:
            values = {**vars(one), "name": f"{one.name}#{count}"}
            system.configurations[place] = Configuration(**values)


def candidates(system: System, cells: CellsConfig, seed: int) -> Iterator[Configuration]:
    """Distinct configurations without DFT results, of the sizes asked for."""
    seen = {system.lattice.fingerprint(one.ideal) for one in system.configurations}
    made = list(distinct(system.alloy, cells.max_sites))
    for size in cells.sizes:
        if cells.sqs:
            found = quasirandom(system.alloy, size, cells.shares, cells.sqs, seed)
            made += [one for one in found if isinstance(one, Atoms)]
        if cells.random:
            made += list(random_cells(system.alloy, size, cells.shares, cells.random, seed))
    for atoms in made:
        ideal = match(atoms, system.lattice.parent, system.lattice.species).ideal
        fingerprint = system.lattice.fingerprint(ideal)
        if fingerprint not in seen:
            seen.add(fingerprint)
            yield configuration(system, ideal, str(atoms.info["config"]))


def read_frames(paths: Iterable[Path]) -> tuple[list[Atoms], list[str]]:
    """All frames of files that have an energy, and sentences on the others."""
    frames, notes = [], []
    for path in paths:
        lacking = 0
        for _, atoms in iter_frames(path):
            if not isinstance(atoms, Atoms):
                notes.append(str(atoms))
            elif atoms.calc is None or "energy" not in atoms.calc.results:
                lacking += 1
            else:
                frames.append(atoms)
        if lacking:
            notes.append(f"{path}: {lacking} structures have no energy and are left out")
    return frames, notes
