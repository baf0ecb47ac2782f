"""Janus layers: atoms of one side replaced, all of them or, in larger cells, a part of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms

from mlff2d.errors import StructureError

from .alloys import Alloy, Sublattice, require_icet
from .layers import reduced_formula, standard

_INSIDE = 0.25  # Å from the middle, within which an atom is on neither side


def swapped(
    parent: Atoms,
    species: Sequence[str],
    element: str | None = None,
    max_sites: int | None = None,
    end_members: Sequence[Atoms] = (),
    phase: str = "",
) -> Iterator[Atoms]:
    """The layer with atoms of its upper side replaced, by one species after another.

    Parameters
    ----------
    parent : a layer, best primitive
    species : what takes their places
    element : which atoms are replaced; by default those of the element farthest up
    max_sites : None to replace all; else also every distinct cell in which a part of up to so many
        sites of the upper side is replaced, by icet
    end_members : layers with all of the element replaced, on both sides: lattice constant and
        thickness follow Vegard's law between the parent and these, else covalent radii
    phase : as in `Alloy`

    `info` is as of an alloy, with mode "janus"; x is the share of what is replaced on both sides.
    Raises StructureError for what is no layer, where there is no such atom on the upper side, and
    for a species that the layer has already; ValueError where icet is needed and missing.
    """
    layer = standard(parent)
    symbols = np.array(list(layer.symbols))
    element = element or str(symbols[layer.positions[:, 2].argmax()])
    upper = _upper(layer, element)
    for new in species:
        if new in symbols:
            raise StructureError(f"{new} is in {reduced_formula(layer)} already; name another")
        alloy = Alloy(parent, [Sublattice(element, (element, new))], _of(new, end_members), phase)
        full = alloy.parent.copy()
        full.symbols[upper] = new
        yield _finished(alloy, full, new, 0, 0)
        for cells in range(1, (max_sites or 0) // len(upper) + 1):
            n = cells * len(upper)
            for number, decorated in enumerate(_mixed(alloy, upper, element, new, cells)):
                yield _finished(alloy, decorated, new, n, number)


def _upper(layer: Atoms, element: str) -> np.ndarray:
    """The atoms of an element above the middle of the layer."""
    heights = layer.positions[:, 2] - layer.cell.array[2, 2] / 2
    symbols = np.array(list(layer.symbols))
    upper = np.flatnonzero((symbols == element) & (heights > _INSIDE))
    if not len(upper):
        raise StructureError(
            f"{reduced_formula(layer)} has no {element} on its upper side; name an element that "
            f"it has there: {', '.join(sorted(set(symbols[heights > _INSIDE]))) or 'none'}"
        )
    return upper


def _of(species: str, end_members: Sequence[Atoms]) -> list[Atoms]:
    return [end for end in end_members if species in end.symbols]


def _mixed(alloy: Alloy, upper: np.ndarray, element: str, new: str, cells: int) -> Iterator[Atoms]:
    """Distinct cells with both elements on the upper side."""
    require_icet()
    from icet.tools import enumerate_structures

    marked = alloy.parent.copy()
    marked.symbols[upper] = new  # so that no symmetry takes the upper side for the lower one
    choices = [[symbol] for symbol in marked.symbols]
    for i in upper:
        choices[i] = [element, new]
    for decorated in enumerate_structures(marked, [cells], choices):
        n_new = list(decorated.symbols).count(new)
        if 0 < n_new < cells * len(upper):
            yield decorated


def _finished(alloy: Alloy, decorated: Atoms, new: str, n: int, number: int) -> Atoms:
    made = alloy.finished(decorated, f"j{n}", number)
    full = alloy.parent.copy()
    full.symbols[_upper(full, alloy.sublattices[0].element)] = new
    system = reduced_formula(full)
    config = "-".join(filter(None, [system, alloy.phase, f"j{n}-{number:03d}" if n else ""]))
    made.info |= {"mode": "janus", "system": system, "config": config, "material": config}
    return made
