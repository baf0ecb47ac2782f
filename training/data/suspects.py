"""Labels so far from all others that they are likely to be wrong.

Axis: S structures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset

# From here on a label is doubted: eV/atom, eV/Å, N/m; it must also be so many times the usual one.
_ENERGY, _FORCE, _STRESS = 100.0, 100.0, 1000.0
_TIMES = 100.0


def trusted_frames(
    data: Dataset, ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Those of some structures without a doubtful label, and sentences on the others.

    Energies per atom are judged by their distance from the median, forces and stress by their
    largest component, each beside the median of the same over all. What is fitted before training,
    reference energies and scale, is fitted to trusted frames: one absurd label would spoil it.
    """
    per_atom = data.energy[ids] / data.n_atoms[ids]
    has_energy = np.isfinite(per_atom)
    middle = np.median(per_atom[has_energy]) if has_energy.any() else np.nan
    stress = np.abs(data.stress_2d[ids]).max(1)
    doubted = np.zeros(len(ids), dtype=bool)
    sentences = []
    for what, size, least, unit, rule in (
        ("an energy far from all others", np.abs(per_atom - middle), _ENERGY, "eV/atom", "energy"),
        ("a force", data.max_force[ids], _FORCE, "eV/Å", "force"),
        ("an in-plane stress", stress, _STRESS, "N/m", "stress"),
    ):
        known = np.isfinite(size)
        if not known.any():
            continue
        usual = float(np.median(size[known]))
        bad = known & (size > max(least, _TIMES * usual))
        if bad.any():
            worst = int(np.argmax(np.where(bad, size, -np.inf)))
            sentences.append(
                f"{bad.sum()} frames of the training part have {what}, the worst "
                f"{data.name(int(ids[worst]))}: {size[worst]:.3g} {unit}, where half of all are "
                f"below {usual:.3g}; reference energies and scale are fitted without them; look at "
                f"their labels, or leave them out with filters.max_{rule}."
            )
        doubted |= bad
    return ids[~doubted], tuple(sentences)
