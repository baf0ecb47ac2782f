"""What is labelled, on disk: a line of JSON for each frame and for each end, only ever added to.

A structure is known by its content, not by its place, so that a list may grow, shrink or change its
order between two runs and what was computed is used again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlff2d.files import naming

DONE, FAILED, STEP = "done", "failed", "step"
"""What a line says of its structure: it is finished, it was given up, or one step was computed."""

UNUSABLE = "unusable"
"""What no line says: the calculator cannot work, for this structure and for any other."""


def key_of(atoms: Atoms) -> str:
    """The name of a structure by elements, positions (to 1e-6 Å), cell, periodicity and moments."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(atoms.numbers.astype(np.int64).tobytes())
    for values in (atoms.positions, atoms.cell.array, atoms.get_initial_magnetic_moments()):
        # Adding zero makes -0.0 what it is equal to.
        digest.update((np.round(np.asarray(values, dtype=float), 6) + 0.0).tobytes())
    digest.update(np.asarray(atoms.pbc, dtype=bool).tobytes())
    return digest.hexdigest()


@dataclass
class Entry:
    """What is known of a structure.

    Attributes
    ----------
    status : `DONE`, `FAILED`, or `STEP` where its relaxation was broken off
    reason : a sentence where it failed, or where a relaxation did not converge
    cpu_s : seconds of the processor in all
    places : where in the journal the lines of its frames begin, by their step
    """

    status: str = STEP
    reason: str = ""
    cpu_s: float = 0.0
    places: dict[int, int] = field(default_factory=dict)


class Journal:
    """A journal open to be read and added to; a context manager. One process at a time has it.

    A line that was not written in full, as a machine that goes down leaves one, is cut off.

    Attributes
    ----------
    entries : what is known, by the key of the structure
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}

    def __enter__(self) -> Journal:
        with naming(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        self._file = os.fdopen(descriptor, "r+b")
        self._end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                self._note(json.loads(line), self._end)
            except (ValueError, KeyError, TypeError):
                break
            self._end += len(line)
        rest = self._file.seek(0, os.SEEK_END) - self._end
        if rest:
            self._keep_aside(rest)
        return self

    def _keep_aside(self, rest: int) -> None:
        """Move what cannot be read out of the way; it may be more than a last line."""
        self._file.seek(self._end)
        with naming(self.path), self.path.with_suffix(".damaged").open("ab") as file:
            file.write(self._file.read(rest))
        self._file.truncate(self._end)

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(
        self,
        key: str,
        status: str,
        frame: dict[str, Any] | None = None,
        step: int = 0,
        reason: str = "",
        cpu_s: float = 0.0,
    ) -> None:
        """Write what became of a structure. Raises OSError (one sentence) where there is no room.

        From then on it outlives this process, and after `sync` the machine.
        `frame` is what `frames.pack` makes; `cpu_s` is what this line took.
        """
        record = {"key": key, "status": status, "step": step, "reason": reason, "cpu_s": cpu_s}
        line = json.dumps(record | {"frame": frame}, allow_nan=False).encode() + b"\n"
        with naming(self.path):
            try:
                self._file.seek(self._end)
                self._file.write(line)
                self._file.flush()
            except OSError:
                os.ftruncate(self._file.fileno(), self._end)
                raise
        self._note(record | {"frame": frame}, self._end)
        self._end += len(line)

    def sync(self) -> None:
        """Have on disk what was added. Raises OSError (one sentence) where there is no room."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    def _note(self, record: dict[str, Any], place: int) -> None:
        entry = self.entries.setdefault(record["key"], Entry())
        entry.status, entry.reason = record["status"], record["reason"]
        entry.cpu_s += record["cpu_s"]
        if record["frame"] is not None:
            # Frames come in the order of their steps: later ones are of a way that was left.
            known = {step: at for step, at in entry.places.items() if step < record["step"]}
            entry.places = known | {record["step"]: place}

    def frames(self, key: str) -> list[dict[str, Any]]:
        """The frames of a structure in the order of their steps."""
        entry = self.entries.get(key)
        return [] if entry is None else [self._frame(entry.places[s]) for s in sorted(entry.places)]

    def _frame(self, place: int) -> dict[str, Any]:
        self._file.seek(place)
        frame: dict[str, Any] = json.loads(self._file.readline())["frame"]
        return frame
