"""The finished structures of one block on disk, a line each, written by one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs writing to one file are not noticed there
    fcntl = None  # type: ignore[assignment]

from .row import Record


def records_in(path: Path) -> Iterator[Record]:
    """The records of a journal in their order, up to the last that was written in full."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for _, record in whole_lines(file):
            yield record


def locked(file: BinaryIO, shared: bool = False) -> bool:
    """Keep other processes from a file as long as it is open; False where another does so.

    Those that share a lock keep only those out that do not. The lock ends with the process, however
    that ends.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, as some of clusters are
        return True
    return True


def open_for_update(path: Path) -> BinaryIO:
    """Open for reading and writing at any place, without emptying; made where it is missing."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: Exception) -> OSError:
    """What to say where there was no room for a file, or no permission."""
    why = getattr(error, "strerror", None) or error
    return OSError(
        f"{path} could not be written ({why}); what was finished before is kept, and when that is "
        "mended the same command goes on from there"
    )


class Journal:
    """A journal open for writing, a context manager; others are kept from it meanwhile.

    Entering cuts off whatever lies behind the last record that was written in full.

    Attributes
    ----------
    done : indices of the structures that are finished
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.done: set[int] = set()
        self._file = file

    @staticmethod
    def claim(path: Path) -> Journal | None:
        """Open a journal; None where another process is writing to it.

        Raises OSError where the file cannot be made.
        """
        file = open_for_update(path)
        if not locked(file):
            file.close()
            return None
        return Journal(path, file)

    def __enter__(self) -> Journal:
        whole = 0
        for end, record in whole_lines(self._file):
            self.done.add(record.index)
            whole = end
        self._file.seek(whole)
        self._file.truncate()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        except OSError:  # what could not be written was said when it was
            if error is None:
                raise

    def add(self, record: Record) -> None:
        """Write a finished structure. Raises OSError where there is no room for it."""
        try:
            self._file.write((record.as_json() + "\n").encode())
            self._file.flush()
        except OSError as error:
            raise unwritten(self.path, error) from error
        self.done.add(record.index)


def whole_lines(file: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Each record with where it ends; a machine that went down may leave a hole in the file."""
    end = 0
    for line in file:
        if not line.endswith(b"\n"):
            return
        try:
            record = Record.from_json(line)
        except (ValueError, KeyError, TypeError):
            return
        end += len(line)
        yield end, record
