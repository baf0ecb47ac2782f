"""Errors of the predicted energies, forces and stresses of structures as they are.

Axes: N atoms of all structures, S structures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlff2d.atoms import symbols
from mlff2d.potential import Potential

from ..data.dataset import Dataset
from ..data.references import explained, fit_references, fit_shifts
from ..lineage import is_level_of
from .baselines import composition_regression
from .part import Judged
from .population import Population
from .predictions import Predictions, labels_of, predict
from .quantities import Directions, Quantity, directions
from .tables import Cell, Table

Energies = Literal["auto", "given", "moved"]
Array = NDArray[np.float64]
Levels = dict[int, dict[int, float]]
"""By source, energies in eV by atomic number to add to those of a model."""

COMPOSITION = "composition alone"
REFERENCES = "reference energies"
NO_FORCE = "no force"
NO_STRESS = "no stress"


@dataclass(frozen=True)
class Candidate:
    """A potential that is judged.

    Attributes
    ----------
    name : in tables and figures
    data : the data with the edges of its cutoff
    training : what its file says of its origin
    sha256 : of its file
    levels : found by `judge`: what its energies are moved by, source by source
    """

    name: str
    potential: Potential
    data: Dataset
    training: dict[str, Any]
    sha256: str
    levels: Levels = field(default_factory=dict)


@dataclass
class Section:
    """A part of the report: quantities of the same structures.

    Attributes
    ----------
    key : for names of files
    lines : sentences above its tables
    tables : further ones, shown before those that every section has
    """

    key: str
    title: str
    population: Population
    quantities: list[Quantity]
    lines: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def judge(candidates: list[Candidate], judged: Judged, energies: Energies) -> Section:
    """Errors of potentials, the one that is judged first, and of the baselines.

    The zero of an energy is that of the reference energies, so that figures of merit do not shine
    by what the composition says anyway; errors do not depend on it.
    """
    data, ids = candidates[0].data, judged.ids
    labels = labels_of(data, ids)
    predicted = {c.name: predict(c.potential, c.data, ids, c.name) for c in candidates}
    good, lines = _finite(data, ids, predicted)
    if not good.all():
        of_atom = np.repeat(good, data.n_atoms[ids])
        ids, labels = ids[good], _only(labels, good, of_atom)
        predicted = {name: _only(p, good, of_atom) for name, p in predicted.items()}
    population = Population(data, ids)
    builders = (
        _energies(candidates, population, labels, predicted, judged.train, energies, lines),
        _forces(population, labels, predicted),
        _stresses(labels, predicted),
    )
    quantities = [quantity for quantity in builders if quantity is not None]
    if not quantities:
        raise ValueError("the models return no finite number for any labelled structure")
    tables = []
    forces = next((q for q in quantities if q.key == "forces"), None)
    if forces is not None:
        tables.append(_direction_table(forces))
    return Section("direct", "Structures as they are", population, quantities, lines, tables)


def _finite(
    data: Dataset, ids: NDArray[np.int64], predicted: dict[str, Predictions]
) -> tuple[NDArray[np.bool_], list[str]]:
    """Mask of the structures for which all models return numbers, and a line about the others."""
    good, lines = np.ones(len(ids), dtype=bool), []
    first = np.cumsum(data.n_atoms[ids]) - data.n_atoms[ids]
    for name, p in predicted.items():
        finite = np.isfinite(p.energy)
        finite &= np.logical_and.reduceat(np.isfinite(p.forces).all(1), first)
        if not finite.all():
            example = data.name(int(ids[int(finite.argmin())]))
            lines.append(
                f"{name} returns NaN or infinity for {int((~finite).sum()):,} structures, such as "
                f"{example}; no method is judged on them."
            )
        good &= finite
    return good, lines


def _only(p: Predictions, good: NDArray[np.bool_], of_atom: NDArray[np.bool_]) -> Predictions:
    return Predictions(p.energy[good], p.forces[of_atom], p.stress[good])


def _energies(
    candidates: list[Candidate],
    population: Population,
    labels: Predictions,
    predicted: dict[str, Predictions],
    train: NDArray[np.int64],
    energies: Energies,
    lines: list[str],
) -> Quantity | None:
    """Energies per atom above the reference energies, meV/atom."""
    known = np.flatnonzero(np.isfinite(labels.energy))
    if len(known) == 0:
        return None
    labelled = population.subset(known)
    data = population.data
    true = labels.energy[known] / labelled.n_atoms
    moved = {c.name: moved_sources(c, data, energies) for c in candidates}
    zero = _zero(labelled, candidates[0].potential, moved[candidates[0].name])
    values = {}
    for candidate in candidates:
        name = candidate.name
        own = predicted[name].energy[known] / labelled.n_atoms
        levels = fit_levels(labelled, true - own, moved[name], name, None, lines)
        candidate.levels.update(levels)
        values[name] = own + level_shift(labelled, levels)
    is_fitted = bool(moved[candidates[0].name].any())
    baseline = f"fitted {REFERENCES}" if is_fitted else REFERENCES
    values[baseline] = zero
    # Where the zero is fitted to these structures, a baseline from elsewhere has another one.
    training = Population(data, train[:0] if is_fitted else train)
    regression = _regression(labelled, true - zero, training, candidates[0].potential)
    if np.isfinite(regression).all():
        values[COMPOSITION] = zero + regression
    how = "to the training part" if len(training) else "by cross-validation over materials"
    lines.append(
        f"Energies are per atom above the {baseline}. Composition alone: ridge regression on "
        f"shares of elements and their products, fitted {how}."
    )
    return Quantity(
        key="energy",
        name="Energy",
        unit="meV/atom",
        digits=1,
        true=1000 * (true - zero),
        predicted={name: 1000 * (value - zero) for name, value in values.items()},
        baselines=tuple(name for name in (baseline, COMPOSITION) if name in values),
        owner=known,
    )


def _regression(judged: Population, above: Array, train: Population, potential: Potential) -> Array:
    """(S,) eV/atom above the reference energies that composition alone gives."""
    data = train.data
    zero = explained(data, train.ids, potential.references.as_dict())
    return composition_regression(
        judged, above, train, data.energy[train.ids] / train.n_atoms - zero
    )


def moved_sources(candidate: Candidate, data: Dataset, energies: Energies) -> NDArray[np.bool_]:
    """Mask of the sources for which the reference energies of a model are moved."""
    if energies == "auto":
        return ~is_level_of(data, candidate.training)
    return np.full(len(data.sources), energies == "moved")


def fit_levels(
    population: Population,
    residual: Array,
    moved: NDArray[np.bool_],
    name: str,
    truth: str | None,
    lines: list[str],
) -> Levels:
    """For each source that is moved one energy an element: least squares of the residual (S,).

    The residual is in eV/atom, the true energies minus those of a model. `truth` names what gives
    them; None for the labels. Says in `lines` what was moved.
    """
    levels: Levels = {}
    data = population.data
    for source in np.flatnonzero(moved):
        inside = data.source[population.ids] == source
        if not inside.any():
            continue
        part = population.subset(np.flatnonzero(inside))
        fitted = fit_shifts(data, part.ids, part.compositions.elements, residual[inside])
        levels[int(source)] = fitted
        values = ", ".join(f"{symbols((z,))} {e:+.2f}" for z, e in list(fitted.items())[:8])
        more = "" if len(fitted) <= 8 else f" and {len(fitted) - 8} more"
        few = ""
        if len(part.compositions) <= len(fitted):
            few = "; with as few compositions, differences between them are fitted away"
        lines.append(
            f"ENERGIES MOVED: {name} was not (last) trained on energies of "
            f"{truth or data.sources[source]['name']}, so that its zero may be another. Its "
            f"reference energies were moved by a fit to these {len(part):,} energies of "
            f"{len(part.compositions):,} compositions ({values} eV{more}); its energy errors are "
            f"what is left{few}."
        )
    return levels


def level_shift(population: Population, levels: Levels) -> Array:
    """(S,) eV/atom that such energies of the elements add to some structures."""
    shift = np.zeros(len(population))
    data, ids = population.data, population.ids
    for source, energies in levels.items():
        inside = data.source[ids] == source
        shift[inside] = explained(data, ids[inside], energies)
    return shift


def _zero(population: Population, potential: Potential, moved: NDArray[np.bool_]) -> Array:
    """(S,) eV/atom of the reference energies; of sources that are moved, of a fit to them."""
    data, ids = population.data, population.ids
    zero = explained(data, ids, potential.references.as_dict())
    for source in np.flatnonzero(moved):
        inside = data.source[ids] == source
        if inside.any():
            zero[inside] = explained(data, ids[inside], fit_references(data, ids[inside]))
    return zero


def _forces(
    population: Population, labels: Predictions, predicted: dict[str, Predictions]
) -> Quantity | None:
    known = np.isfinite(labels.forces).all(1)
    if not known.any():
        return None
    owner = np.repeat(np.arange(len(population), dtype=np.int32), population.n_atoms)[known]
    z = np.concatenate(
        [
            population.data.atoms_of("z", block)
            for block in np.array_split(population.ids, len(population) // 4096 + 1)
        ]
    )[known]
    true = 1000 * labels.forces[known].ravel()
    values = {name: 1000 * p.forces[known].ravel() for name, p in predicted.items()}
    return Quantity(
        key="forces",
        name="Forces",
        unit="meV/Å",
        digits=1,
        true=true,
        predicted=values | {NO_FORCE: np.broadcast_to(np.float32(0), true.shape)},
        baselines=(NO_FORCE,),
        owner=np.repeat(owner, 3),
        element=np.repeat(z, 3),
    )


def _stresses(labels: Predictions, predicted: dict[str, Predictions]) -> Quantity | None:
    """The four components in the plane, xx, yy, and xy twice, as the loss counts them."""
    known = np.flatnonzero(np.isfinite(labels.stress).all(1))
    if len(known) == 0:
        return None
    true = labels.stress[known][:, [0, 1, 2, 2]].ravel()
    values = {name: p.stress[known][:, [0, 1, 2, 2]].ravel() for name, p in predicted.items()}
    return Quantity(
        key="stress",
        name="In-plane stress",
        unit="N/m",
        digits=3,
        true=true,
        predicted=values | {NO_STRESS: np.broadcast_to(0.0, true.shape)},
        baselines=(NO_STRESS,),
        owner=np.repeat(known, 4),
    )


def direction_figures(forces: Quantity) -> dict[str, Directions]:
    """How the forces of each model lie to the true ones."""
    true = forces.true.reshape(-1, 3)
    return {m: directions(true, forces.predicted[m].reshape(-1, 3)) for m in forces.models}


def _direction_table(forces: Quantity) -> Table:
    columns = [
        "method",
        "atoms",
        "mean angle (°)",
        "median angle (°)",
        "mean cosine",
        "median size ratio",
        "slope",
    ]
    rows: list[list[Cell]] = [
        [m, d.n, d.mean_angle, d.median_angle, d.cosine, d.ratio, d.slope]
        for m, d in direction_figures(forces).items()
    ]
    digits = dict.fromkeys(columns[2:4], 1) | dict.fromkeys(columns[4:], 3)
    note = (
        "Directions are of the atoms with a true force of at least 50 meV/Å; means are weighted by "
        "it. Slope: of predicted on true components, through the origin; below one is too soft."
    )
    return Table("force_directions", "Directions and sizes of forces", columns, rows, digits, note)
