"""What optimisers move: the rows of many structures, as `InPlaneCellFilter` has them for one.

The rows of a structure are its atoms and one for its cell; those of the structures follow each
other. What an optimiser keeps is a frozen dataclass of tensors whose first axis is that of rows
(named in its `ROWS`) or of structures, so that structures come and go by `select` and `join`.

Axes: S structures, N atoms, R = N + S rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from mlff2d.nn.scatter import segment_sum


@dataclass(frozen=True)
class Rows:
    """Which row is whose.

    Attributes
    ----------
    owner : (R,) int64 structure of each row, ascending from 0
    atoms : (N,) int64 rows of the atoms
    cells : (S,) int64 rows of the cells
    """

    owner: Tensor
    atoms: Tensor
    cells: Tensor

    @classmethod
    def of(cls, n_atoms: Tensor) -> Rows:
        """Rows of structures with so many atoms each (S,)."""
        n_rows = n_atoms + 1
        numbers = torch.arange(len(n_atoms), device=n_atoms.device)
        owner = torch.repeat_interleave(numbers, n_rows)
        cells = n_rows.cumsum(0) - 1
        is_atom = torch.ones_like(owner, dtype=torch.bool)
        is_atom[cells] = False
        return cls(owner=owner, atoms=torch.nonzero(is_atom)[:, 0], cells=cells)

    @property
    def n_structures(self) -> int:
        """S."""
        return self.cells.shape[0]

    def fill(self, atoms: Tensor, cells: Tensor) -> Tensor:
        """(R, 3) rows from those of atoms (N, 3) and cells (S, 3)."""
        rows = atoms.new_empty(len(self.owner), 3)
        rows[self.atoms] = atoms
        rows[self.cells] = cells
        return rows

    def dots(self, *pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """(S,) for each pair of (R, 3): their scalar product over all rows of each structure."""
        products = torch.stack([(x * y).sum(1) for x, y in pairs], dim=1)
        return segment_sum(products, self.owner, self.n_structures).unbind(1)

    def longest(self, rows: Tensor) -> Tensor:
        """(S,) norm of the longest row of each structure."""
        norms = torch.linalg.vector_norm(rows, dim=1)
        return norms.new_zeros(self.n_structures).scatter_reduce(0, self.owner, norms, "amax")


class Kept(Protocol):
    """What an optimiser keeps: a dataclass of tensors."""

    ROWS: ClassVar[frozenset[str]]
    __dataclass_fields__: ClassVar[dict[str, Any]]


K = TypeVar("K", bound=Kept)


def select(kept: K, rows: Tensor, structures: Tensor) -> K:
    """The part of the rows (R,) and structures (S,) that masks keep."""
    return type(kept)(
        **{
            f.name: getattr(kept, f.name)[rows if f.name in kept.ROWS else structures]
            for f in fields(kept)
        }
    )


def join(parts: Sequence[K]) -> K:
    """Those of several parts, in their order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return type(first)(
        **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(first)}
    )
