"""A potential that is checked, and what several checks ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.atoms import to_graph
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.graph import Graph, collate
from mlff2d.potential import Potential
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

from .slabs import bundled

T = TypeVar("T")
Array = NDArray[np.floating]

_BATCH = 24


class Subject:
    """A potential in both precisions, and slabs for it."""

    def __init__(self, potential: Potential, device: str | None = None) -> None:
        self.elements = potential.elements
        self.slabs = bundled(potential.elements)
        self.exact = MLFF2DCalculator(potential, device=device, dtype="float64")
        self.single = MLFF2DCalculator(potential, device=device, dtype="float32")

    @property
    def potential(self) -> Potential:
        """In float64."""
        return self.exact.potential

    @cached_property
    def expected(self) -> dict[str, dict[str, Any]]:
        """Results in float64 for the slabs as they are."""
        return {name: self.ask(atoms, name) for name, atoms in self.slabs.items()}

    @property
    def has_answers(self) -> bool:
        """Whether there are any for the slabs as they are."""
        try:
            return bool(self.expected)
        except StructureError:
            return False

    @cached_property
    def _by_torch(self) -> dict[str, MLFF2DCalculator]:
        """Calculators without compiled code, by their precision."""
        device = str(self.exact.device)
        return {
            dtype: MLFF2DCalculator(own.potential, device=device, dtype=dtype, compile="no")
            for dtype, own in (("float64", self.exact), ("float32", self.single))
        }

    def ask(
        self, atoms: Atoms, where: str, dtype: str = "float64", by_torch: bool = False
    ) -> dict[str, Any]:
        """Results of the calculator. Raises StructureError with the place in front."""
        calculator = self.exact if dtype == "float64" else self.single
        if by_torch:
            calculator = self._by_torch[dtype]
        try:
            calculator.calculate(self.prepared(atoms))
        except StructureError as error:
            raise StructureError(f"{where}, {dtype}: {error}") from error
        return dict(calculator.results)

    def prepared(self, atoms: Atoms) -> Atoms:
        """With 1 for each entry of `info` that the model takes in."""
        atoms.info.update(dict.fromkeys(self.potential.model.state, 1.0))
        return atoms

    def graph(self, structures: Sequence[Atoms]) -> Graph:
        """A batch in float64, its neighbours found anew."""
        cutoff, state = self.potential.cutoff, self.potential.model.state
        graphs = [to_graph(self.prepared(atoms), cutoff, state) for atoms in structures]
        return collate(graphs).to(self.exact.device)

    @torch.no_grad()
    def energies(self, structures: Sequence[Atoms]) -> Array:
        """Energies in eV, in float64 and in batches."""
        found = [
            self.potential(self.graph(part), forces=False, virial=False).energy.cpu().numpy()
            for part in parts(structures)
        ]
        return np.concatenate(found)

    def noise(self, name: str) -> float:
        """Rounding in eV of the energy of a slab, a sum of perhaps large reference energies."""
        energies = self.expected[name]["energies"]
        return 8 * np.finfo(float).eps * float(np.abs(energies).sum())

    def sizes(self, name: str) -> tuple[float, float, float]:
        """How large energies (eV/atom), forces (eV/Å) and stress (N/m) of a slab are.

        Energies are those of atoms without their references. Forces and stress may vanish by
        symmetry; they are taken for no smaller than that energy by Å, and by area.
        """
        atoms, found = self.slabs[name], self.expected[name]
        references = self.potential.references.as_dict()
        free = [references[z] for z in atoms.numbers.tolist()]
        energy = float(np.abs(found["energies"] - free).max())
        area = slab.area(atoms.cell.array, atoms.pbc)
        density = len(atoms) * energy / area * EV_PER_ANGSTROM2_IN_N_PER_M
        force, tension = (float(np.abs(found[key]).max()) for key in ("forces", "stress_2d"))
        return energy, max(force, energy), max(tension, density)


def parts(items: Sequence[T]) -> list[Sequence[T]]:
    """What goes into one batch each."""
    return [items[first : first + _BATCH] for first in range(0, len(items), _BATCH)]
