"""Order of an alloy against temperature, by Monte Carlo.

With a cluster expansion by icet's mchammer, which cools random arrangements; with a potential by
our own swaps, all temperatures at a time. From the arrangements of both the same is computed; see
`observables`. Results of either are kept in `monte-carlo/` of the run folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from rich.console import Console

from mlff2d.files import replacing
from mlff2d.interrupt import StopRequest
from mlff2d.potential import Potential

from ..console import bars, make_console
from ..evaluation.plots import Plot
from ..evaluation.tables import Table
from .config import AlloyConfig, MonteCarloConfig, WalkConfig
from .expansion import fit
from .mchammer import anneal
from .montecarlo_figures import courses_plot, courses_table, sketch_plot, sketch_table
from .observables import Array, Course, Samples, course_of, shared_sites
from .potentials import FINE_TUNED
from .system import System

FOLDER = "monte-carlo"

BY = {
    "expansion": "a cluster expansion",
    "potential": "the potential, atoms on Vegard's lattice",
    "potential-relaxed": "the potential, every trial relaxed",
}


class Sampled(Protocol):
    """What swaps found; see `mlff2d.md.montecarlo.result.MonteCarloResult`."""

    energies: NDArray[np.float64]
    arrangements: NDArray[np.uint8]
    first: NDArray[np.float64]
    acceptance: NDArray[np.float64]
    failed: NDArray[np.int64]
    computed: Mapping[str, int]
    troubles: Mapping[int, str]
    signal: int | None


Sampler = Callable[..., Sampled]

sampler: Sampler | None = None
"""`sampler(structures, species, potential, output, relax, progress, **settings of
mlff2d.md.montecarlo.settings.SwapSettings)`, where `relax` are settings of
`mlff2d.md.relaxation.settings.RelaxSettings` or None; see `mlff2d.md.montecarlo.swap`."""


@dataclass
class MonteCarlo:
    """What Monte Carlo of one system by one kind of energy found.

    Attributes
    ----------
    system, by : name, and key of `BY`
    courses : one for each composition
    lines : sentences for the page; why there is nothing else, where there is not
    tables, plots : of them
    signal : number of a signal that interrupted it; the same call goes on
    """

    system: str
    by: str
    courses: list[Course] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    signal: int | None = None


def run_monte_carlo(
    system: System,
    config: AlloyConfig,
    console: Console | None = None,
    potential: Potential | None = None,
) -> list[MonteCarlo]:
    """Monte Carlo of one system by each of `monte_carlo.by`; nothing where that section is not.

    `potential` gives energies where one is asked for. What cannot be done for want of data says so
    in `lines`. Raises RuntimeError where a potential is asked for and the hook of this module is
    not set.
    """
    how = config.monte_carlo
    if how is None:
        return []
    console = console or make_console()
    folder = config.run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for by in how.by:
        console.print(f"{system.name}: Monte Carlo by {BY[by]}.")
        one = MonteCarlo(system.name, by)
        found.append(one)
        try:
            if by == "expansion":
                _by_expansion(system, config, how, folder, console, one)
            else:
                _by_potential(system, config, how, folder, console, potential, one)
        except ValueError as error:
            one.lines.append(f"Monte Carlo by {BY[by]} could not be done: {error}.")
            continue
        if one.signal is not None:
            break
        _describe(one)
    return found


def decorated(system: System, walk: WalkConfig, shares: Sequence[float]) -> list[Atoms]:
    """Supercells of the parent on its ideal sites, one for each share of the last species.

    The share is rounded to what the supercell can have. Raises ValueError where one species is
    left without a site.
    """
    alloy, cells = system.alloy, walk.supercell[0] * walk.supercell[1]
    sub = alloy.sublattices[0]
    made = []
    for share in shares:
        counts = alloy.counts(sub, cells, share, exactly=False)
        if min(counts.values()) < 1:
            raise ValueError(
                f"{system.name}: a share of {share:g} of {cells} primitive cells leaves a species "
                "without a site; give a larger supercell, or another of monte_carlo.shares"
            )
        made.append(_filled(system, walk, np.repeat(list(counts), list(counts.values()))))
    return made


def _filled(system: System, walk: WalkConfig, species: NDArray[np.str_]) -> Atoms:
    """The supercell with these species on its shared sites, in their order."""
    supercell = system.lattice.parent.repeat((*walk.supercell, 1))
    symbols = np.array(list(supercell.symbols), dtype=object)
    symbols[shared_sites(system, walk.supercell)] = species
    supercell.symbols = symbols.tolist()
    return supercell


def _by_expansion(
    system: System,
    config: AlloyConfig,
    how: MonteCarloConfig,
    folder: Path,
    console: Console,
    one: MonteCarlo,
) -> None:
    fitted = fit(system, system.with_dft, config.expansion, how.fit, config.seed)
    one.lines.append(
        f"The expansion was fitted to all {len(system.with_dft)} configurations that DFT relaxed; "
        f"its error in cross-validation is {1000 * fitted.cv_rmse:.2f} meV per site."
    )
    walk = how.expansion
    equilibration = int(how.equilibrate * walk.sweeps)
    mixed = decorated(system, walk, how.shares)
    total = len(mixed) * walk.replicas * len(how.temperatures)
    with bars(console) as progress, StopRequest() as stop:
        bar = progress.add_task(f"swaps in {system.name}", total=total)

        def stopped() -> bool:
            progress.advance(bar)
            return stop.signal is not None

        for supercell in mixed:
            what = [how.temperatures, walk.model_dump(), equilibration, config.seed]
            digest = hashlib.sha256(json.dumps(what).encode())
            digest.update(np.round(fitted.expansion.parameters, 12).tobytes())
            digest.update(repr(fitted.cutoffs).encode() + supercell.numbers.tobytes())
            path = folder / f"{system.name}-expansion-{digest.hexdigest()[:12]}.npz"
            samples = _read(path)
            if samples is None or not samples.finished:
                samples = anneal(
                    fitted.expansion,
                    supercell,
                    how.temperatures,
                    walk.sweeps,
                    equilibration,
                    walk.replicas,
                    config.seed,
                    samples,
                    partial(_write, path=path),
                    stopped,
                )
            one.signal = stop.signal
            if one.signal is not None:
                return
            one.courses.append(course_of(system, walk.supercell, samples))


def _write(samples: Samples, path: Path) -> None:
    with replacing(path) as file:
        np.savez_compressed(file, **vars(samples))


def _read(path: Path) -> Samples | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as found:
            values: dict[str, Any] = dict(found)
        values |= {"random": float(values["random"]), "failed": int(values["failed"])}
        return Samples(**values)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} is damaged; delete it and run the same command again") from error


def _by_potential(
    system: System,
    config: AlloyConfig,
    how: MonteCarloConfig,
    folder: Path,
    console: Console,
    potential: Potential | None,
    one: MonteCarlo,
) -> None:
    if sampler is None:
        raise RuntimeError("mlff2d.training.alloys.montecarlo.sampler is not set")
    if potential is None:
        named = FINE_TUNED in config.methods
        remedy = "see why it could not be trained" if named else "name it among the methods"
        raise ValueError(f"{system.name}: there is no {FINE_TUNED} potential; {remedy}")
    walk = how.potential
    n = len(shared_sites(system, walk.supercell))
    species = system.lattice.shared
    mixed = decorated(system, walk, how.shares)
    ends = [_filled(system, walk, np.repeat([s], n)) for s in species]
    structures = [system.alloy.finished(cell, "mc", k) for k, cell in enumerate([*mixed, *ends])]
    relaxing = {"fmax": walk.fmax, "smax": walk.smax, "steps": walk.steps, "optimizer": "lbfgs"}
    relax = relaxing if one.by == "potential-relaxed" else None
    settings = {
        "temperatures": how.temperatures,
        "sweeps": walk.sweeps,
        "equilibration": int(how.equilibrate * walk.sweeps),
        "replicas": walk.replicas,
        "seed": config.seed,
    }
    what = [species, relax, settings, config.dtype, potential.fingerprint()]
    digest = hashlib.sha256(json.dumps(what).encode())
    for atoms in structures:
        for array in (atoms.numbers, atoms.positions, atoms.cell.array):
            digest.update(array.tobytes())
    output = folder / f"{system.name}-{one.by}-{digest.hexdigest()[:12]}.state"
    with bars(console) as progress:
        bar = progress.add_task(f"swaps in {system.name}", total=None)
        found = sampler(
            structures,
            species,
            potential,
            output,
            relax,
            lambda done, total: progress.update(bar, completed=done, total=total),
            **settings,
        )
    one.signal = found.signal
    if found.signal is not None:
        return
    for trouble in found.troubles.values():
        raise ValueError(trouble)
    counts = ", ".join(f"{n_of:,} {status}" for status, n_of in sorted(found.computed.items()))
    one.lines.append(f"Energies of so many arrangements were computed, each once: {counts}.")
    one.courses = _mixed(system, walk, mixed, found, np.array(how.temperatures))


def _mixed(
    system: System, walk: WalkConfig, mixed: Sequence[Atoms], found: Sampled, temperatures: Array
) -> list[Course]:
    """What was sampled of mixtures, whose end members were behind them; energies of mixing."""
    species, n = system.lattice.shared, found.arrangements.shape[-1]
    if not np.isfinite(found.energies).all():
        raise ValueError(
            f"{system.name}: relaxations of whole sweeps failed, and their arrangements have no "
            "energy; relax the configurations first, and see what becomes of them"
        )
    of_end = found.energies[len(mixed) :, 0, 0, 0] / n
    courses = []
    for k, cell in enumerate(mixed):
        counted = [list(cell.symbols).count(s) / n for s in species]
        zero = float(np.dot(counted, of_end))
        first = found.first[k][np.isfinite(found.first[k])]
        samples = Samples(
            temperatures,
            found.energies[k] / n - zero,
            found.arrangements[k],
            found.acceptance[k],
            float(first.mean()) / n - zero if len(first) else np.nan,
            int(found.failed[k].sum()),
        )
        courses.append(course_of(system, walk.supercell, samples))
    return courses


def _describe(one: MonteCarlo) -> None:
    """Tables and figures of what was found."""
    title = f"{one.system} by {BY[one.by]}"
    key = f"{one.system}-{one.by}"
    one.tables = [
        sketch_table(one.courses, f"{one.by}-sketch", title),
        courses_table(one.courses, f"{one.by}-temperatures", title),
    ]
    one.plots = [
        courses_plot(one.courses, f"{key}-temperatures", title),
        sketch_plot(one.courses, f"{key}-sketch", title),
    ]
