"""The state of a run on disk, from which it goes on bit for bit.

One file, replaced as a whole. It says how far the log and each trajectory reached when it was
written; what they hold behind that is cut off when the run goes on, and computed again to the same
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from mlff2d import checkpoint

from .state import MDState
from .trajectory import Place

FORMAT = 2
"""Number of the format of the file."""

_DIGESTS = {"structures": "other structures", "model": "another model"}
"""Settings that are digests, and what to say where they differ."""

_MAY_GROW = "steps"


@dataclass(frozen=True)
class Ended:
    """What became of a replica that has been stopped.

    Attributes
    ----------
    reason : a sentence
    step : of its last good state
    state : that state, of this replica alone; None where already the first was not good
    """

    reason: str
    step: int
    state: MDState | None


@dataclass(frozen=True)
class Snapshot:
    """All that a run needs to go on.

    Attributes
    ----------
    settings : all that the results depend on, by name, as primitives
    max_edges, part_edges, threads : what else the floats depend on, as measured or found by the
        process that saved
    n_replicas : those that could not begin among them
    latest : the latest states, the last that which the run goes on from; empty where every replica
        has ended
    ended : replicas that have been stopped, by number
    log : bytes of the log
    places : where the trajectory of each replica ends, by number
    """

    settings: dict[str, Any]
    max_edges: int
    part_edges: int | None
    threads: int
    n_replicas: int
    latest: list[MDState]
    ended: dict[int, Ended]
    log: int
    places: dict[int, Place]


def save(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot, all or nothing."""
    content = {f.name: getattr(snapshot, f.name) for f in fields(snapshot)}
    content["format"] = FORMAT
    content["latest"] = [state.as_dict() for state in snapshot.latest]
    content["ended"] = {
        number: {"reason": e.reason, "step": e.step, "state": e.state and e.state.as_dict()}
        for number, e in snapshot.ended.items()
    }
    checkpoint.write(content, path)


def load(path: Path, device: torch.device) -> Snapshot:
    """Read a snapshot. Raises ValueError for a file that is none, or of another format."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        number = content.pop("format")
    except Exception as error:  # whatever torch trips over
        raise ValueError(
            f"{path} is not the state of a run of molecular dynamics; give another -o, or add "
            "--restart to write over it"
        ) from error
    if number == 1:  # it did not say; without parts it was None
        content["part_edges"], number = None, FORMAT
    if number != FORMAT:
        raise ValueError(
            f"{path} is of format {number} and this is format {FORMAT}: go on with the version "
            "that wrote it, or add --restart to begin anew"
        )
    content["latest"] = [MDState.from_dict(plain, device) for plain in content["latest"]]
    content["ended"] = {
        key: Ended(e["reason"], e["step"], e["state"] and MDState.from_dict(e["state"], "cpu"))
        for key, e in content["ended"].items()
    }
    return Snapshot(**content)


def refuse_others(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where a run that has begun is not the one asked for, naming what differs.

    More steps are the same run, longer; unless its target temperature depends on their number.
    """
    flat = before.get("temperature_end") in (None, before.get("temperature"))
    changed = [
        _DIGESTS.get(name, f"{name} {before.get(name)!r} (now {now.get(name)!r})")
        for name in now
        if before.get(name) != now.get(name)
        and not (name == _MAY_GROW and flat and now[name] > before[name])
    ]
    if changed:
        raise ValueError(
            f"{path} was begun with {'; '.join(changed)}: go on as it was begun, give another -o, "
            "or add --restart to begin anew"
        )
