"""Errors after relaxation: a model at its own minimum against the reference at its own.

As in chapter 4 of F. Jaeger, *Two-Dimensional Machine Learning Force Fields* (ETH Zurich, 2023):
energies per atom, and areas |a × b| / N, of what each model relaxes the same structures to.

Axis: S structures.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.atoms import to_graph
from mlff2d.errors import StructureError
from mlff2d.potential import Potential

from ..console import watched
from ..data.dataset import Dataset
from ..data.references import explained
from .baselines import composition_regression
from .direct import (
    COMPOSITION,
    REFERENCES,
    Candidate,
    Energies,
    Levels,
    Section,
    fit_levels,
    level_shift,
)
from .journal import CONVERGED, FAILED, Journal, Relaxed
from .population import Population
from .quantities import Quantity
from .starts import as_it_is, first_frames, limited, relaxed_frames, structure
from .tables import Cell, Table

START = "start geometry"

SAME_LEVEL = 0.005
"""eV/atom. A reference whose energies of the starts differ from the labels by less, in the median,
is what the labels come from."""

Ids = NDArray[np.int64]
Array = NDArray[np.float64]


class RelaxResult(Protocol):
    """What a relaxer says; see `mlff2d.md.relaxation.result.RelaxResult`."""

    atoms: Atoms
    status: str
    met: bool
    reason: str
    steps: int
    energy: float
    area_after: float
    thickness: float


class Relaxer(Protocol):
    """Relaxes structures, such as `mlff2d.md.relaxation.batch.relax_many`.

    The number of each and what became of it, in the order in which they are done.
    """

    def __call__(
        self,
        structures: Sequence[Atoms],
        potential: Potential,
        *,
        fmax: float,
        smax: float,
        steps: int,
    ) -> Iterator[tuple[int, RelaxResult | StructureError]]: ...


@dataclass(frozen=True)
class Settings:
    """How structures are relaxed, and which.

    Attributes
    ----------
    relaxer : does it, all of them together
    fmax, smax, steps : thresholds in eV/Å and N/m, and when it gives up
    limit : of the starts so many are taken, drawn by the names of their trajectories; None for all
    reference_fmax : eV/Å; largest force component of a frame of the data that counts as relaxed
    dtype : of the potentials
    """

    relaxer: Relaxer
    fmax: float
    smax: float
    steps: int
    limit: int | None
    reference_fmax: float
    dtype: str


@dataclass(frozen=True)
class Reference:
    """The potential whose relaxed structures are the truth."""

    name: str
    potential: Potential
    sha256: str


def judge_relaxed(
    candidates: list[Candidate],
    reference: Reference | None,
    ids: Ids,
    settings: Settings,
    journal: Journal,
    energies: Energies,
) -> Section:
    """Relax with each model, and compare with the relaxed structures of the reference.

    Without a potential as reference it is the frame with the lowest force in the trajectory of each
    start. Raises ValueError where there is nothing to compare with.
    """
    data = candidates[0].data
    starts = first_frames(data, ids)
    lines: list[str] = []
    if reference is None:
        starts, last = relaxed_frames(data, ids, starts, settings.reference_fmax, lines)
        kept = limited(data, starts, settings.limit)
        starts, last = starts[kept], last[kept]
        truth = [as_it_is(data, int(s)) for s in last]
    else:
        starts = starts[limited(data, starts, settings.limit)]
        truth = _relax_all(reference, data, starts, settings, journal)
    found = {c.name: _relax_all(c, data, starts, settings, journal) for c in candidates}
    population = Population(data, starts)
    named = {f"{reference.name} (reference)": truth} if reference is not None else {}
    tables = [_status_table(named | found)]
    good = np.array([r.met for r in truth])
    for rows in found.values():
        good &= [r.met for r in rows]
    lines.append(
        f"{int(good.sum()):,} of {len(starts):,} structures are compared: those that the reference "
        "and every model relaxed. Those that did not converge are in the first table alone."
    )
    if not good.any():
        raise ValueError(
            "no structure was relaxed by the reference and every model; "
            f"{_commonest_reason(truth, found)}"
        )
    compared = population.subset(np.flatnonzero(good))
    columns = {name: _columns(rows, good) for name, rows in found.items()}
    of_truth = _columns(truth, good)
    at_start = {key: _start_columns(data, compared.ids, key) for key in ("area", "thickness")}
    quantities = _energy(candidates, reference, compared, of_truth, columns, energies, lines)
    for key, name, unit, digits in (
        ("area", "Area", "Å²/atom", 4),
        ("thickness", "Thickness", "Å", 3),
    ):
        values = {name: c[key] for name, c in columns.items()} | {START: at_start[key]}
        owner = np.arange(len(compared))
        quantities.append(Quantity(key, name, unit, digits, of_truth[key], values, (START,), owner))
    return Section("relaxed", "After relaxation", compared, quantities, lines, tables)


def _relax_all(
    model: Candidate | Reference, data: Dataset, starts: Ids, settings: Settings, journal: Journal
) -> list[Relaxed]:
    """A relaxation of each start, those of the journal not again."""
    state = model.potential.model.state
    structures = [structure(data, s, state) for s in starts.tolist()]
    thresholds = [settings.fmax, settings.smax, settings.steps, settings.dtype]
    keys = []
    for atoms in structures:
        geometry = [atoms.numbers.tolist(), atoms.positions.tolist(), atoms.cell.tolist()]
        keys.append(Journal.key(model.sha256, thresholds, geometry, list(atoms.info.values())))
    # Equal structures are one relaxation.
    missing = {key: k for k, key in enumerate(keys) if key not in journal}
    places = sorted(missing.values())
    found = _relaxations([structures[k] for k in places], model.potential, settings)
    for n, result in watched(found, f"relaxing with {model.name}", len(places)):
        k = places[n]
        journal.add(keys[k], model.name, data.name(int(starts[k])), result)
    return [journal[key] for key in keys]


def _relaxations(
    structures: list[Atoms], potential: Potential, settings: Settings
) -> Iterator[tuple[int, Relaxed]]:
    """The number of each structure and its relaxation, as they are done.

    What goes wrong with a structure is a status and ends nothing.
    """
    energies = _energies(structures, potential)
    began = time.perf_counter()
    for k, done in settings.relaxer(
        structures, potential, fmax=settings.fmax, smax=settings.smax, steps=settings.steps
    ):
        now = time.perf_counter()
        seconds, began = round(now - began, 3), now
        if isinstance(done, StructureError):
            yield k, Relaxed(FAILED, False, " ".join(str(done).split()), seconds=seconds)
            continue
        n_atoms = len(done.atoms)
        a, b = done.atoms.cell.lengths()[done.atoms.pbc]
        yield (
            k,
            Relaxed(
                status=done.status,
                met=done.met,
                reason=done.reason,
                steps=done.steps,
                energy_start=energies[k] / n_atoms,
                energy=done.energy / n_atoms,
                area=done.area_after,
                a=float(a),
                b=float(b),
                thickness=done.thickness,
                seconds=seconds,
            ),
        )


def _energies(structures: list[Atoms], potential: Potential) -> list[float]:
    """Energies in eV as they are; NaN for what cannot be computed."""
    device = next(potential.parameters()).device
    energies = []
    for atoms in structures:
        try:
            potential.check_elements(atoms.numbers)
            graph = to_graph(atoms, potential.cutoff, potential.model.state)
        except StructureError:
            energies.append(math.nan)
            continue
        with torch.no_grad():
            found = potential(graph.to(device, potential.dtype), forces=False, virial=False)
        energies.append(float(found.energy))
    return energies


def _status_table(found: dict[str, list[Relaxed]]) -> Table:
    """How the relaxations of each potential ended."""
    counts = {name: Counter(map(_ending, rows)) for name, rows in found.items()}
    others = sorted({s for c in counts.values() for s in c} - {CONVERGED})
    columns = ["potential", "structures", "converged", "share (%)", *others]
    columns += ["median steps", "seconds each"]
    rows: list[list[Cell]] = []
    for name, results in found.items():
        n, count = len(results), counts[name]
        done = [r for r in results if r.met]
        rows.append(
            [
                name,
                n,
                len(done),
                100 * len(done) / n,
                *[count[s] for s in others],
                float(np.median([r.steps for r in done])) if done else None,
                float(np.mean([r.seconds for r in results])),
            ]
        )
    digits = {"share (%)": 1, "median steps": 0, "seconds each": 2}
    return Table("relaxations", "How the relaxations ended", columns, rows, digits)


def _ending(relaxed: Relaxed) -> str:
    """Its status; of those that converged to another layer it says both."""
    both = relaxed.met and relaxed.status != CONVERGED
    return f"{CONVERGED}, {relaxed.status}" if both else relaxed.status


def _commonest_reason(truth: list[Relaxed], found: dict[str, list[Relaxed]]) -> str:
    reasons = Counter(r.reason for rows in (truth, *found.values()) for r in rows if r.reason)
    return f"the commonest reason: {reasons.most_common(1)[0][0]}"


def _columns(rows: list[Relaxed], good: NDArray[np.bool_]) -> dict[str, Array]:
    chosen = [row for row, ok in zip(rows, good, strict=True) if ok]
    names = ("energy_start", "energy", "area", "thickness")
    return {name: np.array([getattr(row, name) for row in chosen]) for name in names}


def _start_columns(data: Dataset, starts: Ids, key: str) -> Array:
    return np.array([getattr(as_it_is(data, int(s)), key) for s in starts])


def _energy(
    candidates: list[Candidate],
    reference: Reference | None,
    population: Population,
    truth: dict[str, Array],
    found: dict[str, dict[str, Array]],
    energies: Energies,
    lines: list[str],
) -> list[Quantity]:
    """Energies at the minima, all with the zero of the labels; none where there are no energies."""
    true = truth["energy"]
    levels = {c.name: c.levels for c in candidates}
    if reference is not None:
        levels = {
            c.name: _levels(c, reference, population, truth, found[c.name], energies, lines)
            for c in candidates
        }
    else:
        lines += [
            f"ENERGIES MOVED: the reference energies of {name} are moved here as they were for the "
            "structures as they are; its energy errors are what is left."
            for name, moved in levels.items()
            if moved
        ]
    values = {
        name: found[name]["energy"] + level_shift(population, levels[name]) for name in levels
    }
    first = candidates[0]
    zero = explained(population.data, population.ids, first.potential.references.as_dict())
    zero += level_shift(population, levels[first.name])
    finite = [np.isfinite(array) for array in (true, zero, *values.values())]
    known = np.flatnonzero(np.logical_and.reduce(finite))
    if len(known) == 0:
        lines.append("The reference has no energies, so that only geometries are compared.")
        return []
    values[REFERENCES] = zero
    regression = composition_regression(population.subset(known), (true - zero)[known])
    baselines = [REFERENCES]
    methods = {name: 1000 * (value - zero)[known] for name, value in values.items()}
    if np.isfinite(regression).all():
        methods[COMPOSITION] = 1000 * regression
        baselines.append(COMPOSITION)
    return [
        Quantity(
            key="energy",
            name="Energy",
            unit="meV/atom",
            digits=1,
            true=1000 * (true - zero)[known],
            predicted=methods,
            baselines=tuple(baselines),
            owner=known,
        )
    ]


def _levels(
    candidate: Candidate,
    reference: Reference,
    population: Population,
    truth: dict[str, Array],
    found: dict[str, Array],
    energies: Energies,
    lines: list[str],
) -> Levels:
    """What brings the energies of a model to the zero of the reference.

    Nothing where the model was trained on these data and the reference gives their labels; else it
    is fitted to the energies that both give the starts.
    """
    data, ids = population.data, population.ids
    if energies == "given":
        return {}
    from_labels = data.energy[ids] / population.n_atoms - truth["energy_start"]
    labelled = from_labels[np.isfinite(from_labels)]
    if energies == "auto" and not candidate.levels and len(labelled):
        typical = float(np.median(np.abs(labelled)))
        if typical < SAME_LEVEL:
            lines.append(
                f"{reference.name} gives the energies that {candidate.name} was trained on (to "
                f"{1000 * typical:.2f} meV/atom in the median of the starts), so that they are "
                "compared as they are."
            )
            return {}
    moved = np.ones(len(data.sources), dtype=bool)
    residual = truth["energy_start"] - found["energy_start"]
    known = np.flatnonzero(np.isfinite(residual))
    return fit_levels(
        population.subset(known), residual[known], moved, candidate.name, reference.name, lines
    )
