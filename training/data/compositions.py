"""What structures are made of: reduced formulas, found in one pass through the data.

Axes: S structures asked for, C different compositions, Z atomic numbers from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from .dataset import Dataset

_N_Z = 119
_CHUNK = 8192  # structures


@dataclass(frozen=True)
class Compositions:
    """The different compositions in some structures.

    Attributes
    ----------
    of : (S,) row of each structure in `counts`
    counts : (C, Z) uint16, atoms of each element in a formula unit
    """

    of: NDArray[np.int64]
    counts: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(np.flatnonzero(self.counts.any(axis=0)).tolist())

    @property
    def fractions(self) -> NDArray[np.float64]:
        """(C, Z) share of each element."""
        return self.shares(tuple(range(_N_Z)))

    def shares(self, elements: tuple[int, ...], rows: slice = slice(None)) -> NDArray[np.float64]:
        """(C, len(elements)) share of these elements in some compositions."""
        counts = self.counts[rows]
        shares: NDArray[np.float64] = counts[:, elements] / counts.sum(axis=1, keepdims=True)
        return shares

    @cached_property
    def formulas(self) -> list[str]:
        """Reduced formulas in Hill's order, such as MoS2."""
        return [Formula.from_dict(_named(row)).format("hill") for row in self.counts]

    @cached_property
    def anonymous(self) -> list[str]:
        """Formulas without elements, the rarest first, such as AB2."""
        letters = [f"A{k}" if k > 25 else chr(65 + k) for k in range(_N_Z)]
        result = []
        for row in self.counts:
            numbers = sorted(row[row > 0].tolist())
            parts = zip(letters, numbers, strict=False)
            result.append("".join(f"{letter}{n if n > 1 else ''}" for letter, n in parts))
        return result

    @cached_property
    def chemistries(self) -> list[str]:
        """The elements alone, by atomic number, such as S-Mo."""
        return ["-".join(_named(row)) for row in self.counts]


def _named(row: NDArray[np.uint16]) -> dict[str, int]:
    return {chemical_symbols[z]: int(row[z]) for z in np.flatnonzero(row)}


def compositions_of(data: Dataset, ids: NDArray[np.int64]) -> Compositions:
    """The compositions of some structures, in the order in which they are met."""
    found: dict[bytes, int] = {}
    of = np.empty(len(ids), dtype=np.int64)
    for start in range(0, len(ids), _CHUNK):
        counts = _reduced_counts(data, ids[start : start + _CHUNK])
        row, z = np.nonzero(counts)
        pairs = np.stack([z.astype(np.uint16), counts[row, z]], axis=1)
        ends = np.cumsum(np.bincount(row, minlength=len(counts)))[:-1]
        for k, mine in enumerate(np.split(pairs, ends), start):
            of[k] = found.setdefault(mine.tobytes(), len(found))
    counts = np.zeros((len(found), _N_Z), dtype=np.uint16)
    for row_of, key in enumerate(found):
        pairs = np.frombuffer(key, dtype=np.uint16).reshape(-1, 2)
        counts[row_of, pairs[:, 0]] = pairs[:, 1]
    return Compositions(of, counts)


def _reduced_counts(data: Dataset, ids: NDArray[np.int64]) -> NDArray[np.uint16]:
    """(S, Z) atoms of each element in a formula unit of each structure."""
    n_atoms = data.n_atoms[ids]
    row = np.repeat(np.arange(len(ids)), n_atoms)
    z = data.atoms_of("z", ids).astype(np.int64)
    counts = np.bincount(row * _N_Z + z, minlength=len(ids) * _N_Z).reshape(-1, _N_Z)
    counts //= np.gcd.reduce(counts, axis=1, keepdims=True)
    return counts.astype(np.uint16)


def made_only_of(
    data: Dataset, ids: NDArray[np.int64], elements: Sequence[int]
) -> NDArray[np.bool_]:
    """(S,) mask of the structures without any other element than these."""
    found = compositions_of(data, ids)
    others = np.delete(found.counts, list(elements), axis=1).sum(axis=1)
    alone: NDArray[np.bool_] = others[found.of] == 0
    return alone
