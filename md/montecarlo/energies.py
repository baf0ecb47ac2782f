"""Energies of arrangements on lattices, many at a time, each computed once.

An arrangement has one energy, whoever asks and whenever: on the lattice as given, or relaxed from
there. So the Markov chain is that of a function of the arrangement alone, exactly, also where a
relaxation ends before it has converged.

Axes: L lattices, n shared sites, K arrangements that are remembered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.atoms import to_graph
from mlff2d.compiled import use_compiled_code
from mlff2d.errors import StructureError
from mlff2d.graph import Graph, collate
from mlff2d.potential import Potential

from ..memory import edge_budget
from ..relaxation.batch import BatchRelaxer
from ..relaxation.result import CONVERGED, FAILED, MAX_STEPS, REBUILT
from ..relaxation.settings import RelaxSettings
from ..slabs import require_slab

Numbers = NDArray[np.int64]
Asked = tuple[int, Numbers]
"""A lattice and the atomic numbers (n,) on its shared sites."""

REMEMBERED = 200_000
"""Arrangements whose energies are kept; beyond, the oldest are forgotten."""

ON_LATTICE = "on the lattice"
"""What is counted of arrangements that are not relaxed; of others their status."""

_HAVE_ENERGY = (CONVERGED, MAX_STEPS, REBUILT)


@dataclass(frozen=True)
class Lattice:
    """A structure whose shared sites may be occupied otherwise.

    Attributes
    ----------
    atoms : as given
    sites : (n,) places of its atoms that stand on shared sites, ascending
    """

    atoms: Atoms
    sites: Numbers

    def occupied(self, numbers: Numbers) -> Atoms:
        """The structure with these atomic numbers (n,) on its shared sites."""
        atoms = self.atoms.copy()
        atoms.numbers[self.sites] = numbers
        return atoms


def find_lattice(atoms: Atoms, species: Sequence[int], potential: Potential) -> Lattice:
    """The lattice of a structure. Raises StructureError where it has none of the species.

    So it does for what is no slab, and for elements that the potential does not know.
    """
    require_slab(atoms)
    potential.check_elements([*atoms.numbers, *species])
    sites = np.flatnonzero(np.isin(atoms.numbers, species))
    if not len(sites):
        formula = atoms.get_chemical_formula(mode="metal")
        raise StructureError(f"{formula} has none of the species that share sites")
    return Lattice(atoms, sites)


class Energies:
    """Total energies in eV of arrangements; infinite for those that have none.

    Parameters
    ----------
    compute : energies of arrangements that were not asked for before, and what became of each
    n_sites : n

    Attributes
    ----------
    counts : what became of the arrangements that were computed
    """

    def __init__(
        self, compute: Callable[[Sequence[Asked]], list[tuple[float, str]]], n_sites: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._compute = compute
        self._n_sites = n_sites
        self._known: dict[tuple[int, bytes], float] = {}

    def __call__(self, asked: Sequence[Asked]) -> list[float]:
        """An energy for each. All that are new are computed in one batch."""
        keys = [(lattice, numbers.tobytes()) for lattice, numbers in asked]
        new = {key: one for key, one in zip(keys, asked, strict=True) if key not in self._known}
        if new:
            for key, (energy, what) in zip(new, self._compute(list(new.values())), strict=True):
                self._known[key] = energy
                self.counts[what] += 1
        energies = [self._known[key] for key in keys]
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return energies

    def as_dict(self) -> dict[str, Any]:
        """All that is remembered, as tensors and primitives."""
        numbers = b"".join(numbers for _, numbers in self._known)
        return {
            "lattice": torch.tensor([lattice for lattice, _ in self._known], dtype=torch.int64),
            "numbers": torch.from_numpy(np.frombuffer(numbers, np.int64).astype(np.uint8)),
            "energy": torch.tensor(list(self._known.values()), dtype=torch.float64),
            "counts": dict(self.counts),
        }

    def restore(self, plain: dict[str, Any]) -> None:
        """What `as_dict` gave."""
        self.counts = Counter(plain["counts"])
        rows = plain["numbers"].numpy().astype(np.int64).reshape(-1, self._n_sites)
        self._known = {
            (lattice, row.tobytes()): energy
            for lattice, row, energy in zip(
                plain["lattice"].tolist(), rows, plain["energy"].tolist(), strict=True
            )
        }


class OnLattice:
    """Energies with all atoms on their lattices; nothing but elements differs between two."""

    def __init__(self, lattices: Sequence[Lattice], potential: Potential, max_edges: int) -> None:
        self._potential = deepcopy(potential).eval().requires_grad_(False)
        use_compiled_code(self._potential)
        self._max_edges = max_edges
        self._lattices = lattices
        device = next(potential.parameters()).device
        state = potential.model.state
        self._graphs = [to_graph(one.atoms, potential.cutoff, state).to(device) for one in lattices]

    def __call__(self, asked: Sequence[Asked]) -> list[tuple[float, str]]:
        """Energies, infinite with what the model said where that was not finite."""
        found: list[float] = []
        piece: list[Graph] = []
        for lattice, numbers in asked:
            graph = self._graphs[lattice]
            z = graph.z.clone()
            z[self._lattices[lattice].sites] = torch.from_numpy(numbers).to(z)
            if piece and sum(one.n_edges for one in piece) + graph.n_edges > self._max_edges:
                found += self._evaluate(piece)
                piece = []
            piece.append(replace(graph, z=z))
        found += self._evaluate(piece)
        return [(e, ON_LATTICE) if np.isfinite(e) else (np.inf, FAILED) for e in found]

    @torch.no_grad()
    def _evaluate(self, piece: list[Graph]) -> list[float]:
        energy = self._potential(collate(piece), forces=False, virial=False).energy
        found: list[float] = energy.tolist()
        return found


class Relaxed:
    """Energies that relaxations from the lattice reach, all of them in one batch."""

    def __init__(
        self,
        lattices: Sequence[Lattice],
        potential: Potential,
        settings: RelaxSettings,
        max_edges: int,
    ) -> None:
        self._lattices = lattices
        self._relaxer = BatchRelaxer(potential, settings, max_edges)

    def __call__(self, asked: Sequence[Asked]) -> list[tuple[float, str]]:
        """Energies and what became of the relaxations; infinite where that is no layer any more."""
        structures = [self._lattices[lattice].occupied(numbers) for lattice, numbers in asked]
        found = [(np.inf, FAILED)] * len(asked)
        for finished in self._relaxer.run(list(enumerate(structures))):
            for place, result in finished:
                if not isinstance(result, StructureError):
                    has_energy = result.status in _HAVE_ENERGY
                    found[place] = (result.energy if has_energy else np.inf, result.status)
        return found


def energies_of(
    lattices: Sequence[Lattice],
    potential: Potential,
    relax: RelaxSettings | None,
    max_edges: int | None = None,
) -> tuple[Energies, int]:
    """What gives energies of arrangements, and how many edges it evaluates at once."""
    edges = edge_budget(potential) if max_edges is None else max_edges
    n_sites = len(lattices[0].sites)
    if relax is None:
        return Energies(OnLattice(lattices, potential, edges), n_sites), edges
    return Energies(Relaxed(lattices, potential, relax, edges), n_sites), edges
