"""A stand-in for a dataset: what is known of frames, without structures or a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import atomic_numbers
from ase.formula import Formula
from numpy.typing import NDArray

from mlff2d.training.data.dataset import Coded


def coded(names: Sequence[str]) -> Coded:
    """Strings as codes, in the order in which they are first met."""
    table: dict[str, int] = {}
    codes = [table.setdefault(name, len(table)) for name in names]
    return Coded(np.array(codes, dtype=np.int32), list(table))


class FrameTable:
    """Frames by their formulas; whatever else is left out is the same for all."""

    cutoff = 5.0

    def __init__(
        self,
        formulas: Sequence[str],
        *,
        materials: Sequence[str] | None = None,
        trajectories: Sequence[str] | None = None,
        energies: Sequence[float] | None = None,
        layer_groups: Sequence[int] | None = None,
        fingerprints: Sequence[int] | None = None,
    ) -> None:
        n = len(formulas)
        numbers = [_numbers(formula) for formula in formulas]
        self._z = numbers
        self.n_atoms = np.array([len(z) for z in numbers], dtype=np.int64)
        self.energy = np.array(np.full(n, np.nan) if energies is None else energies, dtype=float)
        self.material = coded(formulas if materials is None else materials)
        self.trajectory = coded(self.material if trajectories is None else trajectories)
        self.layer_group = np.array(layer_groups or [0] * n, dtype=np.uint8)
        self.fingerprint = np.array(fingerprints or range(n), dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.n_atoms)

    def atoms_of(self, name: str, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        assert name == "z"
        parts = [np.zeros(0, dtype=np.uint8), *(self._z[s] for s in ids)]
        return np.concatenate(parts)

    def name(self, s: int) -> str:
        return f"frame {s} ({self.material[s]})"


def _numbers(formula: str) -> NDArray[np.uint8]:
    symbols = [x for x, n in Formula(formula).count().items() for _ in range(n)]
    return np.array([atomic_numbers[x] for x in symbols], dtype=np.uint8)
