"""Structures from any file that ASE reads, one after another, so that one bad frame is not the end.

Extended XYZ is cut into frames here, because ASE's reader first indexes the whole file (in a
compressed file it seeks backwards for each frame, which takes hours) and a single bad frame ends
it. ASE databases are read row by row; every other format goes through `ase.io.iread`.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from io import BufferedIOBase, StringIO
from pathlib import Path
from typing import IO, Any, cast

import ase.db
import ase.io
from ase import Atoms
from ase.io.formats import (
    UnknownFileTypeError,
    filetype,
    get_compression,
    open_with_compression,
)

from mlff2d.errors import StructureError

Frame = Atoms | StructureError

_XYZ_FORMATS = ("extxyz", "xyz")
_DATABASE_FORMATS = ("db", "json", "aselmdb")

COLLECTIONS = (*_XYZ_FORMATS, *_DATABASE_FORMATS)
"""Formats of ASE whose frames need not come from one run."""

ARCHIVE_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What reading a compressed file raises that is cut off or damaged."""


def iter_structures(path: Path | str) -> Iterator[tuple[int, Frame]]:
    """Pairs (index, structure) of a file's frames in order, counted from 0.

    Lazy: only one frame is in memory, compressed files (.gz, .bz2, .xz) included. A frame that
    cannot be parsed is yielded as a `StructureError` that names file and frame; reading goes on
    behind it where the format allows that (extended XYZ, ASE databases). The key-value pairs of a
    database row are put into `atoms.info`.

    Raises StructureError for a file that is missing, empty, of no known format, or unreadable from
    its beginning.
    """
    path = Path(path)
    if not path.exists():
        raise StructureError(f"{path}: there is no such file.")
    if path.is_file() and path.stat().st_size == 0:
        raise StructureError(f"{path}: the file is empty.")
    read = _reader(path)
    empty = True
    for pair in read(path):
        empty = False
        yield pair
    if empty:
        raise StructureError(f"{path}: the file holds no structure.")


def file_format(path: Path) -> str:
    """ASE's name of a file's format. Raises StructureError for one that it does not know."""
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


def _reader(path: Path) -> Any:
    """The generator function that suits the file's format."""
    kind = file_format(path)
    if kind in _XYZ_FORMATS:
        return _iter_xyz
    if kind in _DATABASE_FORMATS:
        return _iter_database
    return _iter_ase


def _frame_error(path: Path, index: int, error: Exception) -> StructureError:
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


def _iter_ase(path: Path) -> Iterator[tuple[int, Frame]]:
    frames = ase.io.iread(str(path), index=":", do_not_split_by_at_sign=True)
    index = 0
    while True:
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:  # ASE's readers raise whatever their parsing trips over
            if index == 0:
                raise _file_error(path, error) from error
            yield index, _frame_error(path, index, error)
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


def _iter_database(path: Path) -> Iterator[tuple[int, Frame]]:
    try:
        with ase.db.connect(str(path), serial=True) as database:
            for index, row in enumerate(database.select()):
                try:
                    atoms = row.toatoms()
                    atoms.info.update(row.key_value_pairs)
                except Exception as error:
                    yield index, _frame_error(path, index, error)
                else:
                    yield index, atoms
    except Exception as error:
        if isinstance(error, StructureError):
            raise
        raise _file_error(path, error) from error


def _iter_xyz(path: Path) -> Iterator[tuple[int, Frame]]:
    with open_with_compression(str(path), "r") as file:
        frames = _xyz_blocks(file)
        index = 0
        while True:
            try:
                block = next(frames)
            except StopIteration:
                return
            except (UnicodeDecodeError, *ARCHIVE_ERRORS) as error:  # e.g. a truncated archive
                if index == 0:
                    raise _file_error(path, error) from error
                yield index, _frame_error(path, index, error)
                return
            try:
                atoms = _parse_block(block)
            except Exception as error:
                yield index, _frame_error(path, index, error)
            else:
                yield index, atoms
            index += 1


def _xyz_blocks(file: IO[str]) -> Iterator[list[str]]:
    """The lines of each frame: count, comment, atoms.

    A frame ends at its last atom, or earlier where the next count stands too early (a lone integer
    is never an atom), so that a wrong count spoils its own frame only.
    """
    block: list[str] = []
    missing = 0  # lines that the frame still needs
    for line in file:
        is_count = line.strip().isdigit()
        in_atoms = len(block) >= 2
        if missing and not (is_count and in_atoms):
            block.append(line)
            missing -= 1
        elif is_count:
            if block:
                yield block
            block, missing = [line], int(line) + 1
        elif line.strip():  # cell vectors (VEC1 ...) behind the atoms, or lines that fit nowhere
            block.append(line)
    if block:
        yield block


def _parse_block(block: list[str]) -> Atoms:
    """The structure of one frame; raises ValueError for lines that do not belong to it."""
    if not block[0].strip().isdigit():
        raise ValueError("expected the number of atoms, found " + repr(block[0].strip()[:40]))
    for line in block[int(block[0]) + 2 :]:
        if not line.lstrip().startswith("VEC"):
            raise ValueError(f"it has more lines than its count of {int(block[0])} atoms")
    atoms: Atoms = ase.io.read(StringIO("".join(block)), index=0, format="extxyz")  # type: ignore[assignment]
    return atoms
