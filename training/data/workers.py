"""Processes that make batches.

Each opens the HDF5 files for itself and hands over plain arrays. They are started anew, not forked
from a process with threads and perhaps a GPU, and end with it, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .frames import Arrays, Frames, Ids, count_edges, find_edges, make_batch

T = TypeVar("T")

_AHEAD = 2  # tasks for each process that are begun before they are asked for


class WorkerError(ValueError):
    """A process that made batches has died; the message says what to do."""


class Workers:
    """So many processes, started when they are first needed, that serve one data set."""

    def __init__(self, frames: Frames, cutoff: float, count: int) -> None:
        self._frames, self._cutoff, self._count = frames, cutoff, count
        self._pool: ProcessPoolExecutor | None = None

    def batches(self, batches: Iterable[Ids]) -> Iterator[Arrays]:
        """`make_batch` of each, in order. Raises WorkerError where a process dies."""
        return self._in_order(_make_batch, batches)

    def count_edges(
        self, blocks: Sequence[Ids]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """`frames.count_edges` of each block, in order."""
        return self._in_order(_count_edges, blocks)

    def pids(self) -> list[int]:
        """The processes that run."""
        return [] if self._pool is None else list(self._pool._processes)

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _in_order(self, function: Callable[[Ids], T], tasks: Iterable[Ids]) -> Iterator[T]:
        waiting: deque[Future[T]] = deque()
        tasks = iter(tasks)
        try:
            while True:
                while len(waiting) < _AHEAD * self._count:
                    try:
                        ids = next(tasks)
                    except StopIteration:
                        break
                    waiting.append(self._started().submit(function, ids))
                if not waiting:
                    return
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            self.close()
            raise WorkerError(
                "a process that makes batches has died, perhaps for lack of memory (or a script "
                "lacks `if __name__ == '__main__':`); set data.workers to a smaller number or to "
                "0, and run the same command again to go on."
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            methods = multiprocessing.get_all_start_methods()
            how = "forkserver" if "forkserver" in methods else "spawn"
            context = multiprocessing.get_context(how)
            if how == "forkserver":
                context.set_forkserver_preload([__name__])
            # They may have been started in another folder.
            arguments = ([path.resolve() for path in self._frames.paths], self._cutoff)
            self._pool = ProcessPoolExecutor(self._count, context, _begin, arguments)
        return self._pool


_frames: Frames
_cutoff: float


def _begin(paths: Sequence[Any], cutoff: float) -> None:
    """In a new process: open the files, leave Ctrl-C to the parent, and do not outlive it."""
    global _frames, _cutoff
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _frames, _cutoff = Frames(paths), cutoff


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_batch(ids: Ids) -> Arrays:
    return make_batch(_frames, ids, _cutoff)


def _count_edges(ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    ids = np.asarray(ids)
    counts = _frames.offset[ids + 1] - _frames.offset[ids]
    return count_edges(find_edges(_frames, ids, _cutoff), counts)
