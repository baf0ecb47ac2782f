"""The HDF5 file of structures that `mlff2d data build` writes: its layout, and how it is opened.

The atoms of all structures follow each other; `offset` (S + 1,) says where each begins. Axes: N
atoms of all structures, S structures, K numbers of a state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
from ase import Atoms

from mlff2d.errors import StructureError
from mlff2d.reading import Frame, FrameFile, frame_error

FORMAT = 3
"""Raised when the content of the file changes, so that files of before are not used."""

KIND = "mlff2d labelled structures"

# Name, shape behind the leading axis, and type. Those a batch reads from the file:
PER_ATOM = (("z", (), "u1"), ("pos", (3,), "f8"), ("forces", (3,), "f4"))
PER_STRUCTURE = (("cell", (3, 3), "f8"), ("pbc", (3,), "?"), ("virial", (3, 3), "f8"))
# Those that are small enough to be held in memory for every structure:
SCALARS = (
    ("energy", (), "f8"),
    ("target", (), "f8"),
    ("frame", (), "i4"),
    ("source", (), "i4"),
    ("layer_group", (), "u1"),
    ("fingerprint", (), "u8"),
    ("max_force", (), "f4"),
    ("stress_2d", (3,), "f8"),
    ("max_stress_kbar", (), "f8"),
)
# Strings, in the file as codes into a table of names:
NAMES = ("material", "trajectory", "level")
# Files that were written before there was a level of theory lack it.


def is_hdf5(path: Path) -> bool:
    """Whether a file is of this kind by its first bytes, whatever it holds."""
    try:
        return path.is_file() and bool(h5py.is_hdf5(path))
    except OSError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The HDF5 file, read only. Raises StructureError where it is none of ours, or broken."""
    file = open_store(path)
    try:
        yield file
    finally:
        file.close()


def open_store(path: Path) -> h5py.File:
    """The HDF5 file, to be closed by the caller; raises StructureError as `opened` does."""
    try:
        # Without a cache of chunks HDF5 reads only the rows that are asked for.
        file = h5py.File(path, "r", rdcc_nbytes=0, locking=False)
    except FileNotFoundError:
        raise StructureError(f"{path}: there is no such data file.") from None
    except PermissionError:
        raise StructureError(f"{path}: there is no permission to read it.") from None
    except OSError as error:
        raise StructureError(
            f"{path}: the HDF5 file is damaged ({_reason(error)}); delete it, so that a training "
            "or mlff2d data build makes it anew."
        ) from error
    fault = _fault(file)
    if fault:
        file.close()
        raise StructureError(f"{path}: {fault}")
    return file


def _fault(file: h5py.File) -> str:
    """What makes a readable HDF5 file unusable, or nothing."""
    build = "make one with mlff2d data build."
    if "sources" in file.attrs and "format" not in file.attrs:
        return f"the file was written by an older version of mlff2d; {build}"
    if file.attrs.get("kind") != KIND:
        return f"this HDF5 file holds no structures of mlff2d; {build}"
    if file.attrs["format"] != FORMAT:
        return (
            f"the file has format {file.attrs['format']}, and this version of mlff2d reads "
            f"{FORMAT}; {build}"
        )
    return ""


def _reason(error: OSError) -> str:
    text = " ".join(str(error).split())
    return text.partition("(")[2].rstrip(")") or text


class DatasetFile(FrameFile):
    """The structures of such a file without their labels, as they stand in it.

    `atoms.info` holds material and trajectory, the level of theory where it is known, and the
    numbers of a state under their names.
    """

    def count(self) -> int:
        with opened(self.path) as file:
            return len(file["offset"]) - 1

    def content(self) -> str:
        """A digest of all that the file holds."""
        with opened(self.path) as file:
            return str(file.attrs["content"])

    def frames(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Frame]]:
        with opened(self.path) as file:
            for s in range(len(file["offset"]) - 1)[first:last]:
                try:
                    atoms = _structure(file, s)
                except Exception as error:  # whatever HDF5 makes of a damaged chunk
                    yield s, frame_error(self.path, s, error)
                else:
                    yield s, atoms


def _structure(file: h5py.File, s: int) -> Atoms:
    begin, end = file["offset"][s : s + 2]
    atoms = Atoms(
        numbers=file["z"][begin:end],
        positions=file["pos"][begin:end],
        cell=file["cell"][s],
        pbc=file["pbc"][s],
    )
    for name in NAMES:
        text = str(file[f"{name}_names"].asstr()[int(file[name][s])]) if name in file else ""
        if text or name != "level":
            atoms.info[name] = text
    state = json.loads(file.attrs["keys"])["state"]
    atoms.info |= dict(zip(state, file["state"][s].tolist(), strict=True))
    return atoms
