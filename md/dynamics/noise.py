"""Random numbers of a replica at a step, whatever the other replicas and the steps before.

A counter-based generator (Philox; Salmon et al., SC 2011) takes the seed and the replica's key as
its key and the step as its counter. So there is no state to keep for a restart, and a replica
gets the same numbers alone, in any batch and on any device.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..slabs import Slabs

VELOCITIES, ATOMS, BATH = range(3)
"""Streams of numbers that one step may ask for."""


def generators(keys: Tensor, seed: int, step: int, stream: int) -> Iterator[np.random.Generator]:
    """For each of the keys (S,) in turn a generator; each is good until the next is taken."""
    philox = np.random.Philox(0)
    state, generator = philox.state, np.random.Generator(philox)
    # Steps of an equilibration are negative; the counter is not.
    state["state"]["counter"] = np.array([0, 0, stream, step % 2**64], dtype=np.uint64)
    for key in keys.tolist():
        state["state"]["key"] = np.array([seed, key], dtype=np.uint64)
        philox.state = state
        yield generator


def normal(slabs: Slabs, seed: int, step: int, stream: int) -> Tensor:
    """(N, 3) float64 of mean 0 and variance 1."""
    counts = slabs.n_atoms.tolist()
    drawn = [
        generator.standard_normal((n, 3))
        for n, generator in zip(counts, generators(slabs.key, seed, step, stream), strict=True)
    ]
    return torch.from_numpy(np.concatenate(drawn)).to(slabs.pos.device)


def require_seed(seed: int) -> None:
    """Raise ValueError unless a seed is one that the generator takes."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"the seed is a whole number from 0 to 2^63: {seed}")
