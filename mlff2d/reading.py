"""Structures from any file that ASE reads, one after another, so that one bad frame is not the end.

Extended XYZ is cut into frames here, because ASE's reader first indexes the whole file (in a
compressed file it seeks backwards for each frame, which takes hours) and a single bad frame ends
it. ASE databases are read row by row, trajectories frame by frame; every other format goes through
`ase.io.iread`.
"""

from __future__ import annotations

import lzma
import re
import sqlite3
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing
from io import BufferedIOBase, StringIO
from itertools import islice
from pathlib import Path
from typing import cast

import ase.db
import ase.io
from ase import Atoms
from ase.db.row import AtomsRow
from ase.io.formats import (
    UnknownFileTypeError,
    filetype,
    get_compression,
    ioformats,
    open_with_compression,
)
from ase.io.trajectory import TrajectoryReader

from mlff2d.errors import StructureError

Frame = Atoms | StructureError

_XYZ_FORMATS = ("extxyz", "xyz")
_DATABASE_FORMATS = ("db", "json", "aselmdb")
# Of these the name is believed: ASE tries the first bytes against all its formats, which takes a
# millisecond, and an archive that breaks off early has none.
_BY_NAME = {".cif": "cif", ".extxyz": "extxyz", ".xyz": "xyz"}

COLLECTIONS = (*_XYZ_FORMATS, *_DATABASE_FORMATS)
"""Formats of ASE whose frames need not come from one run."""

ARCHIVE_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What reading a compressed file raises that is cut off or damaged."""


def iter_structures(path: Path | str) -> Iterator[tuple[int, Frame]]:
    """Pairs (index, structure) of a file's frames in order, counted from 0.

    Lazy: only one frame is in memory, compressed files (.gz, .bz2, .xz) included. A frame that
    cannot be parsed is yielded as a `StructureError` that names file and frame; reading goes on
    behind it where the format allows that (extended XYZ, ASE databases and trajectories). The
    key-value pairs of a database row are put into `atoms.info`.

    Raises StructureError for a file that is missing, empty, of no known format, or unreadable from
    its beginning.
    """
    empty = True
    for pair in frame_file(Path(path)).frames():
        empty = False
        yield pair
    if empty:
        raise StructureError(f"{path}: the file holds no structure.")


class FrameFile(ABC):
    """One file whose frames can be counted, and read from any of them on.

    Both agree on which frame is which, however damaged the file is: a frame that cannot be read
    has a number as well. Both raise StructureError where nothing can be read from the beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def count(self) -> int:
        """The number of frames, found with as little parsing as the format allows."""

    @abstractmethod
    def frames(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Frame]]:
        """Frames first to last - 1 (None: to the end) with their numbers."""


def frame_file(path: Path) -> FrameFile:
    """The file at a path as its format is read.

    Raises StructureError for a file that is missing, empty or of no known format.
    """
    if not path.exists():
        raise StructureError(f"{path}: there is no such file.")
    if path.is_file() and path.stat().st_size == 0:
        raise StructureError(f"{path}: the file is empty.")
    kind = file_format(path)
    if kind in _XYZ_FORMATS:
        return _XyzFile(path)
    if kind in _DATABASE_FORMATS:
        return _DatabaseFile(path)
    if kind == "traj" and without_compression(path) == path:
        return _TrajectoryFile(path)
    return _AseFile(path, kind)


def file_format(path: Path) -> str:
    """ASE's name of a file's format. Raises StructureError for one that it does not know."""
    known = _BY_NAME.get(without_compression(path).suffix.lower())
    if known:
        return known
    try:
        return filetype(str(path))
    except UnknownFileTypeError as error:
        raise StructureError(
            f"{path}: not a format that ASE knows; convert it to extended XYZ (.extxyz)."
        ) from error
    except ARCHIVE_ERRORS as error:
        raise _file_error(path, error) from error


def open_bytes(path: Path) -> BufferedIOBase:
    """The content of a file without its compression; damage is met when it is read."""
    return cast(BufferedIOBase, open_with_compression(str(path), "rb"))


def without_compression(path: Path) -> Path:
    """A file's path without its .gz, .bz2 or .xz."""
    return Path(get_compression(str(path))[0])


def frame_error(path: Path, index: int, error: Exception) -> StructureError:
    """That one frame of a file cannot be read, and why."""
    return StructureError(f"{path}, frame {index}: it cannot be read ({one_line(error)}).")


def _file_error(path: Path, error: Exception) -> StructureError:
    if path.suffix in (".h5", ".hdf5"):
        return StructureError(
            f"{path}: this is no HDF5 file, whatever its name says; make it anew with "
            "`mlff2d data build`, or name a text file as what it is."
        )
    return StructureError(
        f"{path}: the file cannot be read ({one_line(error)}); give a file that ase.io.read reads."
    )


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


class _AseFile(FrameFile):
    """Any file that `ase.io.iread` reads; what it trips over ends it."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(path)
        self.kind = kind

    def count(self) -> int:
        if self.kind in ioformats and ioformats[self.kind].single:
            return 1
        if self.kind == "cif" and self._cif_blocks() <= 1:
            return 1
        return sum(1 for _ in self.frames())

    def _cif_blocks(self) -> int:
        """The number of blocks, each a structure at most; thousands of files have one each."""
        try:
            with open_bytes(self.path) as file:
                return len(re.findall(rb"(?:^|[\r\n])\s*data_", file.read(), re.IGNORECASE))
        except ARCHIVE_ERRORS as error:
            raise _file_error(self.path, error) from error

    def frames(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Frame]]:
        return islice(self._all(), first, last)

    def _all(self) -> Iterator[tuple[int, Frame]]:
        frames = ase.io.iread(str(self.path), index=":", do_not_split_by_at_sign=True)
        index = 0
        while True:
            try:
                atoms = next(frames)
            except StopIteration:
                return
            except Exception as error:  # ASE's readers raise whatever their parsing trips over
                if index == 0:
                    raise _file_error(self.path, error) from error
                yield index, frame_error(self.path, index, error)
                return
            _take_free_energy_of_gpaw(atoms)
            yield index, atoms
            index += 1


def _take_free_energy_of_gpaw(atoms: Atoms) -> None:
    """The free energy belongs to the forces; of GPAW's text ASE attaches the extrapolated one.

    A dispersion correction, which comes on top of the contributions, is on top of both.
    """
    parts = getattr(atoms.calc, "energy_contributions", None) or {}
    if {"free energy", "extrapolated"} <= parts.keys() and "energy" in atoms.calc.results:
        correction = atoms.calc.results["energy"] - parts["extrapolated"]
        atoms.calc.results["free_energy"] = parts["free energy"] + correction


class _TrajectoryFile(FrameFile):
    """A trajectory of ASE, which holds the place of each of its frames."""

    def count(self) -> int:
        with self._opened() as reader:
            return len(reader)

    def frames(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Frame]]:
        with self._opened() as reader:
            for index in range(len(reader))[first:last]:
                try:
                    atoms = reader[index]
                except Exception as error:
                    yield index, frame_error(self.path, index, error)
                else:
                    yield index, atoms

    def _opened(self) -> TrajectoryReader:
        try:
            return TrajectoryReader(str(self.path))
        except Exception as error:
            raise _file_error(self.path, error) from error


class _DatabaseFile(FrameFile):
    """A database of ASE: SQLite row by row, any other in the order in which it gives its rows."""

    def count(self) -> int:
        ids = self._ids()
        return sum(1 for _ in self._selected()) if ids is None else len(ids)

    def frames(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Frame]]:
        ids = self._ids()
        if ids is None:
            yield from islice(self._selected(), first, last)
            return
        with ase.db.connect(str(self.path), type="db", serial=True) as database:
            for index, number in list(enumerate(ids))[first:last]:
                try:
                    atoms = _atoms_of_row(database.get(id=number))
                except Exception as error:
                    yield index, frame_error(self.path, index, error)
                else:
                    yield index, atoms

    def _ids(self) -> list[int] | None:
        """The numbers of the rows of an SQLite file; None for another database."""
        with self.path.open("rb") as file:
            if not file.read(16).startswith(b"SQLite format 3"):
                return None
        try:
            with closing(sqlite3.connect(self.path)) as connection:
                rows = connection.execute("SELECT id FROM systems ORDER BY id").fetchall()
        # Of a damaged name SQLite's own message may be no text.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _file_error(self.path, error) from error
        return [number for (number,) in rows]

    def _selected(self) -> Iterator[tuple[int, Frame]]:
        index = 0
        try:
            with ase.db.connect(str(self.path), serial=True) as database:
                for row in database.select():
                    try:
                        frame: Frame = _atoms_of_row(row)
                    except Exception as error:
                        frame = frame_error(self.path, index, error)
                    yield index, frame
                    index += 1
        except Exception as error:
            if index == 0:
                raise _file_error(self.path, error) from error
            yield index, frame_error(self.path, index, error)


def _atoms_of_row(row: AtomsRow) -> Atoms:
    atoms: Atoms = row.toatoms()
    atoms.info.update(row.key_value_pairs)
    return atoms


class _XyzFile(FrameFile):
    """Extended XYZ, cut into frames by lines alone; once counted, read from any frame on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._starts = array("q")  # of the frames known, in bytes of what is not compressed

    def count(self) -> int:
        self._starts = array("q")
        total = 0
        for start, block in self._blocks(0, 0):
            total += 1
            if not isinstance(block, StructureError):
                self._starts.append(start)
        return total

    def frames(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Frame]]:
        begin = max(min(first, len(self._starts) - 1), 0)
        offset = self._starts[begin] if begin else 0
        for index, (_, block) in enumerate(self._blocks(offset, begin), begin):
            if last is not None and index >= last:
                return
            if index < first:
                continue
            yield index, block if isinstance(block, StructureError) else self._parsed(index, block)

    def _parsed(self, index: int, block: list[bytes]) -> Frame:
        try:
            return _parse_block(block)
        except Exception as error:
            return frame_error(self.path, index, error)

    def _blocks(
        self, offset: int, index: int
    ) -> Iterator[tuple[int, list[bytes] | StructureError]]:
        """Where each frame begins and its lines; last an error where the file breaks off."""
        try:
            with open_bytes(self.path) as file:
                file.seek(offset)
                for start, block in _xyz_blocks(file, offset):
                    yield start, block
                    index += 1
        except ARCHIVE_ERRORS as error:  # e.g. a truncated archive
            if index == 0:
                raise _file_error(self.path, error) from error
            yield -1, frame_error(self.path, index, error)


def _xyz_blocks(file: Iterable[bytes], position: int) -> Iterator[tuple[int, list[bytes]]]:
    """Where each frame begins, and its lines: count, comment, atoms.

    A frame ends at its last atom, or earlier where the next count stands too early (a lone integer
    is never an atom), so that a wrong count spoils its own frame only.
    """
    block: list[bytes] = []
    start = 0
    missing = 0  # lines that the frame still needs
    for line in file:
        is_count = _is_count(line)
        in_atoms = len(block) >= 2
        if missing and not (is_count and in_atoms):
            block.append(line)
            missing -= 1
        elif is_count:
            if block:
                yield start, block
            block, start, missing = [line], position, int(line) + 1
        elif line.strip():  # cell vectors (VEC1 ...) behind the atoms, or lines that fit nowhere
            if not block:
                start = position
            block.append(line)
        position += len(line)
    if block:
        yield start, block


def _is_count(line: bytes) -> bool:
    return len(line) < 40 and line.strip().isdigit()


def _parse_block(block: list[bytes]) -> Atoms:
    """The structure of one frame; raises ValueError for lines that do not belong to it."""
    if not _is_count(block[0]):
        found = block[0].decode(errors="replace").strip()[:40]
        raise ValueError(f"expected the number of atoms, found {found!r}")
    count = int(block[0])
    if len(block) < count + 2:  # ASE would go on looking, a number of times that may be a typo
        raise ValueError(f"it has fewer lines than its count of {count} atoms")
    for line in block[count + 2 :]:
        if not line.lstrip().startswith(b"VEC"):
            raise ValueError(f"it has more lines than its count of {count} atoms")
    text = b"".join(block).decode().replace("\r\n", "\n")
    atoms: Atoms = ase.io.read(StringIO(text), index=0, format="extxyz")  # type: ignore[assignment]
    return atoms
