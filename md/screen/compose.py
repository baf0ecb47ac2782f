"""The files that a screen leaves, made from its journals in the order of the input."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .journal import locked, open_for_update, unwritten
from .outputs import STRUCTURES, open_writer, require_parquet
from .run_folder import RunFolder
from .summary import Summary


@dataclass(frozen=True)
class Outputs:
    """The files of a screen: the structures and the table."""

    frames: Path
    table: Path

    @property
    def paths(self) -> list[Path]:
        """Both."""
        return [self.frames, self.table]

    def check(self, inputs: Sequence[Path]) -> None:
        """Refuse files that cannot be written, before any work is done.

        Raises ValueError where one is of no kind that is written, a folder or an input, or where a
        package that writes it is missing, FileNotFoundError where its folder does not exist.
        """
        if self.frames.suffix not in STRUCTURES:
            raise ValueError(
                f"the output {self.frames} is extended XYZ or a database of ASE; "
                "give it a name that ends in .extxyz or .db"
            )
        if not self.frames.parent.is_dir():
            raise FileNotFoundError(
                f"the folder {self.frames.parent} does not exist; make it first"
            )
        if self.table.suffix == ".parquet":
            require_parquet()
        for path in self.paths:
            if path.is_dir():
                raise ValueError(f"the output {path} is a folder; give another name with -o")
            for source in inputs:
                if path.exists() and source.exists() and path.samefile(source):
                    raise ValueError(f"the output {path} is the input; give another name with -o")


def compose(folder: RunFolder, outputs: Outputs) -> Summary:
    """Write what is finished, all or nothing, and say what it is.

    Files that hold it already are left alone. Raises ValueError where a file there is not what this
    run wrote, and OSError where one cannot be written.
    """
    with open_for_update(folder.path / "outputs.lock") as lock:
        while not locked(lock):  # another process that finished its part is writing them
            time.sleep(0.1)
        summary = Summary()
        for record in folder.records():
            summary.add(record.row)
        folder.refuse_foreign(outputs.paths)
        missing = [p for p in outputs.paths if not folder.is_published(p, summary.n_rows)]
        if missing:
            summary = _write(folder, missing)
    return summary


def _write(folder: RunFolder, paths: Sequence[Path]) -> Summary:
    """Write these and say what they hold; others may have finished more since it was counted."""
    summary = Summary()
    new = {path: folder.path / f"new-{path.name}" for path in paths}
    try:
        with ExitStack() as stack:
            writers = [stack.enter_context(open_writer(new[p], p.suffix)) for p in paths]
            for record in folder.records():
                summary.add(record.row)
                for writer in writers:
                    writer.add(record)
    except (OSError, sqlite3.Error) as error:
        for path in new.values():
            path.unlink(missing_ok=True)
        raise unwritten(paths[0], error) from error
    for path in paths:
        folder.publish(new[path], path, summary.n_rows)
    return summary
