"""Files of a run: written as a whole or not at all; one sentence where there is no room."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_text(text: str, path: Path) -> None:
    """Write a file, all or nothing. Raises OSError, naming it, where that cannot be."""
    unfinished = path.with_name(path.name + ".tmp")
    with naming(path):
        try:
            unfinished.write_text(text, encoding="utf-8")
            os.replace(unfinished, path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of another once it is whole and on the disk.

    Raises OSError, naming it, where that cannot be.
    """
    unfinished = path.with_name(path.name + ".tmp")
    with naming(path):
        try:
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def append_line(line: str, path: Path) -> None:
    """Add a line to a file. Raises OSError, naming it, where there is no room."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what goes wrong in writing into one sentence that names the file."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room in its folder" if full else "see whether its folder may be written to"
        raise OSError(
            f"{path} could not be written ({_why(error)}); {remedy} and run the same command again."
        ) from error


def _why(error: OSError) -> str:
    # HDF5 puts a report of its own where the system has a word.
    return os.strerror(error.errno) if error.errno else str(error)
