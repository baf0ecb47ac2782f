"""Which structures go into a batch together, and batches made one ahead in the background.

S structures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d.graph import Graph, Labels

from .dataset import Dataset


def pack(
    ids: NDArray[np.int64], n_edges: NDArray[np.int64], batch_size: int, batch_edges: int
) -> list[list[int]]:
    """Cut a sequence of structures into batches of bounded size, keeping the order.

    A batch is closed when the next structure would exceed `batch_size` structures or
    `batch_edges` edges; a structure with more edges than that is a batch of its own.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    edges = 0
    for s in ids.tolist():
        more = int(n_edges[s])
        if current and (len(current) == batch_size or edges + more > batch_edges):
            batches.append(current)
            current, edges = [], 0
        current.append(s)
        edges += more
    if current:
        batches.append(current)
    return batches


def epoch_batches(
    ids: NDArray[np.int64],
    n_edges: NDArray[np.int64],
    batch_size: int,
    batch_edges: int,
    seed: int,
    epoch: int,
) -> list[list[int]]:
    """Batches of one epoch, shuffled by seed and epoch and by nothing else."""
    order = np.random.default_rng([seed, epoch]).permutation(ids)
    return pack(order, n_edges, batch_size, batch_edges)


def iter_batches(
    data: Dataset, batches: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[Graph, Labels]]:
    """Graphs and labels of batches in order, made while those before are used.

    By the processes of `data.workers`, else in a thread, one ahead; the same to the bit. Raises
    WorkerError where a process dies.
    """
    if data.workers is not None:
        for ids, arrays in zip(batches, data.workers.batches(batches), strict=True):
            graph, labels = data.wrap(ids, arrays, dtype)
            yield graph.to(device), labels.to(device)
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(data.batch, batches[0], dtype) if batches else None
        for following in [*batches[1:], None]:
            if ahead is None:
                return
            graph, labels = ahead.result()
            if following is not None:
                ahead = pool.submit(data.batch, following, dtype)
            yield graph.to(device), labels.to(device)
