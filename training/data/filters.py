"""Rules by which frames are left out of training, each counted under its name.

Axes: N atoms, S structures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d.slab import batched_stress_2d

from ..config import FilterConfig
from .dataset import Dataset


@dataclass(frozen=True)
class Removed:
    """How many frames a rule took out of those that the rules before it had left."""

    rule: str
    count: int


def apply_filters(data: Dataset, config: FilterConfig) -> tuple[NDArray[np.int64], list[Removed]]:
    """Ascending indices of the frames that pass every rule, and what each rule removed.

    A missing label breaks no rule but `require`.
    """
    keep = np.ones(len(data), dtype=bool)
    report = []
    for rule, bad in _rules(data, config):
        report.append(Removed(rule, int((keep & bad).sum())))
        keep &= ~bad
    return np.flatnonzero(keep), report


def _rules(data: Dataset, config: FilterConfig) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Name and (S,) mask of the frames that break each rule that is switched on."""
    for label in config.require:
        yield f"has no {label}", missing(data, label)
    if config.max_atoms is not None:
        yield f"more than {config.max_atoms} atoms", data.n_atoms > config.max_atoms
    if config.isolated_atoms == "remove":
        yield f"an atom without neighbour within {data.cutoff:g} Å", data.isolated
    per_atom = data.energy / data.n_atoms
    if config.min_energy is not None:
        yield f"energy below {config.min_energy:g} eV/atom", per_atom < config.min_energy
    if config.max_energy is not None:
        yield f"energy above {config.max_energy:g} eV/atom", per_atom > config.max_energy
    if config.max_force is not None:
        largest = largest_force(data)
        yield f"a force component above {config.max_force:g} eV/Å", largest > config.max_force
    if config.max_stress is not None:
        largest = largest_stress(data)
        yield f"an in-plane stress above {config.max_stress:g} N/m", largest > config.max_stress


def missing(data: Dataset, label: str) -> NDArray[np.bool_]:
    """(S,) mask of the frames without energy, forces, or stress in the plane ('stress')."""
    if label == "energy":
        return np.isnan(data.energy)
    return np.isnan(largest_force(data) if label == "forces" else largest_stress(data))


def largest_force(data: Dataset) -> NDArray[np.float64]:
    """(S,) largest absolute component of any force in eV/Å; NaN where forces are absent."""
    return np.array([np.abs(data.atoms_of("forces", [s])).max() for s in range(len(data))])


def largest_stress(data: Dataset) -> NDArray[np.float64]:
    """(S,) largest absolute in-plane component in N/m; NaN where absent or no slab."""
    virial, cell, pbc = (torch.from_numpy(x) for x in (data.virial, data.cell, data.pbc))
    stress: NDArray[np.float64] = batched_stress_2d(virial, cell, pbc).abs().amax((1, 2)).numpy()
    return stress
