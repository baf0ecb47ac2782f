"""Many structures of many files as one numbered list, of which any stretch is read by itself.

A file that cannot be read, or a frame of it, holds its place in the list with the reason.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from mlff2d.cif import refuse_disorder
from mlff2d.dataset_file import DatasetFile, is_hdf5
from mlff2d.errors import StructureError
from mlff2d.reading import Frame, FrameFile, frame_file, without_compression

SUFFIXES = (
    *(".cif", ".extxyz", ".xyz", ".vasp", ".poscar", ".xsf"),
    *(".traj", ".db", ".aselmdb", ".h5", ".hdf5"),
)
"""Endings of the files that count in a folder, packed (.gz, .bz2, .xz) or not."""

VASP_NAMES = ("POSCAR", "CONTCAR")
"""Files that count in a folder whatever they end in; CONTCAR only where no POSCAR is beside it."""

HASHED = 2**30
"""Bytes up to which a digest is of the whole content of a file."""

_PIECE = 2**24  # bytes at either end of a larger file that its digest is of


@dataclass(frozen=True, slots=True)
class Found:
    """A structure and where it is.

    Attributes
    ----------
    index : place among all structures, from 0
    source : the file, as it was given or found
    frame : place in its file, from 0
    structure : the structure, or why it cannot be read, in a sentence that names file and frame
    """

    index: int
    source: str
    frame: int
    structure: Frame


class Sources:
    """The structures of files and folders, in the order given.

    A file is one that ASE reads, or an HDF5 file of `mlff2d data build`, of which every frame is a
    structure. Of a folder every file counts that ends in one of `SUFFIXES` or is called as one of
    `VASP_NAMES`, at any depth and sorted by name; hidden ones are passed over. A file counts once.

    Attributes
    ----------
    digest : changes where a name, the order, or a content changes. The content of an HDF5 file is
        the digest in its head; of other files up to `HASHED` bytes it is all of it, of larger ones
        their size, the time of their last change, and what stands at their beginning and end.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        leave_out: Collection[Path] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Find the files and count their structures, which for text takes as long as reading it.

        `leave_out` are files and folders that count in no folder, such as what is written;
        `progress` is called with the number of files counted, and of all. Raises StructureError for
        a path that is not there, a folder without structures, and where no file can be read at all.
        """
        files = structure_files([Path(path) for path in paths], leave_out)
        self._parts = []
        digest = hashlib.blake2b(digest_size=16)
        for done, path in enumerate(files):
            progress(done, len(files))
            part = _Part(path)
            self._parts.append(part)
            digest.update(
                f"{path}\0{part.count}\0{part.content}\n".encode(errors="surrogateescape")
            )
        progress(len(files), len(files))
        self.digest = digest.hexdigest()
        self._ends = list(accumulate(part.count for part in self._parts))
        faults = [part.fault for part in self._parts]
        if all(faults):
            raise faults[0] or StructureError("no file was given.")

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, first: int = 0, last: int | None = None) -> Iterator[Found]:
        """Structures first to last - 1 (None: to the end), one in memory at a time.

        Raises OSError where a file is no longer what was counted: its structures would be others.
        """
        last = len(self) if last is None else min(last, len(self))
        k = bisect_right(self._ends, first)
        while first < last:
            part, before = self._parts[k], self._ends[k] - self._parts[k].count
            end = min(last, self._ends[k])
            for frame, structure in part.read(first - before, end - before):
                yield Found(before + frame, str(part.path), frame, structure)
            first, k = end, k + 1


class _Part:
    """One file: the number of its structures, 1 where none can be read, and a digest of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault: StructureError | None = None
        self.content = ""
        self._stamp = _stamp(path)
        self._file: FrameFile | None = None
        try:
            self.content, self._file = _opened(path)
            self.count = self._file.count()
            if not self.count:
                raise StructureError(f"{path}: the file holds no structure.")
        except StructureError as error:
            self.fault, self.count = error, 1

    def read(self, first: int, last: int) -> Iterator[tuple[int, Frame]]:
        """Exactly these frames. Raises OSError where the file is no longer what was counted."""
        if self.fault is not None or self._file is None:
            yield from (
                (index, self.fault or _gone(self.path, index)) for index in range(first, last)
            )
            return
        expected, fault = first, None
        self._require_unchanged()
        try:
            for index, frame in self._file.frames(first, last):
                yield index, _ordered(self.path, index, frame)
                expected = index + 1
        except StructureError as error:
            fault = error
        self._require_unchanged()
        for index in range(expected, last):
            yield index, fault or _gone(self.path, index)

    def _require_unchanged(self) -> None:
        """A new time alone does not make it another file."""
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        try:
            content = _opened(self.path)[0]
        except StructureError:
            content = ""
        if content != self.content:
            raise OSError(
                f"{self.path} was changed or removed while its structures were being used; "
                "put it back as it was, or begin anew with what it is now"
            )
        self._stamp = stamp


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None where there is no such file any more."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _gone(path: Path, index: int) -> StructureError:
    return StructureError(f"{path}, frame {index}: it was counted and cannot be found again.")


def _opened(path: Path) -> tuple[str, FrameFile]:
    """The digest of a file's content, and the file. Raises StructureError for one that is none."""
    # An HDF5 file whose first bytes are damaged is known by its name alone.
    if is_hdf5(path) or path.suffix in (".h5", ".hdf5"):
        file = DatasetFile(path)
        return file.content(), file
    try:
        return _digest(path), frame_file(path)
    except OSError as error:
        raise StructureError(f"{path}: it cannot be read ({error.strerror or error}).") from error


def _digest(path: Path) -> str:
    """A digest of a file, or of what a change of a large one nearly always changes."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size <= HASHED:
            return hashlib.file_digest(file, "blake2b").hexdigest()
        digest = hashlib.blake2b(f"{status.st_size} {status.st_mtime_ns}".encode())
        digest.update(file.read(_PIECE))
        file.seek(-_PIECE, os.SEEK_END)
        digest.update(file.read(_PIECE))
        return digest.hexdigest()


def _ordered(path: Path, index: int, frame: Frame) -> Frame:
    """The frame, or that a CIF file leaves open which atoms it has."""
    if isinstance(frame, StructureError):
        return frame
    try:
        refuse_disorder(frame)
    except StructureError as error:
        return StructureError(f"{path}, frame {index}: {error}")
    return frame


def structure_files(paths: Sequence[Path], leave_out: Collection[Path] = ()) -> list[Path]:
    """The files meant by files and folders, each once, as `Sources` says.

    Raises StructureError for a path that is not there and a folder without any.
    """
    left_out = {path.resolve() for path in leave_out}
    files: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise StructureError(f"{path}: there is no such file or folder.")
        for file in _inside(path, left_out) if path.is_dir() else [path]:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _inside(folder: Path, left_out: Collection[Path]) -> list[Path]:
    files = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or Path(real) in left_out:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found = [Path(place, name) for name in sorted(names) if _is_structure(name, names)]
        files += [file for file in found if file.resolve() not in left_out]
    if not files:
        raise StructureError(
            f"{folder}: the folder holds no structure at any depth; it is searched for files that "
            f"end in {', '.join(SUFFIXES)} (packed or not) and for {' and '.join(VASP_NAMES)}."
        )
    return files


def _is_structure(name: str, beside: Collection[str]) -> bool:
    if name.startswith("."):
        return False
    if name.startswith("CONTCAR") and name.replace("CONTCAR", "POSCAR", 1) in beside:
        return False
    plain = without_compression(Path(name))
    return plain.suffix.lower() in SUFFIXES or plain.name.startswith(VASP_NAMES)
