"""Training, validation and test parts, drawn from names alone: added data move nothing.

What is drawn is a number that depends on the seed and on the name of a material, chemistry,
composition or prototype, or on the structure of a frame, and on nothing else in the data.

Axes: S structures, M materials.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..sections import SplitConfig
from .compositions import compositions_of
from .dataset import Dataset

PARTS = ("train", "val", "test")


def _none() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Split:
    """Ascending indices of the structures in each part.

    Attributes
    ----------
    left_out : in no part: their chemistry (or composition) belongs to another part than their
        material
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    left_out: NDArray[np.int64] = field(default_factory=_none)


def uniform_of(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on a name and the seed, on nothing else."""
    digest = hashlib.blake2b(f"{seed}\n{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def part_of(name: str, seed: int, val: float, test: float) -> str:
    """The part of what has a name: 'train', 'val' or 'test', the last two with these probabilities.

    Each is drawn by itself, so that adding data moves nothing from one part to another.
    """
    u = uniform_of(name, seed)
    if u < test:
        return "test"
    return "val" if u < test + val else "train"


def split(data: Dataset, config: SplitConfig, ids: NDArray[np.int64]) -> Split:
    """Sort the structures `ids` into parts.

    All frames of a material go together, but with `by: frame`. Its chemistry, composition or
    prototype is that of its first frame in the data, filtered or not. So nothing moves when
    materials are added or files change their order; only frames of a material put in front of those
    that it has could move it. Frames of another chemistry (composition) than the first are kept
    where both are in the same part, and left out else, so that neither a material nor a chemistry
    is in two parts.

    A frame is drawn by its structure, so that equal structures stay together.
    """
    if config.by == "material":
        return _sort(ids, data.material.codes[ids], data.material.names, config)
    if config.by == "frame":
        fingerprints, of = np.unique(data.fingerprint[ids], return_inverse=True)
        return _sort(ids, of, [f"{f:016x}" for f in fingerprints.tolist()], config)
    material, first = np.unique(data.material.codes, return_index=True)
    if config.by == "prototype":
        prototypes = names_of(data, first, config.by)
        return _sort(ids, np.searchsorted(material, data.material.codes[ids]), prototypes, config)
    of_material, of_frame = compositions_of(data, first), compositions_of(data, ids)
    chemistry = config.by == "chemistry"
    own, theirs = (x.chemistries if chemistry else x.formulas for x in (of_frame, of_material))
    own_part = _parts(own, config)[of_frame.of]
    part = _parts(theirs, config)[of_material.of]
    part = part[np.searchsorted(material, data.material.codes[ids])]
    agreed = np.where(part == own_part, part, len(PARTS))
    return Split(*(ids[agreed == k] for k in range(len(PARTS) + 1)))


def names_of(data: Dataset, ids: NDArray[np.int64], by: str) -> list[str]:
    """The chemistry, composition or prototype of each of some structures."""
    found = compositions_of(data, ids)
    if by == "prototype":
        groups = data.layer_group[ids].tolist()
        return [f"{found.anonymous[row]}-{g}" for row, g in zip(found.of, groups, strict=True)]
    names = found.chemistries if by == "chemistry" else found.formulas
    return [names[row] for row in found.of]


def _parts(names: Sequence[str], config: SplitConfig) -> NDArray[np.int64]:
    """Number of the part in `PARTS` of each name."""
    found = [PARTS.index(part_of(name, config.seed, config.val, config.test)) for name in names]
    return np.array(found, dtype=np.int64)


def _sort(
    ids: NDArray[np.int64],
    codes: NDArray[np.integer],
    names: Sequence[str],
    config: SplitConfig,
) -> Split:
    """Structures by the part of the name that each has by its code."""
    part = _parts(names, config)[codes]
    return Split(*(ids[part == k] for k in range(len(PARTS))))
