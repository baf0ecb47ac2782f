"""Where a round looks for frames: relaxations, molecular dynamics and perturbed copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.io import write
from rich.console import Console

from mlff2d.errors import StructureError
from mlff2d.files import write_text
from mlff2d.potential import Potential
from mlff2d.sources import Sources

from ..config import ConfigError
from ..console import watched
from ..data.record import material_of
from ..generation.perturb import perturbed
from .config import ExploreConfig, PerturbConfig

MATERIAL = "material"
"""The entry of info that names what a frame is of; see `mlff2d.training.data.record.Keys`."""


class Relaxed(Protocol):
    """What a relaxation reached, as far as it is needed here."""

    @property
    def atoms(self) -> Atoms:
        """The last geometry."""

    @property
    def status(self) -> str:
        """Converged, or what else became of it."""


Relaxer = Callable[..., Iterable[tuple[int, Relaxed | StructureError]]]
Mover = Callable[..., tuple[list[list[Atoms]], list[str], int | None]]

relaxer: Relaxer | None = None
"""`relaxer(structures, potential, **settings of mlff2d.md.relaxation.settings.RelaxSettings)`."""

mover: Mover | None = None
"""`mover(structures, potential, output, **settings of mlff2d.md.dynamics.settings.MDSettings)`: the
frames of each structure behind its first, reasons of replicas that were stopped, and the signal
that interrupted it. `output` is the name of its trajectories, from which it goes on."""


@dataclass
class Explored:
    """Frames, and what happened on the way.

    Attributes
    ----------
    starts : where it began
    frames : without labels; in info material, mode and start, the number of the structure
    troubles : how many for which reason, of relaxations and dynamics that did not go to their end
    signal : number of one that interrupted it; it is not complete then, and goes on when called
        again
    """

    starts: Sequence[Atoms]
    frames: list[Atoms] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)
    signal: int | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Frames by mode."""
        return dict(Counter(str(atoms.info["mode"]) for atoms in self.frames))

    def add(self, atoms: Atoms, number: int, mode: str) -> None:
        """Take in a frame of a start, without what a model said of it."""
        start = self.starts[number]
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        kept = {key: value for key, value in start.info.items() if _is_plain(value)}
        if start.has("initial_magmoms"):  # what a calculation with spin begins with
            frame.set_initial_magnetic_moments(start.get_initial_magnetic_moments())
        frame.info = kept | {
            MATERIAL: material_of(start, MATERIAL),
            "mode": mode,
            "start": number,
        }
        self.frames.append(frame)


def explore(
    starts: Sequence[Atoms],
    potential: Potential,
    settings: ExploreConfig,
    folder: Path,
    seed: Sequence[int],
) -> Explored:
    """Look for frames from some structures.

    `folder` keeps what dynamics go on from when interrupted; `seed` is what the draws depend on.
    Raises ConfigError where nothing came of it, RuntimeError where the hooks of this module are
    not set.
    """
    found = Explored(starts)
    begin = list(starts)
    if settings.relax:
        begin = _relax(potential, settings, found)
    if settings.perturb is not None:
        _perturb(settings.perturb, found, seed)
    for place, temperature in enumerate(settings.temperatures):
        draw = int(np.random.default_rng([*seed, place]).integers(2**31))
        _move(begin, potential, settings, temperature, folder / f"md-{place}.extxyz", found, draw)
        if found.signal is not None:
            return found
    if not found.frames:
        reasons = "; ".join(f"{n} times: {text}" for text, n in found.troubles.most_common(3))
        raise ConfigError(
            f"exploring brought no frame from {len(starts)} structures ({reasons}); look at the "
            "structures, or give a better model."
        )
    return found


def _relax(potential: Potential, settings: ExploreConfig, found: Explored) -> list[Atoms]:
    """Where to begin to move: what the relaxed starts are, or a start whose relaxation failed."""
    if relaxer is None:
        raise RuntimeError("mlff2d.training.active.explore.relaxer is not set")
    starts, begin = found.starts, list(found.starts)
    results: dict[int, Relaxed | StructureError] = {}
    running = relaxer(starts, potential, fmax=settings.fmax)
    for number, result in watched(running, "relaxing", len(starts)):
        results[number] = result
    for number, result in sorted(results.items()):  # they come as they are done
        if isinstance(result, StructureError):
            found.troubles[f"relaxation: {result}"] += 1
            continue
        found.add(result.atoms, number, "relaxed")
        if result.status in ("converged", "rebuilt"):
            begin[number] = result.atoms
        else:
            found.troubles[f"relaxation: {result.status}"] += 1
    return begin


def _perturb(how: PerturbConfig, found: Explored, seed: Sequence[int]) -> None:
    rattle = [(size, size) for size in how.rattle]
    draw = int(np.random.default_rng(list(seed)).integers(2**31))
    for number, start in enumerate(found.starts):
        try:
            frames = list(perturbed(start, rattle, [how.strain], n=how.n, seed=draw))
        except StructureError as error:
            found.troubles[f"perturbation: {error}"] += 1
            continue
        for frame in frames:
            found.add(frame, number, str(frame.info["mode"]))


def _move(
    begin: Sequence[Atoms],
    potential: Potential,
    settings: ExploreConfig,
    temperature: float,
    output: Path,
    found: Explored,
    seed: int,
) -> None:
    if mover is None:
        raise RuntimeError("mlff2d.training.active.explore.mover is not set")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        moved, stopped, found.signal = mover(
            begin,
            potential,
            output,
            temperature=temperature,
            steps=settings.steps,
            timestep=settings.timestep,
            replicas=settings.replicas,
            write_every=settings.write_every,
            seed=seed,
            unguarded=("domain",),  # beyond what the model knows is where it shall look
        )
    except StructureError as error:  # not one of them can move
        found.troubles[f"{temperature:g} K: {error}"] += len(begin)
        return
    for reason in stopped:
        found.troubles[f"{temperature:g} K: {reason}"] += 1
    for number, frames in enumerate(moved):
        for frame in frames:
            found.add(frame, number, f"md {temperature:g} K")


def read_frames(paths: Sequence[Path], console: Console) -> list[Atoms]:
    """The structures of files and folders; those that cannot be read are said and left out."""
    frames = []
    for found in Sources(paths).read():
        if isinstance(found.structure, StructureError):
            console.print(f"Left out: {found.structure}", soft_wrap=True)
        else:
            frames.append(found.structure)
    return frames


def write_frames(frames: Iterable[Atoms], path: Path) -> None:
    """Write extended XYZ, all or nothing. Raises OSError where that cannot be."""
    text = StringIO()
    for atoms in frames:
        write(text, atoms, format="extxyz")
    write_text(text.getvalue(), path)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | np.number)
