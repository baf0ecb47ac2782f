"""Frames of molecular dynamics by a model, at temperatures that rise."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ase import Atoms

from mlff2d.errors import StructureError
from mlff2d.potential import Potential

from .layers import info_of_parent, standard

Mover = Callable[..., tuple[list[list[Atoms]], list[str], int | None]]
"""`mover(structures, potential, output, **settings of mlff2d.md.dynamics.settings.MDSettings)`: the
frames of each structure but that at which it begins, reasons of those that stopped, and the signal
that interrupted it. `output` is the name of its trajectories, from which the same call goes on."""

_ATOMS = 2000  # that move in one batch


def heated(
    structures: Sequence[Atoms],
    potential: Potential,
    mover: Mover,
    folder: Path,
    temperature: tuple[float, float] = (300.0, 1500.0),
    frames: int = 5,
    every: int = 200,
    timestep: float = 1.0,
    supercell: tuple[int, int] = (1, 1),
    broken: bool = True,
    seed: int = 0,
) -> Iterator[Atoms | StructureError]:
    """`frames` of each structure while a thermostat's target rises from one temperature to another.

    Parameters
    ----------
    potential : on its device and in its precision
    folder : what was run is kept there until all is done, so that the same call goes on
    temperature : K, of the first and of the last step
    every : steps from one frame to the next, enough that they differ
    timestep : fs
    supercell : repetitions along both lattice vectors; a lone atom cannot move
    broken : go on where the layer breaks; else its frames end there

    `info` keeps what describes the parent, and gets mode "hot", parent and temperature, the target
    in K. The cell stays, by Langevin's thermostat. Reasons of what stopped are StructureErrors.
    Raises KeyboardInterrupt where a signal ends the run.
    """
    starts = []
    for atoms in structures:
        try:
            starts.append(standard(atoms) * (*supercell, 1))
        except StructureError as error:
            yield StructureError(f"{atoms.symbols}: {error}")
            continue
        starts[-1].info = info_of_parent(atoms, supercell)
    folder.mkdir(parents=True, exist_ok=True)
    for number, batch in enumerate(_batches(starts)):
        try:
            found, stopped, signal = mover(
                batch,
                potential,
                folder / f"batch-{number:04d}.extxyz",
                temperature=temperature[0],
                temperature_end=temperature[1],
                steps=frames * every,
                write_every=every,
                timestep=timestep,
                seed=seed + number,
                unguarded=("domain", "layer") if broken else ("domain",),
            )
        except StructureError as error:  # not one of them can move
            yield from [error] * len(batch)
            continue
        if signal is not None:
            raise KeyboardInterrupt
        yield from map(StructureError, stopped)
        for start, moved in zip(batch, found, strict=True):
            yield from _frames(start, moved, temperature, frames)
    shutil.rmtree(folder)


def _frames(
    start: Atoms, moved: Sequence[Atoms], temperature: tuple[float, float], frames: int
) -> Iterator[Atoms]:
    """The frames in the standard form, with the temperature at their time."""
    for k, frame in enumerate(moved[:frames], 1):
        plain = Atoms(frame.numbers, frame.positions, cell=start.cell, pbc=start.pbc)
        hot = standard(plain, float(start.cell.array[2, 2]), keep_cell=True)
        low, high = temperature
        hot.info = start.info | {"mode": "hot", "temperature": low + (high - low) * k / frames}
        yield hot


def _batches(structures: Sequence[Atoms]) -> Iterator[list[Atoms]]:
    """Structures in their order, a batch of up to `_ATOMS` atoms after the other."""
    batch: list[Atoms] = []
    for atoms in structures:
        if batch and sum(map(len, batch)) + len(atoms) > _ATOMS:
            yield batch
            batch = []
        batch.append(atoms)
    if batch:
        yield batch
