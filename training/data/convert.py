"""Conversion of files with calculations into one HDF5 file, a chunk of structures at a time.

Axes: N atoms, S structures. In the file the atoms of all structures follow each other; `offset`
(S + 1,) says where each begins.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mlff2d.errors import StructureError

from ..console import watched
from .cif_folder import TABLE, cif_files, iter_cif_folder
from .readers import Keys, Record, Rejected, iter_records

FORMAT = 2
"""Raised when the content of the file changes, so that caches of before are not used."""

# Name, shape behind the leading axis, and type, of what has a row an atom or a row a structure.
PER_ATOM = (("z", (), "u1"), ("pos", (3,), "f8"), ("forces", (3,), "f4"))
PER_STRUCTURE = (
    ("cell", (3, 3), "f8"),
    ("pbc", (3,), "?"),
    ("energy", (), "f8"),
    ("virial", (3, 3), "f8"),
    ("frame", (), "i8"),
    ("target", (), "f8"),
)

_CHUNK = 1024  # structures written at a time


@dataclass
class ConversionSummary:
    """How many frames were read and taken, how many refused of each kind, and one of each.

    `notes` are sentences that a user should read.
    """

    n_frames: int = 0
    n_taken: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def refuse(self, path: Path, rejected: Rejected) -> None:
        """Count a refused frame under its kind, keeping the first as an example."""
        self.refused[rejected.kind] = self.refused.get(rejected.kind, 0) + 1
        self.examples.setdefault(rejected.kind, f"{path.name}, {rejected.where}: {rejected.reason}")

    def worst(self) -> str:
        """An example of what was refused most often."""
        if not self.refused:
            return "it holds none"
        return self.examples[max(self.refused, key=lambda kind: self.refused[kind])]


def convert_cached(
    files: Sequence[Path],
    folder: Path,
    material_key: str,
    state: tuple[str, ...] = (),
    target: str | None = None,
) -> tuple[Path, ConversionSummary]:
    """The HDF5 file of these sources in a folder, converted unless it is there already.

    A source is a file, or where there is a target a folder of CIF files; for the keys see
    `readers.Keys`. The name of the HDF5 file carries a digest of the keys and of the sources'
    paths, sizes and modification times, so that changed sources are converted anew. Raises
    StructureError as `convert` does.
    """
    keys = Keys(material_key, state, target)
    sources = []
    for source in files:
        for part in _parts(source, keys):
            stat = part.stat()
            sources.append([str(part.resolve()), stat.st_size, stat.st_mtime_ns])
    identity = json.dumps([FORMAT, asdict(keys), sources])
    digest = hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()
    path = folder / f"{files[0].resolve().name.split('.')[0]}-{digest}.h5"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        convert(files, path, material_key, state, target)
    with h5py.File(path, "r") as file:
        return path, ConversionSummary(**json.loads(file.attrs["summary"]))


def _parts(source: Path, keys: Keys) -> list[Path]:
    """The files that a source is made of; raises StructureError where it is none."""
    if source.is_dir() and keys.target is not None:
        table = source / TABLE
        return [table] * table.is_file() + list(cif_files(source).values())
    if source.is_dir():
        raise StructureError(
            f"{source}: this is a folder; data.files takes files, and folders of CIF files with "
            f"{TABLE} only together with the section property."
        )
    if not source.exists():
        raise StructureError(f"{source}: there is no such data file; mend data.files.")
    return [source]


def convert(
    files: Sequence[Path],
    path: Path,
    material_key: str,
    state: tuple[str, ...] = (),
    target: str | None = None,
) -> ConversionSummary:
    """Write the labelled structures of sources into one HDF5 file; see `convert_cached`.

    The file gets its name when it is complete; an interrupted conversion leaves none behind it.
    Raises StructureError for a source that is empty, unreadable or without a usable frame.
    """
    summary, keys = ConversionSummary(), Keys(material_key, state, target)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(unfinished, "w") as file:
            _create(file, len(state))
            for number, source in enumerate(files):
                taken_before = summary.n_taken
                records = _usable(source, keys, summary)
                for chunk in _chunks(watched(records, f"reading {source.name}"), _CHUNK):
                    _append(file, chunk, number)
                if summary.n_taken == taken_before:
                    raise StructureError(f"{source}: no frame can be used; {summary.worst()}")
            file.attrs["summary"] = json.dumps(asdict(summary))
            file.attrs["sources"] = json.dumps(
                [
                    {"name": source.resolve().name, "sha256": source_digest(_parts(source, keys))}
                    for source in files
                ]
            )
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return summary


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digest(parts: Sequence[Path]) -> str:
    """SHA-256 of a source: of its only file, or of the names and digests of its files."""
    if len(parts) == 1:
        return file_digest(parts[0])
    listing = "".join(f"{file_digest(part)} {part.name}\n" for part in parts)
    return hashlib.sha256(listing.encode()).hexdigest()


def _usable(path: Path, keys: Keys, summary: ConversionSummary) -> Iterator[Record]:
    of_folder = path.is_dir() and keys.target is not None
    for item in iter_cif_folder(path, keys) if of_folder else iter_records(path, keys):
        if isinstance(item, str):
            summary.notes.append(item)
            continue
        summary.n_frames += 1
        if isinstance(item, Rejected):
            summary.refuse(path, item)
        else:
            summary.n_taken += 1
            yield item


def _chunks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _create(file: h5py.File, n_state: int) -> None:
    state = ("state", (n_state,), "f8")
    for name, shape, dtype in (*PER_ATOM, *PER_STRUCTURE, state):
        file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=True)
    for name, dtype in (("source", "i4"), ("material", h5py.string_dtype())):
        file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(_CHUNK,))
    file.create_dataset("offset", data=np.zeros(1, "i8"), maxshape=(None,), chunks=(_CHUNK,))


def _append(file: h5py.File, records: list[Record], source: int) -> None:
    def extend(name: str, values: Any) -> None:
        data = file[name]
        before = len(data)
        data.resize(before + len(values), axis=0)
        data[before:] = values

    for name, _, _ in PER_ATOM:
        extend(name, np.concatenate([getattr(r, name) for r in records]))
    for name in [name for name, _, _ in PER_STRUCTURE] + ["state"]:
        extend(name, np.stack([getattr(r, name) for r in records]))
    extend("source", np.full(len(records), source))
    extend("material", [r.material for r in records])
    extend("offset", file["offset"][-1] + np.cumsum([len(r.z) for r in records]))
