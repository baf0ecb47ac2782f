"""Lattice and heights of a prototype made of other elements, from radii.

The bonds of the reference compound are scaled by the radii of the two atoms, other distances by
what bonds grow on average; lattice and free coordinates are fitted to them by least squares within
the layer group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.neighborlist import primitive_neighbor_list
from numpy.typing import NDArray
from scipy.optimize import least_squares

from .elements import CLASSES, covalent_radius, ionic_radius
from .prototypes import Prototype, expand, plane_vectors

Array = NDArray[np.floating]

BONDED = 1.25
"""Bonds of two slots are up to so many times as long as the shortest of them."""

CONTACT = 1.6
"""Other pairs count up to so many times the longest bond."""

CONTACT_WEIGHT = 0.1
"""How much a pair that is no bond counts beside a bond."""


_REACH = 8.0  # Å, more than CONTACT times any bond


@dataclass(frozen=True)
class Geometry:
    """What a prototype looks like with some elements.

    Attributes
    ----------
    lattice : a, b in Å and γ in degrees
    positions : (N, 3) two fractions and a height in Å
    misfit : by how much bonds deviate from the lengths that radii ask for, relative, the worst
    """

    lattice: tuple[float, float, float]
    positions: Array
    misfit: float


class Shape:
    """The distances in a prototype, K pairs of atoms, and how they change with the elements."""

    def __init__(self, prototype: Prototype) -> None:
        """Find the pairs. Raises ValueError where the reference has none of the bonds named."""
        self.prototype = prototype
        self.layer = expand(prototype)
        positions, plane = self.layer.positions(), plane_vectors(*prototype.lattice)
        cell = np.eye(3)
        cell[:2, :2] = plane
        cartesian = np.concatenate([positions[:, :2] @ plane, positions[:, 2:]], axis=1)
        i, j, length, shift = primitive_neighbor_list(
            "ijdS", (True, True, False), cell, cartesian, _REACH
        )
        bonded = self._bonded(i, j, length)
        if not bonded.any():
            raise ValueError(f"{prototype.name}: no bonds {prototype.bonds} were found")
        once = (i < j) | ((i == j) & (shift[:, 0] * 1000 + shift[:, 1] > 0))
        use = once & (length <= CONTACT * length[bonded].max())
        self._first, self._second = i[use], j[use]
        self._length, self._bonds = length[use], bonded[use]
        origin, free = self.layer.origin, self.layer.free
        self._apart = origin[self._second] - origin[self._first]
        self._apart[:, :2] += shift[use, :2]
        self._apart_free = free[self._second] - free[self._first]
        self._weight = np.where(self._bonds, 1.0, CONTACT_WEIGHT)

    def _bonded(self, i: NDArray[np.intp], j: NDArray[np.intp], length: Array) -> NDArray[np.bool_]:
        slots = np.array(self.layer.slots)
        found = np.zeros(len(i), dtype=bool)
        for one, other in self.prototype.bonds:
            pair = ((slots[i] == one) & (slots[j] == other)) | (
                (slots[i] == other) & (slots[j] == one)
            )
            if pair.any():
                found |= pair & (length <= BONDED * length[pair].min())
        return found

    def guess(self, symbols: Mapping[str, str], states: Mapping[str, int] | None) -> Geometry:
        """The geometry with an element, and where known an oxidation state, in each slot."""
        scale = self._scale(symbols, states)
        size = float(scale[self._bonds].mean())
        target = self._length * np.where(self._bonds, scale, size)
        a, b, gamma = self.prototype.lattice
        lengths = 1 if a == b else 2
        heights = np.abs(self.layer.free[:, 2]).sum(0) > 0  # of free coordinates; others: fractions

        def unpack(x: Array) -> tuple[tuple[float, float, float], Array]:
            stretch = size * np.exp(x[:lengths])
            free = self.layer.parameters * np.where(heights, size, 1.0) + x[lengths:]
            return (a * stretch[0], b * stretch[-1], gamma), free

        def residuals(x: Array) -> Array:
            vectors = self._vectors(*unpack(x))[0]
            return self._weight * (np.linalg.norm(vectors, axis=1) / target - 1)

        def jacobian(x: Array) -> Array:
            vectors, by_lengths, by_free = self._vectors(*unpack(x))
            by_lengths = by_lengths.sum(2, keepdims=True) if lengths == 1 else by_lengths
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            change = np.concatenate([by_lengths, by_free], axis=2)
            return np.einsum("kx,kxp->kp", unit, change) * (self._weight / target)[:, None]

        start = np.zeros(lengths + len(heights))
        found = least_squares(residuals, start, jacobian, method="lm", xtol=1e-7, ftol=1e-9)
        lattice, free = unpack(found.x)
        misfit = float(np.abs(found.fun[self._bonds]).max())
        return Geometry(lattice, self.layer.positions(free), misfit)

    def _vectors(
        self, lattice: tuple[float, float, float], free: Array
    ) -> tuple[Array, Array, Array]:
        """(K, 3) vectors of the pairs in Å, and their derivatives.

        By the logarithms of a and b these are (K, 3, 2), by the P free coordinates (K, 3, P).
        """
        plane = plane_vectors(*lattice)
        difference = self._apart + self._apart_free @ free
        along = difference[:, :2, None] * plane  # (K, 2 lattice vectors, 2 axes)
        vectors = np.concatenate([along.sum(1), difference[:, 2:]], axis=1)
        by_lengths = np.zeros((len(vectors), 3, 2))
        by_lengths[:, :2] = along.transpose(0, 2, 1)
        in_plane = np.einsum("kfp,fx->kxp", self._apart_free[:, :2], plane)
        return vectors, by_lengths, np.concatenate([in_plane, self._apart_free[:, 2:]], axis=1)

    def _scale(self, symbols: Mapping[str, str], states: Mapping[str, int] | None) -> Array:
        """(K,) what the distances of the reference are to be multiplied by.

        Between ions, a metal's and an anion, it is the ratio of sums of ionic radii, else that of
        covalent ones.
        """
        reference = self.prototype.reference
        states_there = self.prototype.balance(reference)
        ions = self._sums(_ionic(symbols, states)) / self._sums(_ionic(reference, states_there))
        covalent = self._sums(_covalent(symbols)) / self._sums(_covalent(reference))
        return np.where(np.isfinite(ions), ions, covalent)

    def _sums(self, radii: Mapping[str, float]) -> Array:
        """(K,) sums of the radii, given by slot, of the atoms of each pair."""
        of_atoms = np.array([radii[s] for s in self.layer.slots])
        return of_atoms[self._first] + of_atoms[self._second]


def _covalent(symbols: Mapping[str, str]) -> dict[str, float]:
    return {slot: covalent_radius(symbol) for slot, symbol in symbols.items()}


def _ionic(symbols: Mapping[str, str], states: Mapping[str, int] | None) -> dict[str, float]:
    """Radii by slot; NaN where the charge is not known, and of cations that are no metals."""
    if states is None:
        return dict.fromkeys(symbols, np.nan)
    return {
        slot: ionic_radius(symbol, states[slot])
        if states[slot] < 0 or symbol in CLASSES["metal"]
        else np.nan
        for slot, symbol in symbols.items()
    }
