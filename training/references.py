"""Reference energies of the elements and the scale of the model, from the training part.

Axes: N atoms, S structures, Z elements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset


def elements_of(data: Dataset, ids: NDArray[np.int64]) -> tuple[int, ...]:
    """Atomic numbers in some structures, ascending."""
    return tuple(int(z) for z in np.unique(data.atoms_of("z", ids)))


def fit_references(data: Dataset, ids: NDArray[np.int64]) -> dict[int, float]:
    """Energies in eV by atomic number that explain total energies best by composition alone.

    Least squares of E - N <E/N> on the numbers of atoms of each element, each structure weighted
    by 1/N, and the solution of least norm where compositions leave elements undetermined: then
    they share. Without any energy all are zero.
    """
    elements = elements_of(data, ids)
    known = ids[np.isfinite(data.energy[ids])]
    if len(known) == 0:
        return dict.fromkeys(elements, 0.0)
    fractions = compositions(data, known, elements)
    per_atom = data.energy[known] / data.n_atoms[known]
    mean = per_atom.mean()
    solution, *_ = np.linalg.lstsq(fractions, per_atom - mean, rcond=1e-8)
    return {z: float(mean + e) for z, e in zip(elements, solution, strict=True)}


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
    known = ids[np.isfinite(data.energy[ids])]
    elements = tuple(references)
    explained = compositions(data, known, elements) @ np.array(list(references.values()))
    residual = data.energy[known] / data.n_atoms[known] - explained
    spread = float(residual.std()) if len(known) else 0.0
    return spread if spread > 1e-6 else 1.0
