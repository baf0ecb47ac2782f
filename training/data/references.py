"""Values of the elements and the scale of the model, from the training part.

Axes: S structures, C different compositions, Z elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console

from mlff2d.neighbors import neighbor_list

from ..config import ConfigError
from ..sections import PriorConfig
from .compositions import Compositions, compositions_of
from .dataset import Dataset

ALONE = 8.0
"""Å. A single atom whose periodic images are at least so far away is an isolated atom."""

_RCOND = 1e-8
"""Of the largest singular value; what is below is no information about the elements."""
_CHUNK = 8192  # structures

By = Literal["frame", "composition"]


@dataclass(frozen=True)
class References:
    """Reference energies, and what they do.

    Attributes
    ----------
    energies : eV by atomic number
    origin : where they come from, in words
    residual : mean absolute error of the energies of the training part that they leave when there
        is nothing else, eV/atom; NaN without energies
    notes : sentences that a user should read
    """

    energies: dict[int, float]
    origin: str
    residual: float
    notes: tuple[str, ...] = ()


def find_references(data: Dataset, ids: NDArray[np.int64], config: PriorConfig) -> References:
    """Reference energies of the elements in the training part `ids`, as the config wants them.

    Raises ConfigError where a fit has no energy, and where an element has no isolated atom or no
    given energy.
    """
    elements = elements_of(data, ids)
    notes: tuple[str, ...] = ()
    if config.references == "fit":
        known = ids[np.isfinite(data.energy[ids])]
        energies = fit_references(data, ids, by=config.fit_by)
        each = "frame" if config.fit_by == "frame" else "composition"
        origin = f"least squares on the compositions of {len(known):,} frames, one vote a {each}"
        notes = notes_on_fit(data, known, elements)
    elif config.references == "isolated":
        energies, notes = _of_isolated_atoms(data, elements)
        origin = "isolated atoms in the data"
    else:
        given = {atomic_numbers[key]: value for key, value in config.references.items()}
        _refuse_missing(elements, given, "names no", "name them")
        energies, origin = {z: given[z] for z in elements}, "the config"
    return References(energies, origin, residual_of(data, ids, energies), notes)


def elements_of(data: Dataset, ids: NDArray[np.int64]) -> tuple[int, ...]:
    """Atomic numbers in some structures, ascending."""
    found = np.zeros(256, dtype=bool)
    for some in _chunks(ids):
        found[data.atoms_of("z", some)] = True
    return tuple(np.flatnonzero(found).tolist())


def _chunks(ids: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


def fit_references(
    data: Dataset,
    ids: NDArray[np.int64],
    totals: NDArray[np.float64] | None = None,
    by: By = "frame",
) -> dict[int, float]:
    """Values by atomic number that explain totals best by composition alone.

    `totals` (S,) of the whole data are by default the energies in eV. Least squares of
    E/N - <E/N> on the shares of the elements, and the solution of least norm where compositions
    leave elements undetermined: then they share. Without any total all are zero. For `by` see
    `fit_shifts`.
    """
    totals = data.energy if totals is None else totals
    elements = elements_of(data, ids)
    known = ids[np.isfinite(totals[ids])]
    if len(known) == 0:
        return dict.fromkeys(elements, 0.0)
    per_atom = totals[known] / data.n_atoms[known]
    mean = per_atom.mean()
    shifts = fit_shifts(data, known, elements, per_atom - mean, by)
    return {z: float(mean + e) for z, e in shifts.items()}


def fit_shifts(
    data: Dataset,
    ids: NDArray[np.int64],
    elements: tuple[int, ...],
    per_atom: NDArray[np.float64],
    by: By = "frame",
) -> dict[int, float]:
    """Least squares of values per atom (S,) of some structures on their shares of the elements.

    Of all solutions the one of least norm: what compositions do not determine is zero. Each frame
    counts once, or by composition the mean of its frames does.
    """
    found = compositions_of(data, ids)
    frames = np.bincount(found.of, minlength=len(found))
    means = np.bincount(found.of, per_atom, minlength=len(found)) / frames
    # The means with the root of their frames as weights have the solution of the single frames.
    weights = np.sqrt(frames) if by == "frame" else np.ones(len(found))
    triangle = _triangle(found, elements, means, weights)
    solution, *_ = np.linalg.lstsq(triangle[:, :-1], triangle[:, -1], rcond=_RCOND)
    return dict(zip(elements, solution.tolist(), strict=True))


def _triangle(
    found: Compositions,
    elements: tuple[int, ...],
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(at most Z + 1, Z + 1) R of a QR of weighted shares of the elements beside weighted values.

    A least squares fit to it is one to all compositions, of which never more than a block is held.
    """
    triangle = np.zeros((0, len(elements) + 1))
    for start in range(0, len(found), _CHUNK):
        rows = slice(start, start + _CHUNK)
        block = np.column_stack([found.shares(elements, rows), values[rows]])
        stacked = np.concatenate([triangle, block * weights[rows, None]])
        triangle = np.asarray(np.linalg.qr(stacked, mode="r"))
    return triangle


def explained(
    data: Dataset, ids: NDArray[np.int64], energies: dict[int, float]
) -> NDArray[np.float64]:
    """(S,) eV/atom that values of the elements give some structures."""
    table = np.full(256, np.nan)
    table[list(energies)] = list(energies.values())
    parts = [np.zeros(0)]
    for some in _chunks(ids):
        n_atoms = data.n_atoms[some]
        sums = np.add.reduceat(table[data.atoms_of("z", some)], np.cumsum(n_atoms) - n_atoms)
        parts.append(sums / n_atoms)
    return np.concatenate(parts)


def residual_of(data: Dataset, ids: NDArray[np.int64], energies: dict[int, float]) -> float:
    """Mean |E - sum of values of the elements| / N in eV/atom; NaN without energies."""
    known = ids[np.isfinite(data.energy[ids])]
    if len(known) == 0:
        return np.nan
    left = data.energy[known] / data.n_atoms[known] - explained(data, known, energies)
    return float(np.abs(left).mean())


def notes_on_fit(
    data: Dataset, known: NDArray[np.int64], elements: tuple[int, ...]
) -> tuple[str, ...]:
    """What a fit to the frames with an energy does not determine, in sentences."""
    if len(known) == 0:
        return ("The training part has no energies, so every reference energy is zero.",)
    found = compositions_of(data, known)
    lacking = sorted(set(elements) - set(found.elements))
    notes = [
        f"The compositions do not tell the reference energies of {_listed(group)} apart, whose "
        "proportions are tied to each other: what a compound adds up to is fitted, the single "
        "values are the solution of least norm and mean nothing by themselves."
        for group in undetermined(found)
    ]
    if lacking:
        notes.append(
            f"No frame with {_listed(lacking)} has an energy; there the mean energy per atom "
            "stands for the reference energy."
        )
    return tuple(notes)


def _listed(elements: Sequence[int]) -> str:
    """Symbols as a sentence has them: H, C and O."""
    *others, last = (chemical_symbols[z] for z in elements)
    return f"{', '.join(others)} and {last}" if others else last


def undetermined(compositions: Compositions) -> list[tuple[int, ...]]:
    """Groups of elements whose values a fit to these compositions does not tell apart."""
    elements, nothing = compositions.elements, np.zeros(len(compositions))
    triangle = _triangle(compositions, elements, nothing, nothing + 1)
    _, singular, rows = np.linalg.svd(triangle[:, :-1], full_matrices=True)
    rank = int((singular > _RCOND * singular.max()).sum())
    mixed = np.abs(rows[rank:].T @ rows[rank:]) > 1e-6
    groups = []
    open_ones = set(np.flatnonzero(mixed.any(axis=0)).tolist())
    while open_ones:
        group, border = set(), {min(open_ones)}
        while border:
            group |= border
            border = set(np.flatnonzero(mixed[sorted(border)].any(axis=0)).tolist()) - group
        open_ones -= group
        groups.append(tuple(elements[k] for k in sorted(group)))
    return groups


def isolated_atoms(data: Dataset) -> NDArray[np.int64]:
    """Structures of a single atom without an image of itself within `ALONE` or the cutoff.

    They are no training data: a slab or crystal never looks like this to a model with a cutoff.
    """
    single = np.flatnonzero((data.n_atoms == 1) & (data.n_edges == 0))
    alone = [s for s in single.tolist() if data.cutoff >= ALONE or _is_alone(data, s)]
    return np.array(alone, dtype=np.int64)


def _is_alone(data: Dataset, s: int) -> bool:
    cell, pbc = data.rows_of("cell", [s])[0], data.rows_of("pbc", [s])[0]
    (i, _), _ = neighbor_list(data.atoms_of("pos", [s]), cell, pbc, ALONE)
    return len(i) == 0


def _of_isolated_atoms(
    data: Dataset, elements: Sequence[int]
) -> tuple[dict[int, float], tuple[str, ...]]:
    """The lowest energy of an isolated atom of each element, and where there was a choice."""
    found: dict[int, list[float]] = {}
    for s in isolated_atoms(data).tolist():
        if np.isfinite(data.energy[s]):
            found.setdefault(int(data.atoms_of("z", [s])[0]), []).append(float(data.energy[s]))
    _refuse_missing(elements, found, "finds no isolated atom with an energy of", "add such frames")
    notes = tuple(
        f"{chemical_symbols[z]} has {len(found[z])} isolated atoms, from {min(found[z]):.4f} to "
        f"{max(found[z]):.4f} eV; the lowest is taken."
        for z in elements
        if max(found[z]) - min(found[z]) > 1e-3
    )
    return {z: min(found[z]) for z in elements}, notes


def _refuse_missing(
    elements: Sequence[int], known: dict[int, float] | dict[int, list[float]], lacks: str, do: str
) -> None:
    lacking = [z for z in elements if z not in known]
    if lacking:
        raise ConfigError(
            f"priors.references {lacks} {_listed(lacking)}, which the training part holds; {do}, "
            'or set it to "fit".'
        )


def print_references(references: References, console: Console) -> None:
    """The energies, how well they do alone, and what is to be known about them."""
    console.print(f"Reference energies (eV), from {references.origin}:", soft_wrap=True)
    energies = references.energies.items()
    cells = [f"{chemical_symbols[z]:>2} {energy:11.4f}" for z, energy in energies]
    console.print(Columns(cells, padding=(0, 3), equal=True))
    if np.isfinite(references.residual):
        console.print(
            f"Alone they leave {1000 * references.residual:.1f} meV/atom of the energies "
            "of the training part (mean absolute error).",
            soft_wrap=True,
        )
    for note in references.notes:
        console.print(note, soft_wrap=True)


def fit_scale(data: Dataset, ids: NDArray[np.int64], references: dict[int, float]) -> float:
    """eV for one unit of the model's output: the root mean square of the force components.

    Without forces, the standard deviation of the energies per atom around their references; one
    where neither says anything.
    """
    squares, count = 0.0, 0
    for some in _chunks(ids):
        forces = data.atoms_of("forces", some).astype(np.float64)
        squares += float(np.nansum(forces**2))
        count += int(np.isfinite(forces).sum())
    rms = float(np.sqrt(squares / count)) if count else 0.0
    if rms > 1e-6:
        return rms
    return fit_spread(data, ids, references, data.energy)


def fit_spread(
    data: Dataset,
    ids: NDArray[np.int64],
    references: dict[int, float],
    totals: NDArray[np.float64],
) -> float:
    """Standard deviation of totals per atom around what the elements explain; one if it is none."""
    known = ids[np.isfinite(totals[ids])]
    if len(known) == 0:
        return 1.0
    per_atom = totals[known] / data.n_atoms[known]
    spread = float((per_atom - explained(data, known, references)).std())
    return spread if spread > 1e-6 * np.abs(per_atom).max() else 1.0
