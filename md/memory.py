"""How many edges are evaluated at once: as many as pay, and as fit into memory.

Axes: E edges.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mlff2d.graph import Graph, collate
from mlff2d.kept import saved_bytes
from mlff2d.neighbors import neighbor_list
from mlff2d.potential import Potential

ENOUGH = {"cpu": 16_000}
"""Edges beyond which a batch gains nothing on a device, whatever its memory.

The universal model, compiled, needs 22 µs of one thread for each of 224 edges, 12 of 448, 5.1 of
2,240, 3.6 of 4,480, and 3.1 to 3.2 from 8,960 to 31,360 (CPU time, copies of one layer in a batch,
on a machine with other load).
"""

_ENOUGH_ELSEWHERE = 4_000_000

# What is kept for the backward pass is counted; while that runs, its own products, the neighbour
# lists and what lies unused between blocks of memory take as much again.
_SAFE = 0.4

_SPACINGS = (0.35, 0.5, 0.75)  # of atoms, in cutoffs: from dense to sparse
_TRIAL_ATOMS = 6  # along each lattice vector


def edge_budget(potential: Potential, processes: int = 1) -> int:
    """Edges that a potential should be given at once on the device where it is.

    No more than pay on that device, and no more than fit where so many processes share it. The same
    wherever memory is not short.
    """
    device = next(potential.parameters()).device
    fit = max(1, edges_that_fit(potential) // processes)
    return min(ENOUGH.get(device.type, _ENOUGH_ELSEWHERE), fit)


def edges_that_fit(potential: Potential) -> int:
    """Edges for which the memory of the device where a potential is should suffice.

    Of the memory that is built in, not of what is free now, so that the same run on the same
    machine makes the same pieces; whoever finds that it does not suffice halves them.
    """
    device = next(potential.parameters()).device
    return max(1, int(_SAFE * total_bytes(device) / bytes_per_edge(potential)))


def bytes_per_edge(potential: Potential) -> float:
    """Bytes that an edge keeps for the backward pass: counted on trial slabs, the most of them.

    Those are flat square lattices of all elements in turn, an atom of which has 4, 12 or 28
    neighbours, and the three in one batch: tables with as many places for each atom as the densest
    has edges make a mixture take more.
    """
    weights = list(potential.parameters())
    required = [weight.requires_grad for weight in weights]
    potential.requires_grad_(False)
    try:
        trials = [_trial(potential, spacing) for spacing in _SPACINGS]
        trials.append(collate(trials))
        return max(
            saved_bytes(partial(potential, graph, create_graph=False), weights) / graph.n_edges
            for graph in trials
        )
    finally:
        for weight, flag in zip(weights, required, strict=True):
            weight.requires_grad_(flag)


def total_bytes(device: torch.device) -> int:
    """Bytes of memory of a device, of the machine's as many as this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits()])


def _limits(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Bytes beyond which Linux ends this process, as those that a batch system allots."""
    try:
        groups = [line.split(":", 2)[1:] for line in own.read_text().splitlines()]
    except OSError:  # another system
        return []
    limits = []
    for controllers, path in groups:
        if controllers == "":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be that outside of it, of which only the top is seen.
        inner = top / path.strip("/")
        for folder in [inner, *(p for p in inner.parents if p.is_relative_to(top))]:
            try:
                limits.append(int((folder / name).read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return limits


def _trial(potential: Potential, spacing: float) -> Graph:
    """A flat square lattice of all elements in turn, off its places by a little."""
    n = _TRIAL_ATOMS**2
    length = spacing * potential.cutoff
    rng = np.random.default_rng(0)
    places = np.stack([*np.divmod(np.arange(n), _TRIAL_ATOMS), np.zeros(n)], axis=1) * length
    pos = places + 0.02 * length * rng.uniform(-1.0, 1.0, (n, 3))
    cell = np.diag([_TRIAL_ATOMS * length, _TRIAL_ATOMS * length, 1.0])
    pbc = np.array([True, True, False])
    edge_index, edge_shift = neighbor_list(pos, cell, pbc, potential.cutoff)
    elements = torch.tensor(potential.elements)
    device = next(potential.parameters()).device
    return Graph(
        z=elements[torch.arange(n) % len(elements)],
        pos=torch.from_numpy(pos),
        cell=torch.from_numpy(cell)[None],
        pbc=torch.from_numpy(pbc)[None],
        edge_index=torch.from_numpy(edge_index),
        edge_shift=torch.from_numpy(edge_shift),
        batch=torch.zeros(n, dtype=torch.int64),
        state=torch.zeros(1, len(potential.model.state)),
    ).to(device)
