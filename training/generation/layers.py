"""The form in which every structure is written: one flat layer, centred in its vacuum."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from math import gcd
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import wrap_positions

from mlff2d import slab
from mlff2d.atoms import canonical_slab
from mlff2d.errors import StructureError
from mlff2d.symmetry import reduced

MIN_HEIGHT = 15.0
"""Å. No cell is lower."""

VACUUM = 10.0
"""Å. Every cell is at least this much higher than its layer is thick."""

DESCRIBES = ("system", "phase", "prototype", "config", "nfu", "x", "degeneracy")
"""Entries of `info` that stay true of a structure whose atoms are moved; so do those of `x_`."""


def standard(atoms: Atoms, height: float = 0.0, keep_cell: bool = False) -> Atoms:
    """A layer in the form agreed: a along x, the normal along z, centred, pbc (T, T, F).

    The two in-plane lattice vectors are the shortest ones, a the shorter, and 120° apart rather
    than 60° where both would do; with `keep_cell` they stay those given, as in frames about a
    structure. The side that looked along the third vector looks along z. The cell is `height` Å
    high, and higher where `MIN_HEIGHT` or `VACUUM` asks for it. `info` is kept, labels and
    constraints are not. Raises StructureError for what is no layer.
    """
    canonical = canonical_slab(atoms)
    if canonical.axis is None:
        raise StructureError(
            f"it is no layer (pbc {atoms.pbc.tolist()}); give a structure that is periodic along "
            "two vectors, or along three with a vacuum along one"
        )
    cell = atoms.cell.array
    normal = slab.normal(cell, canonical.pbc)
    if cell[canonical.axis] @ normal < 0:
        normal = -normal
    rows = cell[canonical.pbc]
    first, second = rows if keep_cell else _plane(rows, normal)
    x = first / np.linalg.norm(first)
    frame = np.array([x, np.cross(normal, x), normal])
    pos = canonical.pos @ frame.T
    heights = pos[:, 2] - (pos[:, 2].min() + pos[:, 2].max()) / 2
    tall = max(height, MIN_HEIGHT, float(np.ptp(heights)) + VACUUM)
    flat = np.zeros((3, 3))
    flat[:2, :2] = (np.array([first, second]) @ frame.T)[:, :2]
    flat[0, 1] = 0.0
    flat[2, 2] = tall
    pos[:, 2] = heights + tall / 2
    pos = wrap_positions(pos, flat, pbc=(True, True, False), eps=1e-6)
    layer = Atoms(atoms.numbers, pos, cell=flat, pbc=(True, True, False))
    layer.info = dict(atoms.info)
    return layer


def _plane(rows: slab.Array, normal: slab.Array) -> tuple[slab.Array, slab.Array]:
    """The shortest two vectors of the lattice, right-handed about the normal."""
    a, b = rows
    if not _is_reduced(a, b):  # so that what is in this form already stays as it is
        a, b = reduced(a, b)
    if np.cross(a, b) @ normal < 0:
        b = -b
    if abs(a @ b - a @ a / 2) < 1e-6 * (a @ a):  # b - a is as long, and 120° from a where b is 60°
        b = b - a
    return a, b


def _is_reduced(a: slab.Array, b: slab.Array) -> bool:
    tolerance = 1e-6 * (a @ a)
    return bool(b @ b >= a @ a - tolerance and abs(a @ b) <= a @ a / 2 + tolerance)


def described(info: Mapping[str, Any]) -> dict[str, Any]:
    """What of a structure's `info` is true of a structure with the same atoms elsewhere.

    Labels and their settings are not, so only names known to be are taken.
    """
    return {k: v for k, v in info.items() if k in DESCRIBES or str(k).startswith("x_")}


def info_of_parent(atoms: Atoms, supercell: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """The `info` of frames about a structure: what describes it, material and parent."""
    material = material_of(atoms)
    info = described(atoms.info) | {"material": material}
    info["parent"] = str(atoms.info.get("config") or material)
    if "nfu" in info:
        info["nfu"] = int(info["nfu"]) * supercell[0] * supercell[1]
    return info


def reduced_formula(atoms: Atoms) -> str:
    """The formula of the least number of atoms with the same composition, metals first."""
    counts = atoms.symbols.formula.count()
    divisor = reduce(gcd, counts.values(), 0) or 1
    least = Atoms([s for s, n in counts.items() for _ in range(n // divisor)])
    return str(least.symbols.formula.format("metal"))


def material_of(atoms: Atoms) -> str:
    """The name that a split keeps together: `info["material"]`, else the reduced formula."""
    return str(atoms.info.get("material") or reduced_formula(atoms))
