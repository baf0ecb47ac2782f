"""A cluster of dask.distributed: processes of this machine, or one that others have started."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client

_CONNECT = 20.0  # seconds until a scheduler that does not answer is given up
_CLOSE = 20.0  # seconds until a local cluster is left to end with this process

_LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")


def threads_each(workers: int) -> int:
    """Threads for each of several processes that share the cores of this machine."""
    return max(1, cores() // workers)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def local_cluster(workers: int) -> Iterator[Client]:
    """So many processes of this machine, which end with the context.

    Raises ValueError where dask.distributed is not installed, ConnectionError where they do not
    start.
    """
    _require_distributed()
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        from distributed import Client, LocalCluster

        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="mlff2d-"))
        # Ctrl-C reaches all processes of a terminal, and only this one shall answer it: neither
        # the others nor those that take the place of dead ones.
        with _interrupts_held():
            try:
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=None,  # the size of the batches is chosen by what there is
                    dashboard_address=None,
                    local_directory=scratch,
                    silence_logs=logging.CRITICAL,
                )
            except (OSError, RuntimeError, TimeoutError) as error:
                raise ConnectionError(
                    f"{workers} processes could not be started ({error}); take fewer --workers"
                ) from error
        stack.enter_context(suppress(TimeoutError))
        stack.callback(cluster.close, timeout=_CLOSE)
        yield stack.enter_context(Client(cluster))


@contextmanager
def remote_cluster(address: str) -> Iterator[Client]:
    """The cluster of a scheduler, by its address (tcp://host:8786) or the file that it wrote.

    Raises ValueError where dask.distributed is not installed or the file is none, ConnectionError
    where no scheduler answers.
    """
    _require_distributed()
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        from distributed import Client

        file = Path(address)
        is_file = "://" not in address and (file.exists() or file.suffix == ".json")
        if is_file and not file.exists():
            raise ValueError(
                f"there is no scheduler file {address}; start the scheduler with "
                f"dask scheduler --scheduler-file {address}"
            )
        where = {"scheduler_file": address} if is_file else {"address": address}
        try:
            client = Client(**where, timeout=_CONNECT, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise ConnectionError(
                f"no dask scheduler answers at {address}; see whether it runs and can be reached "
                "from here, or start one with dask scheduler"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{address} names no dask scheduler ({error}); give an address such as "
                "tcp://host:8786, or the scheduler's file"
            ) from error
        yield stack.enter_context(client)


def _require_distributed() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "to spread a screen over processes and machines needs the package distributed: "
            "pip install 'mlff2d[dask]'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No log of dask: what matters of it is said in a sentence of ours."""
    import distributed  # noqa: F401  (it sets its levels when it is imported)

    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Threads and processes started meanwhile never hear Ctrl-C; here it is heard afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
