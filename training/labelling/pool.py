"""Processes that label; one that dies or hangs is replaced, and its structure passed over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from .journal import DONE, FAILED
from .worker import Order, Task

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

TRIES = 3
"""Times in a row that a process is started anew that did not even begin."""

_TICK = 0.5  # s, within which a request to stop is noticed


class _Process:
    """One worker and what it is doing."""

    def __init__(self, order: Order, threads: int, log: Path) -> None:
        self.log = log
        self.task: Task | None = None
        self.ready = False
        self.deadline = float("inf")
        ours, theirs = Pipe()
        self.connection: Connection[Any, Any] = ours
        environment = os.environ | {name: str(threads) for name in _THREADS}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,  # never written to; its end tells that this process is gone
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a signal to the group is for this process to deal with
                env=environment,
            )
        theirs.close()
        with contextlib.suppress(OSError):  # it is gone already, which is noticed later
            self.connection.send(order)

    def end(self) -> int:
        """Kill it where it still lives, with the programs that it started; its exit status."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        return self.process.wait()

    def last_words(self) -> str:
        """What its log says of its end: an error of Python, else its last line."""
        try:
            lines = [line.strip() for line in self.log.read_text(errors="replace").split("\n")]
        except OSError:
            return ""
        fatal = [line for line in lines if line.startswith("Fatal Python error")]
        return next((line for line in [*fatal, *reversed(lines)] if line), "")[:200]


class Pool:
    """Up to `count` workers; a context manager that leaves none behind.

    Parameters
    ----------
    order : what each is told
    count : workers
    threads : of the processor, of each
    timeout : seconds for a structure, None for as long as it takes
    """

    def __init__(self, order: Order, count: int, threads: int, timeout: float | None) -> None:
        self._order, self._count, self._threads = order, count, threads
        self._timeout = timeout
        self._workers: dict[int, _Process] = {}
        self._stillborn = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers.values():
            worker.end()

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[str, str, dict[str, Any]] | None]:
        """Do the tasks; what comes of them as arguments of `Journal.add`: key, status, others.

        None comes in between, at least every half second. Raises ValueError where no worker can
        begin.
        """
        left = True
        while left or any(worker.task for worker in self._workers.values()):
            for place in range(self._count):
                worker = self._workers.get(place)
                if left and (worker is None or worker.task is None):
                    task = next(tasks, None)
                    if task is None:
                        left = False
                    else:
                        self._begin(place, task)
            yield from self._events()

    def _begin(self, place: int, task: Task) -> None:
        if place not in self._workers:
            log = self._order.folder / f"worker-{place}.log"
            self._workers[place] = _Process(self._order, self._threads, log)
        worker = self._workers[place]
        worker.task = task
        if worker.ready:
            self._hand_over(place)

    def _hand_over(self, place: int) -> None:
        worker = self._workers[place]
        worker.deadline = time.monotonic() + (self._timeout or float("inf"))
        try:
            worker.connection.send(worker.task)
        except OSError:  # it died when it had nothing to do
            self._again(place)

    def _events(self) -> Iterator[tuple[str, str, dict[str, Any]] | None]:
        busy = {w.connection: place for place, w in self._workers.items() if w.task is not None}
        for connection in wait(list(busy), _TICK):
            place = busy[connection]  # type: ignore[index]
            worker = self._workers[place]
            assert worker.task is not None
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                if worker.ready:
                    yield self._died(place)
                else:
                    self._again(place)
                continue
            if message is None:
                worker.ready, self._stillborn = True, 0
                self._hand_over(place)
                continue
            key = worker.task.key
            if message[0] in (DONE, FAILED):
                worker.task, worker.deadline = None, float("inf")
            yield key, *message
        for place, worker in list(self._workers.items()):
            if worker.task is not None and time.monotonic() > worker.deadline:
                reason = f"it took longer than {self._timeout:g} s"
                yield worker.task.key, FAILED, {"reason": reason, "cpu_s": self._timeout}
                self._workers.pop(place).end()
        yield None

    def _again(self, place: int) -> None:
        """Replace a worker that died before it began with its structure.

        Raises ValueError where that happens time and again; where memory is short it may once.
        """
        worker = self._workers.pop(place)
        assert worker.task is not None
        status, words = worker.end(), worker.last_words()
        self._stillborn += 1
        if self._stillborn > TRIES:
            raise ValueError(
                f"the processes that label cannot begin (status {status}): {words or 'no reason'}"
            )
        self._begin(place, worker.task)

    def _died(self, place: int) -> tuple[str, str, dict[str, Any]]:
        """A worker is gone; what to say of its structure."""
        worker = self._workers.pop(place)
        assert worker.task is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(5.0)  # it closed its end; its status is more telling than our kill
        status, words = worker.end(), worker.last_words()
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
            if -status == signal.SIGKILL:
                how += ", perhaps for lack of memory"
        else:
            how = f"ended with status {status}"
        reason = f"the process that computed it {how}" + (f" ({words})" if words else "")
        return worker.task.key, FAILED, {"reason": reason}
