"""The run folder: all that a screen has finished, and what it needs to go on after any death.

`OUT.progress/` holds `run.json` (what the results depend on), a journal and, while it is worked on,
a snapshot for each block, and `outputs.json` (digests of the outputs written from it). Whoever
works on it shares the lock of `run.lock`, which a restart needs alone; whoever writes outputs holds
`outputs.lock`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mlff2d import checkpoint

from .journal import Journal, locked, open_for_update, records_in, unwritten
from .plan import Plan, block_size
from .row import Record

FORMAT = 1
"""Number of the folder's format."""

_DIGESTS = {"input": "input", "model": "model"}
"""Entries that are digests, and what to call them."""

_OURS = ("run.json", "outputs.json", "outputs.lock", "block-*.jsonl", "block-*.state*", "new-*")


class RunFolder:
    """The folder of one screen.

    Attributes
    ----------
    path : the folder
    frames : the file of structures that it is written for, for messages
    plan : the blocks
    measured : what the first process measured and all go by
    """

    def __init__(self, path: Path, frames: Path, content: dict[str, Any]) -> None:
        """`content` is that of the folder's run.json."""
        self.path, self.frames, self._content = path, frames, content
        self.plan = Plan(**content["plan"])
        self.measured: dict[str, Any] = content["measured"]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """No restart clears the folder meanwhile.

        Raises ValueError where one has begun it anew, with something else, since it was opened.
        """
        with open_for_update(self.path / "run.lock") as lock:
            free = locked(lock, shared=True)
            if not free or _read_json(self.path / "run.json") != self._content:
                raise ValueError(busy(self.frames))
            yield

    def journal(self, k: int) -> Path:
        """The journal of block k."""
        return self.path / f"block-{k:05d}.jsonl"

    def claim(self, k: int) -> Journal | None:
        """The journal of block k to write to; None where another process works on it."""
        return Journal.claim(self.journal(k))

    def n_done(self, k: int) -> int:
        """How many structures of block k are finished."""
        return len({record.index for record in records_in(self.journal(k))})

    def is_done(self, k: int) -> bool:
        """Whether block k is finished."""
        first, last = self.plan.span(k)
        return self.n_done(k) == last - first

    def records(self) -> Iterator[Record]:
        """All that is finished, in the order of the input; a block at a time is in memory."""
        for k in range(self.plan.n_blocks):
            # Where a file system has no locks two processes may have written the same ones.
            records = {record.index: record for record in records_in(self.journal(k))}
            yield from (records[index] for index in sorted(records))

    def save_state(self, k: int, snapshot: dict[str, Any], n_done: int) -> None:
        """Keep what is in flight in block k, of which n_done are finished.

        Raises OSError where there is no room.
        """
        checkpoint.write({"n_done": n_done, "snapshot": snapshot}, self._state(k))

    def load_state(self, k: int, n_done: int) -> dict[str, Any] | None:
        """What was in flight in block k; None where that is not known.

        Nor is it used where the journal has fewer finished structures than there were.
        """
        try:
            state = torch.load(self._state(k), map_location="cpu", weights_only=True)
            return state["snapshot"] if state["n_done"] <= n_done else None
        except Exception:  # it is missing or damaged, and the block begins anew
            return None

    def remove_state(self, k: int) -> None:
        """Block k is finished."""
        self._state(k).unlink(missing_ok=True)

    def _state(self, k: int) -> Path:
        return self.path / f"block-{k:05d}.state"

    def refuse_foreign(self, outputs: list[Path]) -> None:
        """Raise ValueError for an output that is there and not as this run wrote it."""
        for path in outputs:
            if path.exists() and _digest(path) not in self._written(path)["digests"]:
                raise ValueError(
                    f"{path} exists and is not what this run wrote; "
                    "move it away, give another -o, or add --restart to write over it"
                )

    def publish(self, new: Path, output: Path, n_done: int) -> None:
        """Put a file of n_done structures where its output belongs, all or nothing."""
        known = _read_json(self.path / "outputs.json") or {}
        # What is there is known until it is replaced, whenever this process dies.
        digests = [*self._written(output)["digests"][-1:], _digest(new)]
        known[output.name] = {"digests": digests, "structures": n_done}
        _write_json(self.path / "outputs.json", known)
        try:
            os.replace(new, output)
        except OSError as error:
            raise unwritten(output, error) from error

    def is_published(self, output: Path, n_done: int) -> bool:
        """Whether an output is there with so many structures."""
        written = self._written(output)
        return (
            written["structures"] == n_done
            and output.exists()
            and _digest(output) == written["digests"][-1]
        )

    def _written(self, output: Path) -> dict[str, Any]:
        known = _read_json(self.path / "outputs.json") or {}
        return known.get(output.name, {"digests": [], "structures": -1})


def open_run(
    frames: Path,
    outputs: list[Path],
    identity: dict[str, Any],
    total: int,
    *,
    block: int | None = None,
    restart: bool = False,
    measure: Callable[[], dict[str, Any]] = dict,
) -> RunFolder:
    """The folder of a screen, made where it is new; a run that was begun goes on.

    Parameters
    ----------
    frames : the file of structures; the folder is beside it with the suffix .progress
    outputs : all files that will be written
    identity : all that the results depend on, by name, as primitives
    total : number of structures
    block : structures in a block; None for what the run began with, or `block_size`
    restart : begin anew whatever is there
    measure : asked once for what all processes of the run go by

    Raises ValueError where outputs are there that this run did not write, where the run was begun
    with something else, and for a restart while another process works on it.
    """
    path = frames.with_suffix(".progress")
    if restart:
        _clear(path, frames)
    run = path / "run.json"
    content = _read_json(run)
    if content is None or not _is_run(content):
        if (path.exists() and not path.is_dir()) or run.exists():
            raise ValueError(
                f"{path} is no folder of a relaxation; "
                "give another -o, or add --restart to write over it"
            )
        there = [output for output in outputs if output.exists()]
        if there and not restart:
            raise ValueError(
                f"{there[0]} exists and belongs to no run that could go on; "
                "give another -o, or add --restart to write over it"
            )
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritten(path, error) from error
        if there:  # what a restart writes over stays until there is something to write
            left = {o.name: {"digests": [_digest(o)], "structures": -1} for o in there}
            _write_json(path / "outputs.json", left)
        identity = {"format": FORMAT, **identity}
        plan = {"total": total, "block": block or block_size(total)}
        content = _first(run, {"identity": identity, "plan": plan, "measured": measure()})
    before = {**content["identity"], "block": content["plan"]["block"]}
    now = {"format": FORMAT, **identity, "block": block or before["block"]}
    _refuse_other(frames, before, now)
    folder = RunFolder(path, frames, content)
    folder.refuse_foreign(outputs)
    return folder


def _is_run(content: dict[str, Any]) -> bool:
    """Whether this is what a run writes, of whatever format, and not some other JSON."""
    identity, plan = content.get("identity"), content.get("plan")
    return (
        isinstance(identity, dict)
        and isinstance(plan, dict)
        and plan.keys() == {"total", "block"}
        and isinstance(content.get("measured"), dict)
    )


def _refuse_other(frames: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [
        f"another {_DIGESTS[key]}"
        if key in _DIGESTS
        else f"{key} {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"{frames} was begun with {'; '.join(changed)}: go on as it was begun, "
            "give another -o, or add --restart to begin anew"
        )


def _clear(path: Path, frames: Path) -> None:
    """Remove what a run left. Raises ValueError where another process is at work on it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with open_for_update(path / "run.lock") as lock:
        if not locked(lock):
            raise ValueError(busy(frames))
        found = [file for pattern in _OURS for file in path.glob(pattern)]
        # Workers of a cluster hold these alone, and may outlive whoever sent them.
        for file in found:
            if file.suffix == ".jsonl":
                with open_for_update(file) as journal:
                    if not locked(journal):
                        raise ValueError(busy(frames))
        for file in found:
            file.unlink(missing_ok=True)


def busy(frames: Path) -> str:
    """Another process is at work."""
    return f"another run is writing to {frames}; wait for it or give another -o"


def _first(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write a file unless another process was first; what it holds then."""
    draft = path.with_name(f"new-{secrets.token_hex(8)}-{path.name}")
    _write_json(draft, content)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return json.loads(path.read_text(encoding="utf-8"))


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    # Of its own name, as another process may write the same file at this moment.
    draft = path.with_name(f"new-{secrets.token_hex(8)}-{path.name}")
    try:
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise unwritten(path, error) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
