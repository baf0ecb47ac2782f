"""Conversion of calculations into one HDF5 file, a piece at a time; a killed one goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlff2d.dataset_file import FORMAT, is_hdf5
from mlff2d.errors import StructureError

from ..console import make_console, watched
from .columns import columns_of, records_of
from .consistency import TrajectoryCheck
from .parts import Parts
from .progress import reading
from .readers import iter_records, source_files
from .record import Keys, Record, Rejected
from .store import ConversionSummary, read_head, writing

_CHUNK = 1024  # structures in a piece, at most
_SECONDS = 30  # of reading that a piece is, at most


def open_sources(
    files: Sequence[Path],
    folder: Path,
    material_key: str,
    state: tuple[str, ...] = (),
    target: str | None = None,
    labels: bool = True,
) -> tuple[list[Path], ConversionSummary]:
    """The HDF5 files of these sources, those that are none converted into one in a folder.

    A source is an HDF5 file of `mlff2d data build`, or anything that it reads; for the keys see
    `Keys`. The name of a converted file carries a digest of the keys and of the sources' paths,
    sizes and modification times, so that changed sources are converted anew. Raises StructureError
    as `convert` does, and for an HDF5 file that is none of ours or was built with other keys.
    """
    keys = Keys(material_key, state, target, labels)
    paths: list[Path] = []
    others = [source for source in files if not is_hdf5(source)]
    converted = None
    for source in files:
        if source not in others:
            _refuse_other_keys(source, keys)
            paths.append(source)
        elif converted is None:
            converted = _converted(others, folder, keys)
            paths.append(converted)
    summary = ConversionSummary()
    for path in paths:
        summary.add(read_head(path).summary)
    found = [(source, path.name) for path in paths for source in read_head(path).sources]
    summary.notes += [note for note in _given_twice(found) if note not in summary.notes]
    return paths, summary


def _refuse_other_keys(path: Path, keys: Keys) -> None:
    """Raise StructureError where a file was built for something else."""
    built = read_head(path).keys
    for what, option, theirs, ours in (
        ("material key", "--material-key", built.material, keys.material),
        ("state", "--state", " ".join(built.state), " ".join(keys.state)),
        ("property", "--target", built.target, keys.target),
    ):
        if theirs != ours:
            raise StructureError(
                f"{path}: it was built with the {what} {theirs or 'none'!r}, and "
                f"{ours or 'none'!r} is wanted; build it anew with mlff2d data build {option}, or "
                "change the config."
            )


def _given_twice(sources: Sequence[tuple[dict[str, str], str]]) -> list[str]:
    """A sentence for each source whose content another has; with each the file that holds it."""
    seen: dict[str, tuple[str, str]] = {}
    notes = []
    for source, path in sources:
        name, digest = source["name"], source["sha256"]
        if digest in seen:
            other, there = seen[digest]
            notes.append(f"{name} in {path} has the same content as {other} in {there}.")
        seen.setdefault(digest, (name, path))
    return notes


def _converted(files: Sequence[Path], folder: Path, keys: Keys) -> Path:
    digest = hashlib.blake2b(json.dumps(plan_of(files, keys)).encode(), digest_size=4).hexdigest()
    path = folder / f"{files[0].resolve().name.split('.')[0]}-{digest}.h5"
    if not path.exists():
        convert(files, path, keys, True)
    return path


def plan_of(files: Sequence[Path], keys: Keys) -> list[Any]:
    """What a file is made of: as long as it is equal, so is the file."""
    sources = []
    for source in files:
        for part in source_files(source, keys):
            stat = part.stat()
            sources.append([str(part.resolve()), stat.st_size, stat.st_mtime_ns])
    return [FORMAT, asdict(keys) | {"state": list(keys.state)}, sources]


def convert(files: Sequence[Path], path: Path, keys: Keys, wait: bool = False) -> ConversionSummary:
    """Write the labelled structures of sources into one HDF5 file; see `open_sources`.

    The file gets its name when it is complete. A conversion that is killed leaves its pieces in a
    folder beside it, and goes on behind the last; one that fails before the first leaves nothing.
    Where another process makes the same file, its end is waited for, or it is an error. Of several
    sources one that is unreadable or without a usable frame is passed over with a note; raises
    StructureError where no other is left.
    """
    with Parts(path, plan_of(files, keys), wait) as parts:
        if wait and path.exists():  # by another process, in the meantime
            return read_head(path).summary
        state = parts.state or {"source": 0, "items": 0, "summary": asdict(ConversionSummary())}
        if parts.state:
            n_there = state["summary"]["n_taken"]
            make_console().print(f"Going on with {path}: {n_there:,} frames are there already.")
        for number in range(state["source"], len(files)):
            items = state["items"] if number == state["source"] else 0
            try:
                state = _read_source(files[number], number, items, state["summary"], keys, parts)
            except StructureError as error:
                if len(files) == 1:
                    raise
                state = _pass_over(number, str(error), parts.state or state, parts)
        summary = ConversionSummary(**state["summary"])
        if summary.n_taken == 0:
            raise StructureError(f"none of the sources has a usable frame: {summary.notes[0]}")
        sources = [
            {"name": source.resolve().name, "sha256": source_digest(source_files(source, keys))}
            for source in files
        ]
        checks = [TrajectoryCheck(source["name"]) for source in sources]
        with writing(path, len(keys.state), parts.folder, parts.nbytes()) as writer:
            for columns in watched(parts, f"writing {path.name}", len(parts)):
                writer.append(columns)
                if keys.target is None:
                    for record in records_of(columns):
                        checks[columns["source"][0]].add(record)
            for check in checks:
                summary.notes += check.sentences()
                summary.checks += [f"{check.source}: {slope}" for slope in check.slopes()]
            summary.notes += _given_twice([(source, path.name) for source in sources])
            writer.finish(keys, sources, summary)
    return summary


def _pass_over(number: int, reason: str, state: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """Go on behind a source that cannot be used, saying so; how far the work is then."""
    summary = ConversionSummary(**state["summary"])
    summary.notes.append(f"A source is left out: {reason}")
    after = {"source": number + 1, "items": 0, "summary": asdict(summary)}
    parts.add({}, after)
    return after


def _read_source(
    source: Path, number: int, skip: int, so_far: dict[str, Any], keys: Keys, parts: Parts
) -> dict[str, Any]:
    """Read a source behind its first items into pieces; how far the work is then."""
    summary = ConversionSummary(**so_far)
    records: list[Record] = []
    items = skip
    before, last = summary.n_taken, time.monotonic()
    found = iter_records(source, keys, skip)
    for item in reading(found, source_files(source, keys), source.name):
        items += 1
        if isinstance(item, str):
            summary.notes.append(item)
            continue
        summary.n_frames += 1
        if isinstance(item, Rejected):
            summary.refuse(source, item)
            continue
        summary.n_taken += 1
        records.append(item)
        if len(records) == _CHUNK or time.monotonic() - last > _SECONDS:
            state = {"source": number, "items": items, "summary": asdict(summary)}
            parts.add(columns_of(records, number), state)
            records, last = [], time.monotonic()
    if summary.n_taken == before and skip == 0:
        raise StructureError(f"{source}: no frame can be used; {summary.worst()}")
    state = {"source": number + 1, "items": 0, "summary": asdict(summary)}
    parts.add(columns_of(records, number) if records else {}, state)
    return state


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
