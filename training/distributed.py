"""Several processes that train one model: started by torchrun, each with a share of every batch.

A batch of the config is the batch of all processes together, so that their number changes the speed
and, but for rounding, nothing else. Gradients are summed by one all-reduce of a flat buffer and not
by the DDP wrapper: the models are small, so there is little to gain from overlapping communication
with the backward pass; frozen parameters, a process without structures, and gradients accumulated
over several batches need nothing special; and a loss on forces calls autograd inside the model,
which DDP's hooks are not made for.

Processes must see the same files. One that ends is noticed by the others at once, one that hangs
after `TIMEOUT`; they then end with one sentence, and the run goes on from its last saved state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

T = TypeVar("T")

TIMEOUT = timedelta(minutes=15)
"""How long a process waits for the others in the middle of a step."""

_PATIENCE = timedelta(days=30)
"""The same where the main process alone has work, such as reading files, that may take long."""


class ProcessLost(ValueError):
    """Another process has ended, or no longer answers."""


@dataclass(frozen=True)
class _Group:
    store: dist.Store
    patient: dist.ProcessGroup


_group: _Group | None = None


@contextmanager
def processes() -> Iterator[None]:
    """Context in which the processes that torchrun started know of each other.

    Without torchrun, and inside another such context, it does nothing. Of an error that all
    processes meet only one tells; the others exit with status 2.
    """
    global _group
    if _group is not None or int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield
        return
    _group = _start()
    try:
        yield
    except Exception as error:
        if not _first_to_tell(_group):
            raise SystemExit(2) from error
        raise
    finally:
        _group = None
        dist.destroy_process_group()


def _start() -> _Group:
    store, own_rank, size = next(dist.rendezvous("env://"))
    gpu = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        store=store,
        rank=own_rank,
        world_size=size,
        timeout=TIMEOUT,
    )
    patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return _Group(dist.PrefixStore("mlff2d", store), patient)


def _first_to_tell(group: _Group) -> bool:
    """Whether no other process has told of an error yet."""
    try:
        return group.store.add("errors", 1) == 1
    except RuntimeError:  # whoever kept the count is gone
        return True


@contextmanager
def _together() -> Iterator[None]:
    """Raises ProcessLost where a process is missing."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ProcessLost(
            f"one of the {world()} processes has ended or does not answer ({reason}); run the same "
            "command again to go on from the last saved state."
        ) from error


def rank() -> int:
    """Number of this process among all, from 0; 0 where there is only one."""
    return 0 if _group is None else dist.get_rank()


def world() -> int:
    """How many processes there are."""
    return 1 if _group is None else dist.get_world_size()


def is_main() -> bool:
    """Whether this is the process that reads sources, writes files and prints."""
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process, where GPUs are used; else the device itself.

    Raises ValueError where a machine has fewer GPUs than processes.
    """
    if device.type != "cuda" or world() == 1:
        return device
    local, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= n_gpus:
        raise ValueError(
            f"more processes were started on this machine than it has GPUs; give torchrun "
            f"--nproc_per_node {n_gpus}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


@contextmanager
def main_first() -> Iterator[None]:
    """The body runs in the main process; the others wait, however long that takes, and follow.

    For work whose result is found in a file by whoever comes later.
    """
    if world() > 1 and not is_main():
        wait()
    yield
    if world() > 1 and is_main():
        wait()


def wait() -> None:
    """Return once every process is here, however long that takes."""
    if _group is not None:
        with _together():
            dist.barrier(group=_group.patient)


def from_main(make: Callable[[], T]) -> T:
    """What a function of the main process returns, in every process."""
    if _group is None:
        return make()
    content = [make() if is_main() else None]
    with _together():
        dist.broadcast_object_list(content, src=0, group=_group.patient)
    return content[0]  # type: ignore[return-value]


def gather(items: Sequence[T]) -> list[list[T]]:
    """The items of every process, in the order of ranks."""
    if _group is None:
        return [list(items)]
    found: list[list[T]] = [[] for _ in range(world())]
    with _together():
        dist.all_gather_object(found, list(items))
    return found


def leave_to_main() -> NoReturn:
    """End this process when the main one has told of an error that all have met."""
    with suppress(ProcessLost):
        wait()
    raise SystemExit(2)


def sum_tensor(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place, and returned; of any shape, the same everywhere."""
    if world() > 1:
        with _together():
            dist.all_reduce(tensor)
    return tensor


def largest(value: float) -> float:
    """The largest of the values that the processes have."""
    if world() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    with _together():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return float(tensor)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over all processes, in place.

    A parameter without a gradient in one process counts as zero there; it has none afterwards only
    where no process had one.
    """
    if world() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    present = trained[0].new_tensor([p.grad is not None for p in trained])
    flat = sum_tensor(torch.cat([part.flatten() for part in parts] + [present]))
    *sums, present = flat.split([p.numel() for p in trained] + [len(trained)])
    for parameter, total, n_present in zip(trained, sums, present.tolist(), strict=True):
        parameter.grad = total.view_as(parameter) if n_present else None


def share(ids: Sequence[int], n_edges: NDArray[np.int64]) -> list[int]:
    """The structures of a batch that this process computes, in the order of the batch; maybe none.

    Dealt out from the largest to the smallest, each to the process with the fewest edges so far.
    `n_edges` are those of all structures of the data.
    """
    if world() == 1:
        return list(ids)
    loads, own = [0] * world(), []
    for k in sorted(range(len(ids)), key=lambda k: (-n_edges[ids[k]], k)):
        taker = loads.index(min(loads))
        loads[taker] += int(n_edges[ids[k]]) + 1  # one more, so that lone atoms are dealt out too
        if taker == rank():
            own.append(k)
    return [ids[k] for k in sorted(own)]


def deal(items: Sequence[T]) -> list[T]:
    """Every n-th item, beginning with the one of this process; `undeal` is the way back."""
    return list(items[rank() :: world()])


def undeal(items: Sequence[T]) -> list[T]:
    """What every process made of the items that `deal` gave it, in the order before."""
    parts = gather(items)
    n_items = sum(map(len, parts))
    return [parts[k % len(parts)][k // len(parts)] for k in range(n_items)]


def refuse_drift(module: nn.Module) -> None:
    """Raise ValueError unless weights and buffers are the same in every process."""
    if world() == 1:
        return
    tensors = [*module.parameters(), *module.buffers()]
    digest = torch.stack([t.detach().double().nan_to_num().sum() for t in tensors]).cpu()
    if any(not torch.equal(theirs, digest) for [theirs] in gather([digest])):
        raise ValueError(
            "the weights are no longer the same in all processes; give them equal machines with "
            "the same version of torch, or train with one process."
        )
