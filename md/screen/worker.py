"""A block of a screen on a worker of dask.distributed."""

from __future__ import annotations

import hashlib
import pickle
import time
from dataclasses import dataclass
from functools import lru_cache

import torch
from distributed import get_worker

from .block import Work, run_block
from .row import Record
from .run_folder import RunFolder

_TELL = 1.0  # seconds between two reports


@dataclass(frozen=True)
class Order:
    """What a worker needs for any block of a screen.

    Attributes
    ----------
    folder : with an absolute path
    run : digest of the file that tells this folder from others at the same place
    work : pickled
    threads : see `spread`
    topic : of the events that say how many steps were taken
    """

    folder: RunFolder
    run: str
    work: bytes
    threads: int | None
    topic: str


def relax_block(order: Order, k: int, samples: bytes) -> bool:
    """`run_block` on a worker."""
    if run_digest(order.folder) != order.run:
        raise ConnectionError(
            f"the worker {get_worker().address} does not see the run folder {order.folder.path}; "
            "put the output where all machines of the cluster see it at the same path"
        )
    if order.threads is not None:
        torch.set_num_threads(order.threads)
    messenger = _Messenger(order.topic)
    try:
        done = run_block(
            order.folder, k, pickle.loads(samples), _unpickled(order.work), messenger.report
        )
    except _Dismissed:
        return False
    messenger.tell()
    return done


@lru_cache(maxsize=1)
def _unpickled(work: bytes) -> Work:
    return pickle.loads(work)


def run_digest(folder: RunFolder) -> str:
    """A digest of the file that tells a run folder from others; "" where there is none."""
    try:
        return hashlib.sha256((folder.path / "run.json").read_bytes()).hexdigest()
    except OSError:
        return ""


class _Dismissed(BaseException):
    """Nobody waits for the task any more. No Exception, as those are for a structure to blame."""


class _Messenger:
    """Sends from the worker how many steps were taken, and ends what nobody waits for."""

    def __init__(self, topic: str) -> None:
        self._worker, self._topic = get_worker(), topic
        self._task = self._worker.get_current_task()
        self._steps, self._told = 0, time.monotonic()

    def report(self, finished: list[Record], structure_steps: int) -> None:
        """See `Report`. Raises _Dismissed where the task was cancelled, or its client is gone."""
        self._steps += structure_steps
        if time.monotonic() - self._told > _TELL:
            self.tell()
        task = self._worker.state.tasks.get(self._task)
        if task is None or task.state == "cancelled":
            raise _Dismissed

    def tell(self) -> None:
        """Send the steps since the last time."""
        self._worker.log_event(self._topic, self._steps)
        self._steps, self._told = 0, time.monotonic()
