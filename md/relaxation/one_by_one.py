"""The plain path: slabs relaxed with ASE one after another, driven as a batch is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.potential import Potential

from .batch import Finished, Structures
from .relax import relax
from .result import RelaxResult
from .settings import RelaxSettings


class AseRelaxer:
    """Relaxes slabs one after another, see `BatchRelaxer` for what is not said here."""

    def __init__(self, potential: Potential, settings: RelaxSettings) -> None:
        self.structure_steps = 0
        self.in_flight = 0
        self.notes: list[str] = []
        self._calculator = MLFF2DCalculator(
            potential,
            device=str(next(potential.parameters()).device),
            dtype=str(potential.dtype).removeprefix("torch."),
        )
        self._settings = settings

    def run(
        self, structures: Structures, snapshot: dict[str, Any] | None = None
    ) -> Iterator[Finished]:
        """Relax structures; after each a list of it alone."""
        for key, atoms in structures:
            self.in_flight = 1
            result: RelaxResult | StructureError
            try:
                result = relax(atoms, self._calculator, self._settings)
                self.structure_steps += result.steps
            except StructureError as error:
                result = error
            self.in_flight = 0
            yield [(key, result)]

    def snapshot(self) -> dict[str, Any]:
        """Nothing: when a structure is done, no other has begun."""
        return {}
