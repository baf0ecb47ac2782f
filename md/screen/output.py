"""Results of many structures on disk, written so that a run killed at any byte can go on.

Three files grow together, a structure at a time: the frames (extended XYZ), the table (CSV) and a
journal. The journal's first line holds the settings of the run; each further line says that a
structure is finished and where frames and table end after it. What lies behind the last complete
line of the journal is cut off when a run goes on.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ase import Atoms
from ase.io import write

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs writing to one file are not noticed there
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
"""Number of the journal's format."""

_SUFFIXES = (".extxyz", ".xyz")

_DIGESTS = {"input_sha256": "input file", "model": "model"}
"""Settings that are digests, and what to call them."""


def check_output(frames: Path) -> None:
    """Refuse a path that frames cannot be written to, before any work is done.

    Raises ValueError where it is no .extxyz or .xyz file, FileNotFoundError where its folder does
    not exist.
    """
    if frames.suffix not in _SUFFIXES:
        raise ValueError(
            f"the output {frames} is extended XYZ; give it a name that ends in .extxyz"
        )
    if not frames.parent.is_dir():
        raise FileNotFoundError(f"the folder {frames.parent} does not exist; make it first")


class OutputFiles:
    """Frames, table and journal of one run; a context manager that holds them open.

    Parameters
    ----------
    frames : path of the extended XYZ file; the table is beside it with the suffix .csv, the
        journal with .progress.jsonl
    columns : the header of the table
    settings : all that the results depend on, by name, as primitives
    restart : begin anew whatever is there

    Raises
    ------
    ValueError where the path is no .extxyz or .xyz file, holds something that is no unfinished run,
    or a run with other settings, and where another process is writing to it. FileNotFoundError
    where the folder does not exist.
    """

    def __init__(
        self,
        frames: Path,
        columns: Sequence[str],
        settings: dict[str, Any],
        restart: bool = False,
    ) -> None:
        check_output(frames)
        self.frames_path = frames
        self.table_path = frames.with_suffix(".csv")
        self.journal_path = frames.with_suffix(".progress.jsonl")
        self.columns = list(columns)
        self._settings = {"format": FORMAT, **settings}
        self._restart = restart
        self.n_done = 0

    def __enter__(self) -> OutputFiles:
        journal_exists = self.journal_path.exists()
        if not (journal_exists or self._restart):
            self._refuse_foreign_files()
        self._journal = _open(self.journal_path)
        try:
            self._lock()
            frames_end, table_end = 0, 0
            lines = [] if self._restart else _complete_lines(self._journal)
            if lines:
                self._refuse_other_settings(lines[0])
                frames_end, table_end = self._go_on(lines)
            else:
                _cut(self._journal, 0)
                self._append(self._journal, _json_line(self._settings))
            self._frames, self._table = _open(self.frames_path), _open(self.table_path)
        except BaseException:
            self._journal.close()
            raise
        _cut(self._frames, frames_end)
        _cut(self._table, table_end)
        if table_end == 0:
            self._append(self._table, _csv_line(self.columns))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (self._frames, self._table, self._journal):
            file.close()

    def add(self, atoms: Atoms | None, row: Sequence[object]) -> None:
        """Write one structure: its frame (None: it has none) and its row of the table."""
        if atoms is not None:
            self._append(self._frames, _frame(atoms))
        self._append(self._table, _csv_line(row))
        ends = {"frames_end": self._frames.tell(), "table_end": self._table.tell()}
        self._append(self._journal, _json_line(ends))
        self.n_done += 1

    def rows(self) -> list[dict[str, str]]:
        """The rows of the table so far, each by column."""
        with self.table_path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _go_on(self, lines: list[bytes]) -> tuple[int, int]:
        """Where frames and table end after the last structure that all three files hold."""
        sizes = [p.stat().st_size if p.exists() else 0 for p in (self.frames_path, self.table_path)]
        ends, journal_end = (0, 0), len(lines[0])
        for line in lines[1:]:
            try:
                record = json.loads(line)
            except ValueError:  # a machine that went down may leave a hole in the file
                break
            here = (record["frames_end"], record["table_end"])
            if here[0] > sizes[0] or here[1] > sizes[1]:
                break
            ends, self.n_done = here, self.n_done + 1
            journal_end += len(line)
        _cut(self._journal, journal_end)
        return ends

    def _refuse_foreign_files(self) -> None:
        for path in (self.frames_path, self.table_path):
            if path.exists():
                raise ValueError(
                    f"{path} exists and belongs to no run that could go on; "
                    "give another -o, or add --restart to write over it"
                )

    def _refuse_other_settings(self, line: bytes) -> None:
        try:
            before = dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.journal_path} is no journal of a relaxation; "
                "give another -o, or add --restart to write over it"
            ) from error
        changed = [
            f"another {_DIGESTS[key]}"
            if key in _DIGESTS
            else f"{key} {before.get(key)!r}, now {self._settings.get(key)!r}"
            for key in sorted({*before, *self._settings})
            if before.get(key) != self._settings.get(key)
        ]
        if changed:
            raise ValueError(
                f"{self.frames_path} was begun with {'; '.join(changed)}: go on as it was begun, "
                "give another -o, or add --restart to begin anew"
            )

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:  # released by the system when the process ends, however it ends
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another run is writing to {self.frames_path}; wait for it or give another -o"
            ) from error

    @staticmethod
    def _append(file: BinaryIO, data: bytes) -> None:
        file.write(data)
        file.flush()


def _open(path: Path) -> BinaryIO:
    """Open for reading and writing at any place, without emptying; made where it is missing."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _cut(file: BinaryIO, end: int) -> None:
    file.seek(end)
    file.truncate()


def _complete_lines(file: BinaryIO) -> list[bytes]:
    """Lines up to the last that was written in full."""
    file.seek(0)
    return [line for line in file if line.endswith(b"\n")]


def _json_line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True) + "\n").encode()


def _csv_line(row: Sequence[object]) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def _frame(atoms: Atoms) -> bytes:
    text = StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue().encode()
