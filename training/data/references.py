"""Values of the elements and the scale of the model, from the training part.

Axes: N atoms, S structures, Z elements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset


def elements_of(data: Dataset, ids: NDArray[np.int64]) -> tuple[int, ...]:
    """Atomic numbers in some structures, ascending."""
    return tuple(int(z) for z in np.unique(data.atoms_of("z", ids)))


def fit_references(
    data: Dataset, ids: NDArray[np.int64], totals: NDArray[np.float64] | None = None
) -> dict[int, float]:
    """Values by atomic number that explain totals best by composition alone.

    `totals` (S,) of the whole data are by default the energies in eV. Least squares of
    E - N <E/N> on the numbers of atoms of each element, each structure weighted by 1/N, and the
    solution of least norm where compositions leave elements undetermined: then they share. Without
    any total all are zero.
    """
    totals = data.energy if totals is None else totals
    elements = elements_of(data, ids)
    known = ids[np.isfinite(totals[ids])]
    if len(known) == 0:
        return dict.fromkeys(elements, 0.0)
    per_atom = totals[known] / data.n_atoms[known]
    mean = per_atom.mean()
    return {
        z: float(mean + e) for z, e in fit_shifts(data, known, elements, per_atom - mean).items()
    }


def fit_shifts(
    data: Dataset,
    ids: NDArray[np.int64],
    elements: tuple[int, ...],
    per_atom: NDArray[np.float64],
) -> dict[int, float]:
    """Least squares of values per atom (S,) of some structures on their shares of the elements.

    Of all solutions the one of least norm: what compositions do not determine is zero.
    """
    fractions = compositions(data, ids, elements)
    solution, *_ = np.linalg.lstsq(fractions, per_atom, rcond=1e-8)
    return dict(zip(elements, solution.tolist(), strict=True))


def compositions(
    data: Dataset, ids: NDArray[np.int64], elements: tuple[int, ...]
) -> NDArray[np.float64]:
    """(S, Z) share of each element in each structure."""
    columns = np.searchsorted(elements, data.atoms_of("z", ids))
    rows = np.repeat(np.arange(len(ids)), data.n_atoms[ids])
    counts = np.zeros((len(ids), len(elements)))
    np.add.at(counts, (rows, columns), 1.0)
    return counts / data.n_atoms[ids][:, None]


def fit_scale(data: Dataset, ids: NDArray[np.int64], references: dict[int, float]) -> float:
    """eV for one unit of the model's output: the root mean square of the force components.

    Without forces, the standard deviation of the energies per atom around their references; one
    where neither says anything.
    """
    forces = data.atoms_of("forces", ids).astype(np.float64)
    rms = float(np.sqrt(np.nanmean(forces**2))) if np.isfinite(forces).any() else 0.0
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
    elements = tuple(references)
    explained = compositions(data, known, elements) @ np.array(list(references.values()))
    per_atom = totals[known] / data.n_atoms[known]
    if len(known) == 0:
        return 1.0
    spread = float((per_atom - explained).std())
    return spread if spread > 1e-6 * np.abs(per_atom).max() else 1.0
