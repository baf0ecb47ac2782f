"""From files and folders with calculations to records: one generator for every kind of source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms

from mlff2d.errors import StructureError
from mlff2d.reading import COLLECTIONS, file_format, iter_structures, one_line, without_compression

from .alexandria import iter_trajectories, json_layout, refuse_entries
from .cif_folder import TABLE, cif_files, iter_cif_folder
from .entries import Entries
from .record import Fault, Keys, Record, Rejected, checked_record, label_fault, target_fault
from .vasp import Run, is_vasp, iter_run, natural, runs_of

__all__ = ["Keys", "Record", "Rejected", "iter_frames", "iter_records", "source_files"]

_READ = (".extxyz", ".xyz", ".traj", ".db", ".aselmdb", ".json", ".gpw")
"""Endings of files that are read in a folder, whatever they hold (.json: if it fits)."""

_LOGS = (".txt", ".log", ".out")
"""Endings of files that are read in a folder if they begin as GPAW's output does."""

Found = tuple[str, Atoms | Fault]
"""Where a frame is in its source, and its structure or why it has none."""


def iter_records(path: Path, keys: Keys, skip: int = 0) -> Iterator[Record | Rejected | str]:
    """Every frame of a source in order, as a record or with the reason why it is none.

    A source is a file that ASE reads, a vasprun.xml or OUTCAR, a JSON file of trajectories of the
    Alexandria database, or a folder with any of these at any depth; where `keys.target` is given
    a folder is one of CIF files. A text is a note for the user; they come last. The first `skip`
    items are left out; of those the files are read, but nothing is made of them.

    Raises StructureError for a source that is missing, empty, of no known format, or a folder
    without any such file.
    """
    if path.is_dir() and keys.target is not None:
        yield from islice(iter_cif_folder(path, keys), skip, None)
        return
    entries = Entries(keys)
    for frame, (where, atoms) in enumerate(iter_frames(path)):
        if isinstance(atoms, Atoms):
            entries.look_at(atoms)
        if frame < skip:
            continue
        if isinstance(atoms, Fault):
            yield Rejected(where, *atoms)
            continue
        if keys.target is None:
            kind, fault = "no usable labels", label_fault(atoms) if keys.labels else None
        else:
            kind, fault = "no usable target", target_fault(atoms, keys.target)
        yield Rejected(where, kind, fault) if fault else checked_record(frame, where, atoms, keys)
    yield from (f"{path.name}: {note}" for note in entries.notes())


def source_files(path: Path, keys: Keys) -> list[Path]:
    """The files that a source is made of. Raises StructureError where there is none."""
    if not path.exists():
        raise StructureError(f"{path}: there is no such file or folder.")
    if not path.is_dir():
        return [path]
    if keys.target is not None:
        table = path / TABLE
        return [table] * table.is_file() + list(cif_files(path).values())
    found = [part.files if isinstance(part, Run) else (part,) for part in _parts(path)]
    return [file for files in found for file in files]


def iter_frames(path: Path) -> Iterator[Found]:
    """Every frame of a source that is no folder of CIF files: where it is, and what it is."""
    if not path.is_dir():
        yield from _of_file(path, path.name)
        return
    for part in _parts(path):
        if isinstance(part, Run):
            yield from _of_run(part, path)
            continue
        name = part.relative_to(path).as_posix()
        try:
            for where, atoms in _of_file(part, name):
                yield f"{name}, {where}", atoms
        except StructureError as error:
            yield name, Fault("cannot be read", _without_path(error))


def _of_run(run: Run, root: Path) -> Iterator[Found]:
    folder = run.folder.relative_to(root).as_posix()
    name = root.resolve().name if folder == "." else folder
    for path, number, atoms in iter_run(run):
        if isinstance(atoms, Atoms):
            atoms.info["trajectory"] = f"{name}/{path.name}" if run.label else name
        yield f"{path.relative_to(root).as_posix()}, step {number}", atoms


def _of_file(path: Path, name: str) -> Iterator[Found]:
    """The frames of one file; `name` is the trajectory where the file is the output of a run."""
    if path.is_file() and is_vasp(path):
        for _, number, atoms in iter_run(Run(path.parent, "", (path,))):
            if isinstance(atoms, Atoms):
                atoms.info["trajectory"] = name
            yield f"step {number}", atoms
        return
    if path.is_file() and _ending(path) == ".json":
        layout = json_layout(path)
        if layout == "entries":
            raise refuse_entries(path)
        if layout == "trajectories":
            yield from iter_trajectories(path)
            return
    is_run = None
    first: Atoms | None = None
    for number, frame in iter_structures(path):
        where = f"frame {number}"
        if isinstance(frame, StructureError):
            yield where, Fault("cannot be read", _without_path(frame))
            continue
        if is_run is None:
            is_run = file_format(path) not in COLLECTIONS
        if is_run:
            # A file may also be a collection of materials; then they are told apart.
            first = first or frame
            same = np.array_equal(first.numbers, frame.numbers)
            own = name if same else f"{name} {frame.symbols.formula:hill}"
            frame.info.setdefault("trajectory", own)
        yield where, frame


def _without_path(error: StructureError) -> str:
    """The sentence behind the file and frame that it begins with, which the summary names."""
    return one_line(error).partition(": ")[2]


def _parts(folder: Path) -> Iterator[Run | Path]:
    """Runs of VASP and files that can be read, folder by folder in natural order.

    Hidden files and folders are passed over, linked folders followed once. Raises StructureError
    where nothing is found.
    """
    empty = True
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=natural)
        files = [Path(place, n) for n in sorted(names, key=natural) if not n.startswith(".")]
        runs: list[Run | Path] = [*runs_of([file for file in files if is_vasp(file)])]
        for part in [*runs, *filter(_is_data, files)]:
            empty = False
            yield part
    if empty and (folder / TABLE).is_file():
        raise StructureError(
            f"{folder}: a folder of CIF files with {TABLE} is read only together with the section "
            "property of a config, or with --target"
        )
    if empty:
        raise StructureError(
            f"{folder}: the folder holds no calculation at any depth; it is searched for "
            f"vasprun.xml and OUTCAR of VASP, text output of GPAW and files that end in "
            f"{', '.join(_READ)} (packed or not)"
        )


def _is_data(path: Path) -> bool:
    ending = _ending(path)
    if ending == ".json":
        return json_layout(path) is not None
    if ending in _LOGS:
        try:
            return file_format(path) == "gpaw-out"
        except StructureError:
            return False
    return ending in _READ


def _ending(path: Path) -> str:
    return without_compression(path).suffix.lower()
