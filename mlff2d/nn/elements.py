"""From atomic numbers to row numbers of per-element parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index

import torch
from torch import Tensor, nn

MAX_ATOMIC_NUMBER = 118


class ElementIndex(nn.Module):
    """Maps atomic numbers to 0..n-1, in the order of `elements`.

    Parameters
    ----------
    elements
        Atomic numbers known, ascending and without repetition.

    Raises ValueError for another sequence.
    """

    table: Tensor

    def __init__(self, elements: Iterable[int]) -> None:
        super().__init__()
        self.elements = check_elements(elements)
        table = torch.full((MAX_ATOMIC_NUMBER + 1,), -1, dtype=torch.int64)
        table[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("table", table, persistent=False)

    def __len__(self) -> int:
        return len(self.elements)

    def forward(self, z: Tensor) -> Tensor:
        """(N,) int64 atomic numbers -> (N,) int64 row numbers.

        An unknown element gives -1 and makes the first look-up with it fail; whoever builds a
        graph names the element before that.
        """
        return self.table[z]


def check_elements(elements: Iterable[int]) -> tuple[int, ...]:
    """The atomic numbers as a tuple. Raises ValueError unless ascending, distinct elements."""
    numbers = _whole_numbers(elements)
    if not numbers:
        raise ValueError("elements is empty; name at least one atomic number")
    if list(numbers) != sorted(set(numbers)):
        raise ValueError(
            f"elements must be ascending without repetition; use {tuple(sorted(set(numbers)))}"
        )
    if numbers[0] < 1 or numbers[-1] > MAX_ATOMIC_NUMBER:
        raise ValueError(
            f"elements has {numbers[0] if numbers[0] < 1 else numbers[-1]}; "
            f"atomic numbers lie between 1 and {MAX_ATOMIC_NUMBER}"
        )
    return numbers


def _whole_numbers(elements: Iterable[int]) -> tuple[int, ...]:
    try:
        if isinstance(elements, str | bytes | Mapping):
            raise TypeError("not a list")
        values = tuple(elements)
        if any(isinstance(value, bool) for value in values):
            raise TypeError("not numbers")
        # Unlike int(), it cuts nothing off 6.5 and reads no words.
        return tuple(map(index, values))
    except TypeError:
        raise ValueError(
            f"elements must be a list of atomic numbers such as (16, 42), not {elements!r}"
        ) from None
