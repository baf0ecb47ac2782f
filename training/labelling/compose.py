"""The output of a labelling: every frame of its journal, in the order of the input."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import ase.io
from ase import Atoms

from mlff2d.errors import StructureError
from mlff2d.files import naming
from mlff2d.sources import Found, Sources

from ..data.convert import convert
from ..data.record import Keys
from . import run_folder
from .frames import unpack
from .journal import DONE, STEP, Entry, Journal, key_of

SUFFIXES = (".h5", ".hdf5", ".extxyz", ".extxyz.gz", ".xyz", ".xyz.gz")
"""Endings that an output may have."""


@dataclass
class Outcome:
    """What came of a labelling.

    Attributes
    ----------
    done, failed, left : numbers of structures; those left were not reached
    frames : in the output
    not_converged : relaxations that took all their steps
    failures : reasons and how many structures each befell
    cpu_s : of the structures of this list, in all, those of earlier processes too
    others : structures in the journal that are not in the list
    notes : sentences that a user should read
    signal : that ended it early, or None
    """

    done: int = 0
    failed: int = 0
    left: int = 0
    frames: int = 0
    not_converged: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    cpu_s: float = 0.0
    others: int = 0
    notes: list[str] = field(default_factory=list)
    signal: int | None = None


def refuse_kind(output: Path) -> None:
    """Raise ValueError for an output that cannot be written."""
    if not output.name.endswith(SUFFIXES):
        raise ValueError(f"-o {output}: its name must end in one of {', '.join(SUFFIXES)}")
    if output.is_dir():
        raise ValueError(f"-o {output} is a folder; give the name of a file")
    if not output.parent.is_dir():
        raise ValueError(f"-o {output}: there is no folder {output.parent}; make it first")


def compose(
    sources: Sources, journal: Journal, folder: Path, output: Path, material_key: str
) -> Outcome:
    """Write the output from what the journal has, and `failed.csv`; what came of it.

    Without a frame there is no output. Raises OSError (one sentence) where there is no room.
    """
    is_text = output.suffix not in (".h5", ".hdf5")
    new = folder / f"new-{output.name}"
    frames = new if is_text else folder / f"{output.stem}.extxyz"  # the source that its head names
    tally = _Tally(journal)
    try:
        with naming(frames), _text(frames) as file:
            for found in sources.read():
                for atoms in tally.frames(found):
                    ase.io.write(file, atoms, format="extxyz")
        outcome = tally.outcome()
        if outcome.frames:
            if not is_text:
                new.unlink(missing_ok=True)
                summary = convert([frames], new, Keys(material_key))
                outcome.frames = summary.n_taken
                outcome.notes += [*summary.notes, *summary.checks]
                outcome.notes += [
                    f"{n} frames are not in {output.name}: {summary.examples[kind]}"
                    for kind, n in summary.refused.items()
                ]
            run_folder.publish(folder, new, output)
    finally:
        for path in (new, frames):
            path.unlink(missing_ok=True)
    run_folder.write_failures(folder, tally.failed)
    return outcome


class _Tally:
    """Counts what became of structures while their frames are written."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._outcome = Outcome()
        self._seen: set[str] = set()
        self.failed: list[tuple[str, int, str, str]] = []

    def frames(self, found: Found) -> Iterator[Atoms]:
        """The labelled frames of a structure in the order of their steps."""
        if isinstance(found.structure, StructureError):
            self._fail(found, "", str(found.structure))
            return
        key = key_of(found.structure)
        entry = self._journal.entries.get(key)
        self._count(found, found.structure, key, entry)
        if entry is None:
            return
        steps = self._journal.frames(key)
        for k, frame in enumerate(steps):
            atoms = unpack(frame, found.structure)
            if "step" in frame["info"]:
                last = k == len(steps) - 1
                atoms.info["converged"] = last and entry.status == DONE and not entry.reason
                atoms.info["trajectory"] = f"{found.structure.symbols} {key}"
            self._outcome.frames += 1
            yield atoms

    def _count(self, found: Found, atoms: Atoms, key: str, entry: Entry | None) -> None:
        outcome = self._outcome
        if entry is not None and key not in self._seen:
            outcome.cpu_s += entry.cpu_s
        self._seen.add(key)
        if entry is None or entry.status == STEP:
            outcome.left += 1
        elif entry.status == DONE:
            outcome.done += 1
            outcome.not_converged += bool(entry.reason)
        else:
            self._fail(found, str(atoms.symbols), entry.reason)

    def _fail(self, found: Found, formula: str, reason: str) -> None:
        self.failed.append((found.source, found.frame, formula, reason))
        self._outcome.failed += 1
        failures = self._outcome.failures
        failures[reason] = failures.get(reason, 0) + 1

    def outcome(self) -> Outcome:
        """What was counted."""
        self._outcome.others = len(self._journal.entries.keys() - self._seen)
        return self._outcome


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """A new text file, packed where its name says so, with the same bytes whenever it is made."""
    if path.suffix != ".gz":
        with path.open("w", encoding="utf-8", newline="") as plain:
            yield plain
        return
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        yield text
