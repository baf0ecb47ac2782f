"""Frames of a replica in a file, which can be cut back to where a run goes on.

Extended XYZ, or ASE's .traj; which one the file's name says. A file is open only while a frame is
written, so that a thousand replicas need no thousand open files.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from ase import Atoms
from ase.io import write
from ase.io.trajectory import Trajectory

from mlff2d.files import naming, write_text

SUFFIXES = (".extxyz", ".xyz", ".traj")
"""What the name of a trajectory may end in."""

Place = tuple[int, int, int]
"""Where a file ends: bytes; of .traj also frames, and where its table of frames begins."""

BEGINNING: Place = (0, 0, 0)
"""Where an empty file ends."""

_ULM_COUNTERS = 32  # where the header of .traj holds the two integers behind the bytes


def check_suffix(path: Path) -> None:
    """Raise ValueError where a name does not say which format is meant."""
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"the output {path} does not say which format is meant; let its name end in "
            f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        )


class FrameFile:
    """The trajectory of one replica, see `SUFFIXES`.

    Written at the same step a file has the same bytes, however often a run was killed on the way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_ulm = path.suffix == ".traj"

    def add(self, atoms: Atoms) -> None:
        """Write a frame behind the others."""
        if self._is_ulm:
            with naming(self.path), Trajectory(self.path, "a") as file:
                file.write(atoms)
        else:
            with naming(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(as_text(atoms))

    def place(self) -> Place:
        """Where the file ends now, for `cut`; all before it is on the disk when this returns."""
        if not self.path.exists():
            return BEGINNING
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
            if not (self._is_ulm and size):
                return (size, 0, 0)
            file.seek(_ULM_COUNTERS)
            return (size, *struct.unpack("<qq", file.read(16)))

    def cut(self, place: Place) -> None:
        """Forget what was written behind a place.

        Raises ValueError where the file does not reach so far.
        """
        size, n_frames, table = place
        if not size:
            self.path.unlink(missing_ok=True)
            return
        if not self.path.exists() or self.path.stat().st_size < size:
            raise ValueError(
                f"{self.path} is shorter than the run that it belongs to has written; "
                "add --restart to begin anew, or give another -o"
            )
        with self.path.open("r+b") as file:
            file.truncate(size)
            if self._is_ulm:
                # What the table of frames holds behind these is written over, with the same.
                file.seek(_ULM_COUNTERS)
                file.write(struct.pack("<qq", n_frames, table))


def as_text(atoms: Atoms) -> str:
    """A frame in extended XYZ."""
    text = StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue()


def write_frames(path: Path, frames: Sequence[Atoms]) -> None:
    """Write a file of extended XYZ, all or nothing."""
    write_text("".join(map(as_text, frames)), path)
