"""Training, validation and test parts, split by material and never by frame."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Ascending indices of the structures in each part."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


def uniform_of(material: str, seed: int) -> float:
    """A number in [0, 1) that depends on the material's name and the seed, on nothing else."""
    digest = hashlib.blake2b(f"{seed}\n{material}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def part_of(material: str, seed: int, val: float, test: float) -> str:
    """The part of a material: 'train', 'val' or 'test', the last two with these probabilities.

    Each material is drawn by itself, so that adding data moves nothing from one part to another.
    """
    u = uniform_of(material, seed)
    if u < test:
        return "test"
    return "val" if u < test + val else "train"


def split_by_material(
    materials: Sequence[str], seed: int, val: float, test: float, ids: NDArray[np.int64]
) -> Split:
    """Sort the structures `ids` into parts by `materials[id]`."""
    part = {name: part_of(name, seed, val, test) for name in {materials[i] for i in ids}}
    chosen = np.array([part[materials[i]] for i in ids], dtype=object)
    return Split(*(np.asarray(ids[chosen == name], dtype=np.int64) for name in PARTS))
