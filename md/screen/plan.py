"""Blocks of structures: the unit of work, whichever way a screen is spread."""

from __future__ import annotations

from dataclasses import dataclass

_SMALLEST, _LARGEST, _BLOCKS = 64, 512, 8


def block_size(total: int) -> int:
    """How many structures make a block: one block up to 64, then 8 blocks, at most 512 in each."""
    return min(_LARGEST, max(_SMALLEST, -(-total // _BLOCKS)))


@dataclass(frozen=True)
class Plan:
    """A screen of `total` structures in blocks of `block`.

    A block is always relaxed from its own structures alone, by one process at a time: its numbers
    do not depend on who works on the others.
    """

    total: int
    block: int

    @property
    def n_blocks(self) -> int:
        """How many blocks there are; the last may be smaller."""
        return -(-self.total // self.block)

    def span(self, k: int) -> tuple[int, int]:
        """The first structure of block k, and the first behind it."""
        return k * self.block, min((k + 1) * self.block, self.total)

    def share(self, shard: tuple[int, int] | None) -> range:
        """The blocks of shard (i, n), i from 1 to n; None is all of them.

        Raises ValueError for a shard that is left without one.
        """
        i, n = shard or (1, 1)
        blocks = range(i - 1, self.n_blocks, n)
        if not blocks:
            fitting = max(1, self.total // n)
            raise ValueError(
                f"there is nothing to do for shard {i}/{n}: {self.total} structures are "
                f"{self.n_blocks} blocks of {self.block}; take fewer shards"
                + (f", or --block {fitting} for every one of them" if n <= self.total else "")
            )
        return blocks
