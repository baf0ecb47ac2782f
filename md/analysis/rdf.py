"""Radial distribution in the plane.

Distances are those of the places over which atoms lie: what two atoms differ in height does not
count. g(r) is the density of atoms b at a distance r from an atom a over their mean density, per
area; it goes to 1 where places know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase.data import chemical_symbols

from mlff2d import slab
from mlff2d.neighbors import neighbor_list

from .tracks import Array, Track

MAX_FRAMES = 200
"""Of more frames so many are taken, evenly."""


@dataclass(frozen=True)
class RDF:
    """Axes: R bins.

    Attributes
    ----------
    r : (R,) Å, the middle of each bin
    g : (R,) by pair, such as "Mo-S"; alone an element's name has no partner
    n_frames : that were counted
    """

    r: Array
    g: dict[str, Array]
    n_frames: int


def rdf(tracks: Sequence[Track], r_max: float = 10.0, width: float = 0.05) -> RDF:
    """g(r) of each pair of elements, mean over frames and replicas of the same atoms."""
    edges = np.linspace(0.0, r_max, max(1, round(r_max / width)) + 1)
    rings = np.pi * np.diff(edges**2)
    numbers = tracks[0].numbers
    elements = np.unique(numbers).tolist()
    pairs = list(combinations_with_replacement(elements, 2))
    sums = {pair: np.zeros(len(rings)) for pair in pairs}
    n_frames = 0
    for track in tracks:
        chosen = np.unique(np.linspace(0, len(track) - 1, min(len(track), MAX_FRAMES)).astype(int))
        for t in chosen:
            distances, of_pair = _distances(track, int(t), edges[-1])
            for a, b in pairs:
                own = distances[(of_pair[0] == a) & (of_pair[1] == b)]
                counts = np.histogram(own, edges)[0]
                # An atom's own images count, so that b has its whole density for a = b too.
                density = (numbers == b).sum() / track.area[t]
                sums[a, b] += counts / ((numbers == a).sum() * density * rings)
            n_frames += 1
    names = {pair: "-".join(chemical_symbols[z] for z in pair) for pair in pairs}
    middle = (edges[1:] + edges[:-1]) / 2
    return RDF(middle, {names[pair]: total / n_frames for pair, total in sums.items()}, n_frames)


def _distances(track: Track, t: int, r_max: float) -> tuple[Array, Array]:
    """Distances in the plane up to r_max of all ordered pairs, images included, and their elements.

    (P,) and (2, P).
    """
    cell = track.cell[t]
    n = slab.normal(cell, track.pbc)
    pos = track.pos[t]
    flat = pos - (pos @ n)[:, None] * n
    (i, j), shift = neighbor_list(flat, cell, track.pbc, r_max)
    vectors = flat[j] - flat[i] + shift @ cell
    return np.linalg.norm(vectors, axis=1), np.stack([track.numbers[i], track.numbers[j]])
