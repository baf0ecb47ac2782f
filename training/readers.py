"""From files with calculations to checked records: one structure, its labels, its material."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.atoms import to_graph, to_labels
from mlff2d.errors import StructureError
from mlff2d.reading import iter_structures

OVERLAP_CUTOFF = 2.0
"""Å. The model's edges are found when training starts; here they only have to show overlaps. A
neighbour search is slower with a smaller cutoff, as it makes more bins."""


@dataclass(frozen=True)
class Record:
    """One labelled structure in canonical form: a slab is in one piece, pbc off along its vacuum.

    Attributes
    ----------
    frame : index in its file, from 0
    material : what the split keeps together
    z : (N,) uint8 atomic numbers
    pos, cell, pbc : (N, 3) and (3, 3) in Å, (3,)
    energy : eV; NaN where absent, as in `forces` and `virial`
    forces : (N, 3) eV/Å
    virial : (3, 3) dE/dstrain in eV, tension positive
    """

    frame: int
    material: str
    z: NDArray[np.uint8]
    pos: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: float
    forces: NDArray[np.float64]
    virial: NDArray[np.float64]


@dataclass(frozen=True)
class Rejected:
    """A frame that cannot be used: its index in the file, the kind of fault, and the fault."""

    frame: int
    kind: str
    reason: str


def iter_records(path: Path, material_key: str) -> Iterator[Record | Rejected]:
    """Every frame of a file in order, as a record or with the reason why it is none.

    Raises StructureError for a file that is missing, empty or of no known format.
    """
    for frame, atoms in iter_structures(path):
        if isinstance(atoms, StructureError):
            # Its sentence begins with file and frame, which the summary names anyway.
            yield Rejected(frame, "cannot be read", str(atoms).partition(": ")[2])
        elif fault := label_fault(atoms):
            yield Rejected(frame, "no usable labels", fault)
        else:
            try:
                yield to_record(frame, atoms, material_key)
            except StructureError as error:
                yield Rejected(frame, "no usable structure", str(error))


def label_fault(atoms: Atoms) -> str | None:
    """What is wrong with the labels of a structure, or None: one is there, and all are finite."""
    results = {} if atoms.calc is None else atoms.calc.results
    sizes = {"energy": (1,), "free_energy": (1,), "forces": (3 * len(atoms),), "stress": (6, 9)}
    present = [key for key in sizes if results.get(key) is not None]
    if not present:
        return "ASE finds no energy, forces or stress in it; in a file they must have these names"
    for key in present:
        try:
            values = np.asarray(results[key], dtype=float)
        except (TypeError, ValueError):
            return f"its {key} is not a number"
        if values.size not in sizes[key]:
            return f"its {key} has {values.size} numbers for {len(atoms)} atoms"
        if not np.isfinite(values).all():
            return f"its {key} holds NaN or infinity"
    return None


def to_record(frame: int, atoms: Atoms, material_key: str) -> Record:
    """One structure in canonical form with the labels it carries.

    Raises StructureError for what `mlff2d.atoms.check` refuses and for atoms on top of each other.
    """
    graph = to_graph(atoms, cutoff=OVERLAP_CUTOFF)
    labels = to_labels(atoms)
    return Record(
        frame=frame,
        material=material_of(atoms, material_key),
        z=atoms.numbers.astype(np.uint8),
        pos=graph.pos.numpy(),
        cell=graph.cell[0].numpy(),
        pbc=graph.pbc[0].numpy(),
        energy=float(labels.energy[0]),
        forces=labels.forces.numpy(),
        virial=labels.virial[0].numpy(),
    )


def material_of(atoms: Atoms, key: str) -> str:
    """The entry `key` of `atoms.info`, or the reduced formula where there is none."""
    if key in atoms.info:
        return str(atoms.info[key])
    return atoms.symbols.formula.reduce()[0].format("hill")
