"""What a batch keeps for its backward pass, and the number of edges that a ceiling leaves it.

Counted, not timed or watched: the bytes of all tensors that autograd saves on the way to the loss,
with those of the second derivative where forces or stress are learnt. So the same data and model
give the same batches everywhere. What a backward pass needs on top for a moment, the weights, and
what a GPU's allocator holds back are not in it.

Axes: E edges, S structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d.kept import saved_bytes

from .data.dataset import Dataset
from .distributed import world
from .sections import LossConfig, TrainConfig
from .tasks import Task, Trained

GB = 1e9

_PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
_SAMPLE_EDGES = 1000

# Of a GPU's memory for what is kept; the backward pass takes up to a quarter more for a moment, and
# weights, optimiser and what lies between the blocks of the allocator the rest.
_SAFE = 0.6


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that an edge keeps, in structures of various densities.

    Atoms weigh more where each has few edges, and pairs of edges, for models that know angles,
    where it has many; between the densities measured the figure is interpolated.

    Attributes
    ----------
    density : (K,) edges per atom, ascending
    per_edge : (K,) bytes
    """

    density: NDArray[np.float64]
    per_edge: NDArray[np.float64]

    def of(self, n_edges: NDArray[np.int64], n_atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        """(S,) bytes that structures keep."""
        per_edge: NDArray[np.float64] = np.interp(n_edges / n_atoms, self.density, self.per_edge)
        return n_edges * per_edge

    def edges_within(self, ceiling: float) -> int:
        """Most edges of a batch that keeps no more bytes than that, whatever its structures."""
        return max(int(ceiling / self.per_edge.max()), 1)


def batch_limit(
    train: TrainConfig, task: Task, module: Trained, data: Dataset, ids: NDArray[np.int64]
) -> tuple[MemoryUse | None, int]:
    """Most edges in a batch of some structures, and what it follows from if not from the config."""
    use = None
    if train.batch_memory is not None:
        use = measure(task, module, data, ids)
    if train.batch_memory is None or use is None:
        return None, train.batch_edges
    return use, min(train.batch_edges, use.edges_within(train.batch_memory * GB))


def measure(task: Task, module: Trained, data: Dataset, ids: NDArray[np.int64]) -> MemoryUse | None:
    """Count on a few of some structures, from the sparsest to the densest.

    None where none of them has an edge.
    """
    ids = ids[data.n_edges[ids] > 0]
    if not len(ids):
        return None
    density = data.n_edges[ids] / data.n_atoms[ids]
    order = np.lexsort((ids, density))
    chosen = order[np.unique([round(place * (len(ids) - 1)) for place in _PLACES])]
    # Several times the same, so that what does not grow with the batch counts for little.
    tiled = [[s] * -(-_SAMPLE_EDGES // int(data.n_edges[s])) for s in ids[chosen].tolist()]
    kept = [bytes_kept(task, module, data, same) for same in tiled]
    edges = [int(data.n_edges[same].sum()) for same in tiled]
    use = MemoryUse(density[chosen], np.array(kept) / np.array(edges))
    # Tables with as many places for each atom as the densest has edges make a mixture take more.
    excess = 1.0
    for parts in (tiled, tiled[1:-1]):
        mixed = [s for same in parts for s in same]
        if mixed:
            alone = use.of(data.n_edges[mixed], data.n_atoms[mixed]).sum()
            excess = max(excess, bytes_kept(task, module, data, mixed) / alone)
    return MemoryUse(use.density, excess * use.per_edge)


def bytes_kept(task: Task, module: Trained, data: Dataset, ids: Sequence[int]) -> int:
    """Bytes of what autograd keeps of one batch between its loss and its backward pass.

    The weights are not among them.
    """
    device = next(module.parameters()).device
    graph, labels = data.batch(ids, module.dtype)
    graph, labels = graph.to(device), labels.to(device)
    return saved_bytes(
        lambda: task.loss(module, graph, labels, list(ids), task.counts(graph, labels)),
        module.parameters(),
    )


def out_of_memory(task: Task, module: Trained, data: Dataset, batch: list[int]) -> str:
    """What to say where the memory of a GPU was not enough for a batch: what that needs."""
    torch.cuda.empty_cache()
    n_edges, n_atoms = data.n_edges[batch], data.n_atoms[batch]
    device = next(module.parameters()).device
    there = torch.cuda.get_device_properties(device).total_memory
    what = (
        f"the {there / GB:.3g} GB of the GPU are not enough for a batch of {len(batch)} structures "
        f"with {n_edges.sum():,} edges"
    )
    advice = "start again in another run_dir with"
    try:
        use = measure(task, module, data, np.array(batch))
    except torch.OutOfMemoryError:
        largest = data.name(batch[int(np.argmax(n_edges))])
        return (
            f"{what}, and not even for one of them alone; leave out what is as large as {largest} "
            f"with filters.max_atoms, take a smaller model, or {advice} train.bf16."
        )
    assert use is not None  # without an edge there is nothing to keep
    kept = use.of(n_edges, n_atoms).sum()
    safe = world() * _SAFE * there
    return (
        f"{what}, which keep {kept / GB:.3g} GB for the backward pass; {advice} train.batch_memory "
        f"of at most {safe / GB:.2g} or train.batch_edges of at most {use.edges_within(safe):,}."
    )


def heaviest(task: Task, loss: LossConfig) -> Task:
    """The task with every derivative that a stage of the training needs."""
    if loss.stage_two is None:
        return task
    weights = {
        name: max(getattr(loss, name), getattr(loss.stage_two, name))
        for name in ("forces", "stress")
    }
    task = copy(task)
    task.config = loss.model_copy(update=weights)
    return task


def memory_notes(
    use: MemoryUse | None,
    batch_edges: int,
    train: TrainConfig,
    data: Dataset,
    ids: NDArray[np.int64],
) -> list[str]:
    """Sentences on what `train.batch_memory` comes to for some structures, if there is one."""
    if use is None or train.batch_memory is None:
        return []
    low, high = use.per_edge.min() / 1e3, use.per_edge.max() / 1e3
    span = f"{low:.3g}" if high < 1.02 * low else f"{low:.3g} to {high:.3g}"
    notes = [
        f"train.batch_memory of {train.batch_memory:g} GB: an edge keeps {span} kB, so a batch has "
        f"at most {batch_edges:,} edges."
    ]
    kept = use.of(data.n_edges[ids], data.n_atoms[ids])
    n_above = int((kept > train.batch_memory * GB).sum())
    if n_above:
        worst = int(np.argmax(kept))
        what = "1 structure keeps" if n_above == 1 else f"{n_above} structures keep"
        notes.append(
            f"{what} more than that even alone, up to {kept[worst] / GB:.3g} GB "
            f"({data.name(int(ids[worst]))}); each is a batch of its own."
        )
    return notes
