"""Molecular dynamics for whoever wants its frames and no files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from mlff2d.potential import Potential
from mlff2d.reading import iter_structures

from .files import RunFiles
from .result import FAILED, STOPPED
from .run import run_md
from .settings import MDSettings


def move_many(
    structures: Sequence[Atoms], potential: Potential, output: Path, **settings: Any
) -> tuple[list[list[Atoms]], list[str], int | None]:
    """The frames of each structure, replica after replica; reasons of those that stopped; a signal.

    The frame with which a replica begins is not among them. A reason begins with the name of the
    structure: its config, material, or else formula. `settings` are those of `MDSettings`. With a
    signal that interrupted it the frames are not all; the same call goes on, from the files called
    `output`. Raises as `run_md` does.
    """
    result = run_md(structures, potential, MDSettings(**settings), output, tell=lambda text: None)
    files = RunFiles(output, len(result.replicas))
    frames: list[list[Atoms]] = [[] for _ in structures]
    for replica in result.replicas:
        path = files.trajectory(replica.replica).path
        if path.exists():
            found = [frame for _, frame in iter_structures(path) if isinstance(frame, Atoms)]
            frames[replica.structure] += found[1:]
    stopped = []
    for replica in result.replicas:
        if replica.status in (STOPPED, FAILED):
            info = structures[replica.structure].info
            name = info.get("config") or info.get("material") or replica.formula
            stopped.append(f"{name}: {replica.reason}")
    return frames, stopped, result.signal
