"""Whether what came out of a relaxation is still the layer that went in."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.neighbors import neighbor_list

BONDED = 1.25
"""Closer than this many times the sum of the covalent radii, two atoms are surely bonded."""

BROKEN = 1.5
"""Farther apart than this many times the sum of the covalent radii, a bond is surely broken."""

COLLAPSED = 0.5
"""Closer than this many times the sum of the covalent radii no two atoms are; N2 has 0.77."""

_GAP_GROWTH = 1.0  # Å


def collapsed(atoms: Atoms, pbc: NDArray[np.bool_]) -> str:
    """A sentence on the two atoms that fell onto each other, "" where none did."""
    i, j, distance, ratio = _pairs(atoms, pbc, COLLAPSED)
    if len(ratio) == 0:
        return ""
    k = int(np.argmin(ratio))
    return (
        f"atoms {i[k]} ({atoms.symbols[i[k]]}) and {j[k]} ({atoms.symbols[j[k]]}) fell onto each "
        f"other ({distance[k]:.2f} Å)"
    )


def detached(before: Atoms, after: Atoms, pbc: NDArray[np.bool_]) -> str:
    """A sentence on how a layer fell apart, "" where it did not.

    It did where bonds of the start are broken such that there are more pieces than before, or
    where a vacuum opened inside it, as between the layers of a bilayer that drift apart. Both are
    slabs in one piece along the normal.
    """
    pieces_before = _count_pieces(before, pbc, BONDED)
    pieces_after = _count_pieces(after, pbc, BROKEN)
    if pieces_after > pieces_before:
        return f"the layer fell into {pieces_after} pieces ({pieces_before} before)"
    gap_before, gap_after = _widest_gap(before, pbc), _widest_gap(after, pbc)
    if gap_after > max(slab.MIN_VACUUM, gap_before + _GAP_GROWTH):
        return f"parts of the slab drifted {gap_after:.1f} Å apart ({gap_before:.1f} Å before)"
    return ""


def _pairs(
    atoms: Atoms, pbc: NDArray[np.bool_], scale: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating], NDArray[np.floating]]:
    """Atoms i, j, distance in Å, and its ratio to the sum of radii, of pairs below `scale`."""
    radii = covalent_radii[atoms.numbers]
    cell = atoms.cell.array
    (i, j), shift = neighbor_list(atoms.positions, cell, pbc, 2 * scale * float(radii.max()))
    vectors = atoms.positions[j] - atoms.positions[i] + shift @ np.where(pbc[:, None], cell, 0.0)
    distance = np.linalg.norm(vectors, axis=1)
    ratio = distance / (radii[i] + radii[j])
    near = ratio < scale
    return i[near], j[near], distance[near], ratio[near]


def _count_pieces(atoms: Atoms, pbc: NDArray[np.bool_], scale: float) -> int:
    i, j, _, _ = _pairs(atoms, pbc, scale)
    piece = np.arange(len(atoms))
    while True:
        lowest = piece.copy()
        np.minimum.at(lowest, i, piece[j])
        if np.array_equal(lowest, piece):
            return len(np.unique(piece))
        piece = lowest


def _widest_gap(atoms: Atoms, pbc: NDArray[np.bool_]) -> float:
    heights = np.sort(atoms.positions @ slab.normal(atoms.cell.array, pbc))
    return float(np.diff(heights).max(initial=0.0))
