"""From structures as they are made to a file of those worth keeping, and a table of the others."""

from __future__ import annotations

import argparse
import gzip
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TextIO

import ase.io
from ase import Atoms
from rich.table import Table

from mlff2d.errors import StructureError
from mlff2d.files import naming
from mlff2d.interrupt import StopRequest
from mlff2d.sources import Sources

from ..console import make_console, watched
from .duplicates import Known
from .filters import falls_apart, too_close, too_many
from .layers import reduced_formula
from .options import SUFFIXES

Made = Atoms | StructureError


def parents(
    files: Iterable[Path | str], make: Callable[[Atoms], Iterator[Made]]
) -> tuple[Iterator[Made], int]:
    """What is made of each structure of files, and the number of these structures.

    What cannot be read or made, in part or in whole, is an error in its place, which names file and
    frame. Raises StructureError where no file can be
    read at all.
    """
    sources = Sources(list(files))

    def each() -> Iterator[Made]:
        for found in sources.read():
            if isinstance(found.structure, StructureError):
                yield found.structure
                continue
            where = f"{found.source}, frame {found.frame} ({found.structure.symbols})"
            try:
                for item in make(found.structure):
                    yield item if isinstance(item, Atoms) else StructureError(f"{where}: {item}")
            except StructureError as error:
                yield StructureError(f"{where}: {error}")

    return each(), len(sources)


def read_all(files: Sequence[Path | str]) -> list[Atoms]:
    """The structures of files. Raises StructureError for the first that cannot be read."""
    structures = []
    for found in Sources(list(files)).read() if files else ():
        if isinstance(found.structure, StructureError):
            raise found.structure
        structures.append(found.structure)
    return structures


@dataclass
class Summary:
    """What was written, and what was not, by reason with the number and an example of each."""

    n_written: int = 0
    dropped: dict[str, tuple[int, str]] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)
    marked: int = 0
    interrupted: bool = False

    def drop(self, reason: str, example: str) -> None:
        """Count a structure that is not written."""
        n, first = self.dropped.get(reason, (0, example))
        self.dropped[reason] = (n + 1, first)

    def table(self) -> Table:
        """As a table for the terminal."""
        table = Table("what", "structures", "for example", box=None, pad_edge=False)
        table.add_row("written", f"{self.n_written:,}", self._sizes())
        if self.marked:
            table.add_row("  of these marked as fallen apart", f"{self.marked:,}")
        for reason, (n, example) in self.dropped.items():
            table.add_row(reason, f"{n:,}", example)
        return table

    def _sizes(self) -> str:
        if not self.sizes:
            return ""
        low, high = min(self.sizes), max(self.sizes)
        return f"{low} to {high} atoms" if low < high else f"all of {low} atoms"


def write_generated(
    structures: Iterable[Made], args: argparse.Namespace, total: int | None = None
) -> int:
    """Write what passes the filters of `add_output`, show a table, and return the exit status.

    The file gets its name when it is complete; on SIGINT or SIGTERM it holds what was made until
    then. Raises StructureError where nothing passes, OSError where the file cannot be written.
    """
    require_output(args.output, args.force)
    summary = Summary()
    known = None if args.keep_duplicates else Known(args.same)
    if known is not None:
        for path in args.against:
            _learn(known, path, summary)
    held_out = {reduced_formula(atoms) for atoms in read_all(args.held_out)}
    with StopRequest() as stop, _whole(args.output, summary) as file:
        for item in watched(structures, f"making {args.output.name}", total):
            try:
                _pass(item, args, known, held_out, summary, file)
            except StructureError as error:
                summary.drop("not made", str(error))
            if stop.signal is not None:
                summary.interrupted = True
                break
    console = make_console()
    console.print(summary.table())
    if summary.interrupted:
        console.print(f"Interrupted: {args.output} holds what was made until then.")
        return 130
    return 0


def require_output(path: Path, force: bool) -> None:
    """Raise ValueError for a name that is none of `SUFFIXES`, and where the file exists."""
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path}: name the output as one of {', '.join(SUFFIXES)}")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; choose another name, or replace it with --force")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"{path}: its folder does not exist; make it first")


def _pass(
    item: Made,
    args: argparse.Namespace,
    known: Known | None,
    held_out: set[str],
    summary: Summary,
    file: TextIO,
) -> None:
    """Write one structure, or count why not. Raises StructureError for what is none."""
    if isinstance(item, StructureError):
        raise item
    name = str(item.info.get("config") or item.info.get("material") or item.symbols)
    if held_out and reduced_formula(item) in held_out:
        summary.drop("held out", f"{name}: kept for a test")
        return
    for reason, sentence in (
        ("too many atoms", too_many(item, args.max_atoms)),
        ("atoms too close", too_close(item, args.closest)),
    ):
        if sentence:
            summary.drop(reason, f"{name}: {sentence}")
            return
    apart = None if args.apart == "keep" else falls_apart(item)
    if apart and args.apart == "drop":
        summary.drop("falls apart", f"{name}: {apart}")
        return
    if apart:
        item.info["apart"] = apart
        summary.marked += 1
    if known is not None:
        same = known.add(item, name)
        if same:
            summary.drop("duplicate", f"{name}: the same as {same}")
            return
    text = StringIO()
    ase.io.write(text, item, format="extxyz")
    file.write(text.getvalue())
    summary.n_written += 1
    summary.sizes.add(len(item))


def _learn(known: Known, path: Path, summary: Summary) -> None:
    """Remember what a file holds; frames that cannot be read are in the table."""
    sources = Sources([path])
    for found in watched(sources.read(), f"reading {path.name}", len(sources)):
        if isinstance(found.structure, StructureError):
            summary.drop("not read, of --against", str(found.structure))
            continue
        with suppress(StructureError):  # what no potential can work on is made by no kind
            known.add(found.structure, f"frame {found.frame} of {found.source}")


@contextmanager
def _whole(path: Path, summary: Summary) -> Iterator[TextIO]:
    """A text file that gets its name at the end, packed where its name says so."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with naming(path):
            raw = unfinished.open("wb")
        with raw:
            if path.suffix == ".gz":
                # Without a name and a time inside, equal structures make equal files.
                packed = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
                with TextIOWrapper(packed, encoding="utf-8", newline="") as file:
                    yield file
            else:
                with TextIOWrapper(raw, encoding="utf-8", newline="") as file:
                    yield file
        if not summary.n_written:
            raise StructureError(_nothing(summary))
        with naming(path):
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _nothing(summary: Summary) -> str:
    reasons = "; ".join(
        f"{reason}: {n:,}, for example {example}"
        for reason, (n, example) in summary.dropped.items()
    )
    return f"no structure was made that is worth keeping. {reasons}".strip()
