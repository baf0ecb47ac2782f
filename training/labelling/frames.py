"""A labelled frame, as JSON holds it and as Atoms."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from mlff2d.errors import StructureError

Array = NDArray[np.floating]

LABELS = ("level", "settings", "kpts", "cpu_s", "step", "converged", "energy_sigma0", "magmom")
"""Entries of `atoms.info` that a labelling makes, and that are not taken over from its input."""


def pack(
    atoms: Atoms, energy: float, forces: Array, stress: Array | None, info: dict[str, Any]
) -> dict[str, Any]:
    """A frame of a geometry, energy in eV, forces (N, 3) in eV/Å, stress (3, 3) in eV/Å³.

    Raises StructureError where a label is NaN or infinite, or has another shape.
    """
    if np.shape(forces) != (len(atoms), 3):
        raise StructureError(
            f"the calculator returned forces of the shape {np.shape(forces)} for {len(atoms)} atoms"
        )
    numbers = [value for value in info.values() if isinstance(value, float)]
    labels = [np.ravel(x) for x in (energy, forces, stress, numbers) if x is not None]
    if not np.isfinite(np.concatenate(labels)).all():
        raise StructureError("the calculator returned NaN or infinity")
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "energy": float(energy),
        "forces": np.asarray(forces, dtype=float).tolist(),
        "stress": None if stress is None else np.asarray(stress, dtype=float).tolist(),
        "info": info,
    }


def unpack(frame: dict[str, Any], origin: Atoms) -> Atoms:
    """The Atoms of a frame with its labels attached; `info` and arrays of its origin are kept."""
    atoms = origin.copy()
    atoms.set_constraint()
    for name in ("forces", "stress", "energies", "magmoms", "charges"):
        atoms.arrays.pop(name, None)  # labels of another level
    atoms.numbers = frame["numbers"]
    atoms.positions = frame["positions"]
    atoms.set_cell(frame["cell"])
    atoms.pbc = frame["pbc"]
    atoms.info = {k: v for k, v in origin.info.items() if k not in LABELS} | frame["info"]
    results: dict[str, Any] = {"energy": frame["energy"], "forces": np.array(frame["forces"])}
    if frame["stress"] is not None:
        results["stress"] = np.array(frame["stress"])
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
