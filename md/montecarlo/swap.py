"""Monte Carlo of alloys with a potential: swaps of atoms, all walkers evaluated in one batch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers

from mlff2d.errors import StructureError
from mlff2d.interrupt import StopRequest
from mlff2d.potential import Potential

from . import restart
from .energies import Energies, Lattice, energies_of, find_lattice
from .result import MonteCarloResult
from .settings import SwapSettings
from .state import Array, Walk, Walkers

Progress = Callable[[int, int], None]
"""Called with the trials of each walker that are done, and all of them."""


def swap_monte_carlo(
    structures: Sequence[Atoms],
    species: Sequence[str],
    potential: Potential,
    settings: SwapSettings,
    output: Path | None = None,
    *,
    max_edges: int | None = None,
    save_minutes: float = 1.0,
    progress: Progress = lambda done, total: None,
) -> MonteCarloResult:
    """Let the atoms of alloys change places at several temperatures.

    Parameters
    ----------
    structures : supercells with as many shared sites each; their species on these sites say how
        many there are of each, their geometry is the lattice. With one species alone there is
        nothing to swap, and its energy is found. One that cannot begin is left out alone
    species : that share sites; all their atoms are on shared sites
    potential : on the device and in the precision it shall work in; not changed
    output : file with the state of the run. Where it holds that of the same run it goes on, to the
        same bits as if it had not been interrupted; one that is finished is not computed again
    max_edges : evaluated at once; None measures what pays and fits
    save_minutes : between two states from which the run could go on

    Raises
    ------
    StructureError where no structure can begin; ValueError where structures differ in the number
    of their shared sites, for a file of another run, and for a species that is no element.
    """
    numbers = _numbers(species)
    lattices, troubles = _lattices(structures, numbers, potential)
    identity = _identity(structures, numbers, potential, settings)
    found = restart.load(output, identity) if output else None
    if found is not None:
        max_edges = found["max_edges"]
        if torch.get_num_threads() != found["threads"]:
            torch.set_num_threads(found["threads"])  # sums may round otherwise
    potential = potential.eval()
    energies, edges = energies_of(list(lattices.values()), potential, settings.relax, max_edges)
    walk = Walk(list(lattices.values()), list(lattices), settings, energies)
    if found is None:
        now = walk.begin()
    else:
        now = Walkers.from_dict(found["walkers"])
        energies.restore(found["energies"])

    def save() -> None:
        if output is not None:
            state = {"walkers": now.as_dict(), "energies": energies.as_dict()}
            how = {"max_edges": edges, "threads": torch.get_num_threads()}
            restart.save({"identity": identity, **how, **state}, output)

    with StopRequest() as stop:
        _drive(walk, now, stop, save, 60 * save_minutes, progress)
    return _result(len(structures), lattices, now, settings, energies, troubles, stop.signal)


def _drive(
    walk: Walk,
    now: Walkers,
    stop: StopRequest,
    save: Callable[[], None],
    every: float,
    progress: Progress,
) -> None:
    saved = time.monotonic()
    begun = now.step
    while now.step < walk.steps and stop.signal is None:
        walk.advance(now)
        progress(now.step, walk.steps)
        if time.monotonic() - saved > every:
            save()
            saved = time.monotonic()
    if now.step > begun:
        save()


def _numbers(species: Sequence[str]) -> list[int]:
    for one in species:
        if one not in atomic_numbers:
            raise ValueError(f"{one!r} is no element; give symbols, such as Mo and W")
    return [atomic_numbers[one] for one in species]


def _lattices(
    structures: Sequence[Atoms], species: Sequence[int], potential: Potential
) -> tuple[dict[int, Lattice], dict[int, str]]:
    """Lattices by the numbers of the structures, and what is wrong with others."""
    lattices: dict[int, Lattice] = {}
    troubles: dict[int, str] = {}
    for number, atoms in enumerate(structures):
        try:
            lattices[number] = find_lattice(atoms, species, potential)
        except StructureError as error:
            troubles[number] = str(error)
    if not lattices:
        raise StructureError("; ".join(troubles.values()) or "there are no structures")
    counts = sorted({len(one.sites) for one in lattices.values()})
    if len(counts) > 1:
        raise ValueError(
            f"structures have {' and '.join(map(str, counts))} shared sites; give supercells with "
            "as many each"
        )
    return lattices, troubles


def _identity(
    structures: Sequence[Atoms],
    species: Sequence[int],
    potential: Potential,
    settings: SwapSettings,
) -> dict[str, Any]:
    """All that the results depend on, as primitives."""
    digest = hashlib.sha256()
    state = potential.model.state
    for atoms in structures:
        for part in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(repr([atoms.info.get(name) for name in state]).encode())
    return {
        **asdict(settings),
        "species": list(species),
        "structures": digest.hexdigest(),
        "model": potential.fingerprint(),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "device": next(potential.parameters()).device.type,
    }


def _result(
    n: int,
    lattices: dict[int, Lattice],
    now: Walkers,
    settings: SwapSettings,
    energies: Energies,
    troubles: dict[int, str],
    signal: int | None,
) -> MonteCarloResult:
    shape = (settings.replicas, len(settings.temperatures))
    n_sites = now.numbers.shape[1]
    trials = max(1, now.step - settings.equilibration * n_sites)

    def spread(values: Any, empty: float) -> Any:
        """(L, R, T, ...) of all structures from (W, ...) of those that could begin."""
        whole = np.full((n, *shape, *values.shape[1:]), empty, values.dtype)
        whole[list(lattices)] = values.reshape(-1, *shape, *values.shape[1:])
        return whole

    exchanges: Array = np.full((n, shape[1] - 1), np.nan)
    tried = now.asked > 0
    exchanges[list(lattices)] = np.where(tried, now.exchanged / np.maximum(now.asked, 1), np.nan)
    return MonteCarloResult(
        temperatures=np.array(settings.temperatures),
        energies=spread(now.energies, np.nan),
        arrangements=spread(now.arrangements, 0),
        first=spread(now.first, np.nan),
        acceptance=spread(now.accepted / trials, np.nan),
        failed=spread(now.failed, 0),
        exchanges=exchanges,
        computed=dict(energies.counts),
        troubles=troubles,
        signal=signal,
    )
