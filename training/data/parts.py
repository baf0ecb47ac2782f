"""A folder of finished pieces of a file that is being made, so that a killed build goes on.

Each piece is a file of its own that gets its name when it is complete, and says how far it goes. An
HDF5 file that is killed while it grows may be lost as a whole; these are put together at the end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mlff2d.errors import StructureError
from mlff2d.files import naming

from ..console import make_console
from .columns import Columns

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_PROGRESS = "progress"  # the name of no column


class Parts:
    """The pieces beside a file to be made; one process at a time works on them.

    Attributes
    ----------
    state : what the last piece says of how far the work is; None before the first
    """

    def __init__(self, path: Path, plan: Any, wait: bool = False) -> None:
        """`plan` is what the file shall be made of; pieces of another plan are thrown away.

        Entering raises StructureError where another process works on the file, or waits for it.
        """
        self.path = path
        self.folder = path.with_name(f"{path.name}.parts")
        self.state: Any = None
        self._plan, self._wait = json.dumps(plan), wait
        self._count = 0
        self._lock: Any = None

    def __enter__(self) -> Parts:
        with naming(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
        self._take_lock()
        plan = self.folder / "plan.json"
        if not (plan.exists() and plan.read_text() == self._plan):
            for old in self.folder.glob("*.npz"):
                old.unlink()
            plan.write_text(self._plan)
        self._count = len(self._pieces())
        if self._count:
            with np.load(self._pieces()[-1]) as piece:
                self.state = json.loads(str(piece[_PROGRESS]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        hopeless = kind is not None and issubclass(kind, StructureError)
        if kind is None or hopeless or self._count == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()  # last, so that nobody begins in a folder that goes away

    def _take_lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if self._wait:
                make_console().print(f"Waiting for another process that makes {self.path}.")
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                self.folder.mkdir(exist_ok=True)  # which that one has taken away when it was done
                return
            self._lock.close()
            raise StructureError(
                f"{self.path}: another process is making this file; wait until it is done."
            ) from error
        except OSError:  # a file system without locks
            pass

    def _pieces(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.npz"))

    def add(self, columns: Columns, state: Any) -> None:
        """Keep a piece, and how far the work is with it."""
        unfinished = self.folder / "unfinished.npz"
        with naming(self.path), unfinished.open("wb") as file:
            np.savez(file, **columns, **{_PROGRESS: np.array(json.dumps(state))})  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())  # a machine that stops must not leave a name without content
        os.replace(unfinished, self.folder / f"{self._count:08d}.npz")
        self._count, self.state = self._count + 1, state

    def nbytes(self) -> int:
        """Bytes of all pieces, a little more than the file will have."""
        return sum(piece.stat().st_size for piece in self._pieces())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Columns]:
        """The columns of every piece in order."""
        for path in self._pieces():
            with np.load(path) as piece:
                columns = {name: piece[name] for name in piece.files if name != _PROGRESS}
            if columns:
                yield columns
