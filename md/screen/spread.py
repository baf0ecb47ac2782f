"""Blocks of a screen spread over the workers of a cluster, one block at a time on each.

The structures of a block travel with its task, and the worker writes what is finished into the
run folder, which all of them see. So a worker that dies loses nothing: another takes its block up
from journal and snapshot.
"""

from __future__ import annotations

import copy
import pickle
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from distributed import Client, Future

from mlff2d.reading import one_line
from mlff2d.sources import Sources

from .block import Report, Work, silent
from .journal import whole_lines
from .row import Record
from .run_folder import RunFolder
from .worker import Order, relax_block, run_digest

PATIENCE = 120.0
"""Seconds to wait for workers where there are none."""

_POLL = 0.2  # seconds between two looks at tasks and journals
_ROLL_CALL = 2.0  # seconds between two questions to the scheduler about its workers
_RETRY, _RETRIES = 1.0, 30  # seconds between, and number of attempts at a block in other hands
_DEATHS = 5  # of workers in a row on one block without a structure finished

_GO_ON = "what is finished is kept, and the same command goes on"


def spread(
    client: Client,
    folder: RunFolder,
    sources: Sources,
    blocks: Iterable[int],
    work: Work,
    threads: int | None = None,
    report: Report = silent,
    patience: float = PATIENCE,
) -> list[int]:
    """Relax what is not finished of the blocks on a cluster; those that others are at work on.

    Parameters
    ----------
    client : of the cluster, see `local_cluster` and `remote_cluster`
    work : travels to the workers by pickle
    threads : that a worker computes with; None leaves that to it
    report : called a few times a second, also with nothing
    patience : seconds to wait for workers where there are none

    Raises
    ------
    ConnectionError where the scheduler is lost or no worker is left, and where a worker cannot see
    the run folder, lacks this package, or dies of one block again and again; OSError where a worker
    cannot write. What is finished is kept, and the same call goes on.
    """
    spreading = _Spreading(client, folder, sources, work, threads, report, patience)
    try:
        return spreading.run(blocks)
    except Exception as error:  # with the scheduler anything may fail
        if client.status == "running":
            raise
        raise ConnectionError(f"the dask scheduler is lost; {_GO_ON} with another") from error
    finally:
        spreading.stop()


class _Tail:
    """What is added to a block's journal from now on."""

    def __init__(self, folder: RunFolder, k: int) -> None:
        self._path = folder.journal(k)
        self._end = 0
        self.records()

    def records(self) -> list[Record]:
        """The records since the last time."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._end)
                new = list(whole_lines(file))
        except FileNotFoundError:
            return []
        self._end += new[-1][0] if new else 0
        return [record for _, record in new]


@dataclass
class _Task:
    """A block on its worker."""

    k: int
    future: Future
    finished: int = 0


class _Spreading:
    """The client's side: who has which block."""

    def __init__(
        self,
        client: Client,
        folder: RunFolder,
        sources: Sources,
        work: Work,
        threads: int | None,
        report: Report,
        patience: float,
    ) -> None:
        self._client, self._sources, self._report = client, sources, report
        self._folder = copy.copy(folder)
        self._folder.path = folder.path.resolve()
        topic = f"mlff2d-{secrets.token_hex(8)}"
        self._order = Order(self._folder, run_digest(folder), pickle.dumps(work), threads, topic)
        self._patience = patience
        self._steps: deque[int] = deque()  # filled by another thread
        self._todo: deque[int] = deque()
        self._running: dict[str, _Task] = {}
        self._tails: dict[int, _Tail] = {}
        self._elsewhere: dict[int, float] = {}  # blocks in other hands, and when to try again
        self._tries: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()
        self._deadly: list[int] = []
        self._workers: set[str] = set()
        self._seen = self._called = -_ROLL_CALL
        client.subscribe_topic(topic, lambda event: self._steps.append(event[1]))

    def run(self, blocks: Iterable[int]) -> list[int]:
        """See `spread`."""
        self._todo.extend(k for k in blocks if not self._folder.is_done(k))
        self._seen = time.monotonic()
        while self._todo or self._running or self._open():
            self._call_roll()
            self._give()
            time.sleep(_POLL)
            self._collect()
        if self._deadly:
            spans = [self._folder.plan.span(k) for k in sorted(self._deadly)]
            which = ", ".join(f"{first} to {last - 1}" for first, last in spans)
            raise ConnectionError(
                f"{_DEATHS} workers in a row died of structures {which} without finishing one, "
                f"perhaps for lack of memory; {_GO_ON} with larger workers, or fewer on a machine"
            )
        return sorted(self._elsewhere)

    def stop(self) -> None:
        """Have the workers leave what they are at."""
        with suppress(Exception):  # where the scheduler is lost there is nobody to tell
            self._client.cancel([task.future for task in self._running.values()], force=True)
            self._client.unsubscribe_topic(self._order.topic)

    def _open(self) -> bool:
        """Whether a block in other hands is to be tried again."""
        return any(self._tries[k] < _RETRIES for k in self._elsewhere)

    def _call_roll(self) -> None:
        """Ask which workers there are, and take back the blocks of those that are gone."""
        now = time.monotonic()
        if now - self._called < _ROLL_CALL:
            return
        self._called = now
        self._workers = set(self._client.nthreads())
        for address in [address for address in self._running if address not in self._workers]:
            task = self._running.pop(address)
            self._client.cancel([task.future], force=True)
            self._mourn(task)
        if self._workers:
            self._seen = now
        elif now - self._seen > self._patience:
            raise ConnectionError(
                f"the dask cluster has had no worker for {self._patience:.0f} s; "
                f"{_GO_ON} when there are some"
            )

    def _mourn(self, task: _Task) -> None:
        """A worker died: another takes up the block, unless it is what workers die of."""
        self._deaths[task.k] = 1 if task.finished else self._deaths[task.k] + 1
        if self._deaths[task.k] < _DEATHS:
            self._todo.appendleft(task.k)
        else:
            self._deadly.append(task.k)

    def _give(self) -> None:
        """A block to every worker that has none."""
        now = time.monotonic()
        for k in [k for k, when in self._elsewhere.items() if when <= now]:
            if self._tries[k] < _RETRIES:
                del self._elsewhere[k]
                self._todo.append(k)
        for address in sorted(self._workers - self._running.keys()):
            if not self._todo:
                return
            k = self._todo.popleft()
            samples = pickle.dumps(list(self._sources.read(*self._folder.plan.span(k))))
            self._tails.setdefault(k, _Tail(self._folder, k))
            future = self._client.submit(
                relax_block,
                self._order,
                k,
                samples,
                key=f"{self._order.topic}-block-{k}-{secrets.token_hex(4)}",
                workers=[address],
                pure=False,
            )
            self._running[address] = _Task(k, future)

    def _collect(self) -> None:
        """Report what was finished, and take in the blocks that are done."""
        done = [address for address, task in self._running.items() if task.future.done()]
        records = []
        for task in self._running.values():
            found = self._tails[task.k].records()
            task.finished += len(found)
            records += found
        self._report(records, sum(self._steps.popleft() for _ in range(len(self._steps))))
        for address in done:
            task = self._running.pop(address)
            if task.future.status == "finished":
                if not task.future.result():
                    self._tries[task.k] += 1
                    self._elsewhere[task.k] = time.monotonic() + _RETRY
            elif task.future.status == "error":
                self._judge(task, address, task.future.exception())
            else:  # lost with the scheduler, or cancelled there
                self._mourn(task)

    def _judge(self, task: _Task, address: str, error: Exception) -> None:
        """What a worker could not do. Raises what nobody but the user can mend."""
        if isinstance(error, MemoryError):
            self._mourn(task)
        elif isinstance(error, OSError):
            raise error
        elif isinstance(error, ImportError | AttributeError | pickle.UnpicklingError):
            raise ConnectionError(
                f"the worker {address} has another environment ({one_line(error)}); install the "
                "same versions of mlff2d and its packages there"
            ) from error
        else:
            raise ConnectionError(
                f"the worker {address} failed ({type(error).__name__}: {one_line(error)}); {_GO_ON}"
            ) from error
