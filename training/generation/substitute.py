"""Layers in which elements are replaced by others, the lattice following the radii."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.contacts import Contacts
from mlff2d.errors import StructureError

from .elements import (
    ELEMENTS,
    chemical_distance,
    covalent_radius,
    neighbours,
    oxidation_states,
)
from .layers import described, material_of, reduced_formula, standard

_SHELL = 1.1  # bonds of an atom: so many times its shortest, both over the sums of the radii

_MOST = 0.2  # logarithm of how much more the plane or the heights grow than bonds do on average

_TRIES = 50  # drawn for each structure that is asked for; a layer of gold has few neighbours


def substituted(
    atoms: Atoms,
    n: int = 1,
    share: float = 0.5,
    any_share: float = 0.0,
    within: float = 2.0,
    elements: Collection[str] = ELEMENTS,
    seed: int = 0,
) -> Iterator[Atoms]:
    """Up to `n` different layers made of one by replacing all atoms of some of its elements.

    They are drawn by chance, seeded by `seed` and the name of the material. A layer has the `info`
    of its parent as far as it describes it still, and material (its formula and the parent's
    prototype or, without one, name), mode and parent.

    Parameters
    ----------
    share : chance of each element to be replaced; one always is
    any_share : chance of a layer that one of them is replaced by any element; others, and else
        all, by a chemical neighbour
    within : up to which `elements.chemical_distance` an element is a neighbour; of them those are
        taken that have an oxidation state in common with it, where there are any, and nearer ones
        more often, by exp(-distance)
    elements : what may come in

    Raises StructureError for what is no layer, and where nothing may come in for its elements.
    """
    parent = standard(atoms)
    name = material_of(parent)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    present = sorted(set(parent.symbols))
    seen: set[tuple[str, ...]] = set()
    for _ in range(n * _TRIES):
        if len(seen) == n:
            return
        replaced = _draw(present, rng, share, any_share, within, frozenset(elements))
        new = tuple(replaced.get(s, s) for s in present)
        if not replaced or len(set(new)) < len(new) or new in seen:
            continue
        seen.add(new)
        yield replace(parent, replaced)
    if not seen:
        raise StructureError(
            f"no element of {name} has a neighbour that may come in; "
            "allow more elements, or a larger distance"
        )


def replace(atoms: Atoms, replaced: Mapping[str, str]) -> Atoms:
    """A layer with some elements replaced by others, in standard form.

    The plane and the heights are stretched so that bonds change as the sums of covalent radii do,
    as well as two factors can; the reference is the length that a bond had. Raises StructureError
    for what is no layer.
    """
    layer = standard(atoms)
    name = material_of(layer)
    symbols = [replaced.get(s, s) for s in layer.symbols]
    in_plane, height = np.exp(_stretch(layer, symbols))
    cell = layer.cell.array.copy()
    cell[:2] *= in_plane
    positions = layer.positions * [in_plane, in_plane, height]
    made = Atoms(symbols, positions, cell=cell, pbc=(True, True, False))
    formula = reduced_formula(made)
    made.info = {
        **described(layer.info),
        "material": f"{formula}-{layer.info.get('prototype') or name}",
        "mode": "substituted",
        "parent": name,
    }
    return standard(made)


def _stretch(layer: Atoms, symbols: list[str]) -> NDArray[np.floating]:
    """(2,) logarithms of the factors on plane and heights, by least squares over the bonds.

    A bond at an angle θ to the plane grows by cos²θ of the one and sin²θ of the other. Where bonds
    leave a combination open, as in a flat layer, both are as alike as may be.
    """
    contacts = Contacts(layer, layer.pbc)
    nearest = np.full(len(layer), np.inf)
    np.minimum.at(nearest, contacts.i, contacts.ratio)
    farther = np.maximum(nearest[contacts.i], nearest[contacts.j])
    bonded = contacts.ratio <= _SHELL * farther
    i, j = contacts.i[bonded], contacts.j[bonded]
    if not len(i):
        return np.zeros(2)
    old = np.array([covalent_radius(s) for s in layer.symbols])
    new = np.array([covalent_radius(s) for s in symbols])
    growth = np.log((new[i] + new[j]) / (old[i] + old[j]))
    rise = layer.positions[j, 2] - layer.positions[i, 2]
    steepness = (rise / contacts.distance[bonded]) ** 2
    mean = growth.mean()
    parts = np.column_stack([1 - steepness, steepness])
    solution: NDArray[np.floating] = np.linalg.lstsq(parts, growth - mean, rcond=1e-3)[0]
    return mean + np.clip(solution, -_MOST, _MOST)


def _draw(
    present: list[str],
    rng: np.random.Generator,
    share: float,
    any_share: float,
    within: float,
    elements: frozenset[str],
) -> dict[str, str]:
    """A new element for some of those present; fewer where nothing may come in for one."""
    chosen = [s for s in present if rng.random() < share]
    if not chosen:
        chosen = [present[rng.integers(len(present))]]
    anything = chosen[rng.integers(len(chosen))] if rng.random() < any_share else None
    replaced = {}
    for symbol in chosen:
        if symbol == anything:
            candidates = [s for s in ELEMENTS if s in elements and s != symbol]
            weights = np.ones(len(candidates))
        else:
            candidates = [s for s in _kin(symbol, within) if s in elements]
            weights = np.exp([-chemical_distance(symbol, s) for s in candidates])
        if candidates:
            replaced[symbol] = candidates[rng.choice(len(candidates), p=weights / weights.sum())]
    return replaced


def _kin(symbol: str, within: float) -> list[str]:
    """Chemical neighbours, those with an oxidation state in common where there are any."""
    near = neighbours(symbol, within) if symbol in ELEMENTS else ()
    states = set(oxidation_states(symbol))
    alike = [s for s in near if states & set(oxidation_states(s))]
    return alike or list(near)
