"""The folder beside an output in which a labelling keeps what it needs to go on after any death.

`OUT.progress/` holds `run.json` (what the labels depend on), `journal.jsonl` (the labels),
`outputs.json` (digests of the outputs written from it), `failed.csv`, and what the calculators
wrote.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlff2d.files import naming, write_text
from mlff2d.reading import without_compression

from ..config import differences
from .settings import refreshed

FORMAT = 1
"""Number of the folder's format."""


def folder_of(output: Path) -> Path:
    """The folder of an output."""
    return without_compression(output).with_suffix(".progress")


def claim(folder: Path, output: Path, identity: dict[str, Any], restart: bool) -> None:
    """Make the folder of a run the one of these settings; what it holds stays, or is moved away.

    A restart keeps the journal of before under another name: labels are dear. Raises ValueError
    (one sentence) where the run was begun with other settings, and where the output is there and
    not what this run wrote.
    """
    run = folder / "run.json"
    content = {"format": FORMAT, "identity": identity}
    before = _read_json(run)
    if restart:
        _set_aside(folder / "journal.jsonl")
        before = None
    if before is None:
        if not restart and (folder / "journal.jsonl").exists():
            raise ValueError(
                f"{folder} has labels but no run.json; move it away, or give --restart"
            )
        if output.exists() and not restart:
            raise ValueError(
                f"{output} exists and belongs to no run that could go on; give another -o, or add "
                "--restart to write over it"
            )
        _forget(folder, output)
        write_text(json.dumps(content, indent=1), run)
        return
    if before.get("format") != FORMAT:
        raise ValueError(
            f"{folder} was written by another version of mlff2d; give another -o, or --restart"
        )
    changed = differences(refreshed(before["identity"]), identity)
    if changed:
        raise ValueError(
            f"{output} was begun with other settings ({'; '.join(changed)}): go on as it was "
            "begun, give another -o, or add --restart to begin anew"
        )
    if output.exists() and _digest(output) not in _written(folder, output):
        raise ValueError(
            f"{output} exists and is not what this run wrote; move it away, give another -o, or "
            "add --restart to write over it"
        )


def _set_aside(journal: Path) -> None:
    if journal.exists():
        n = 1
        while (old := journal.with_name(f"journal.{n}.jsonl")).exists():
            n += 1
        journal.rename(old)


def publish(folder: Path, new: Path, output: Path) -> None:
    """Put a file where the output belongs, all or nothing."""
    known = _written(folder, output)
    # What is there is known until it is replaced, whenever this process dies.
    write_text(json.dumps([*known[-1:], _digest(new)]), folder / "outputs.json")
    with naming(output):
        os.replace(new, output)


def _forget(folder: Path, output: Path) -> None:
    """What a restart writes over is known as its own."""
    digests = [_digest(output)] if output.exists() else []
    write_text(json.dumps(digests), folder / "outputs.json")


def _written(folder: Path, output: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return list(json.loads((folder / "outputs.json").read_text()))
    return []


def write_failures(folder: Path, rows: Iterable[tuple[str, int, str, str]]) -> Path:
    """Write `failed.csv`: file, frame, formula and reason of what has no label."""
    path = folder / "failed.csv"
    with naming(path), path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["source", "frame", "formula", "reason"])
        table.writerows(rows)
    return path


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
