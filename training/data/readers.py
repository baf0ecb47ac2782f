"""From files with calculations to checked records: one structure, its labels, its material."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.atoms import to_graph, to_labels
from mlff2d.cif import refuse_disorder
from mlff2d.errors import StructureError, nearest
from mlff2d.graph import Labels
from mlff2d.reading import iter_structures

OVERLAP_CUTOFF = 2.0
"""Å. The model's edges are found when training starts; here they only have to show overlaps. A
neighbour search is slower with a smaller cutoff, as it makes more bins."""


@dataclass(frozen=True)
class Keys:
    """What is read from the `atoms.info` of a structure beside its labels.

    Attributes
    ----------
    material : what the split keeps together; without it the reduced formula
    state : numbers that the model takes in as the graph's state
    target : the property to learn, which then stands in place of all labels; None for a potential
    """

    material: str = "material"
    state: tuple[str, ...] = ()
    target: str | None = None


@dataclass(frozen=True)
class Record:
    """One labelled structure in canonical form: a slab is in one piece, pbc off along its vacuum.

    Attributes
    ----------
    frame : index in its file, from 0; in a folder of CIF files the row of its table, from 1
    material : what the split keeps together
    z : (N,) uint8 atomic numbers
    pos, cell, pbc : (N, 3) and (3, 3) in Å, (3,)
    energy : eV; NaN where absent, as in `forces` and `virial`
    forces : (N, 3) eV/Å
    virial : (3, 3) dE/dstrain in eV, tension positive
    state : (K,) what is imposed on the structure, for models that take it in
    target : the property to learn; NaN for a potential
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
    state: NDArray[np.float64]
    target: float


@dataclass(frozen=True)
class Rejected:
    """What cannot be used: where it is in its source, the kind of fault, and the fault."""

    where: str
    kind: str
    reason: str


def iter_records(path: Path, keys: Keys) -> Iterator[Record | Rejected]:
    """Every frame of a file in order, as a record or with the reason why it is none.

    Raises StructureError for a file that is missing, empty or of no known format.
    """
    for frame, atoms in iter_structures(path):
        where = f"frame {frame}"
        if isinstance(atoms, StructureError):
            # Its sentence begins with file and frame, which the summary names anyway.
            yield Rejected(where, "cannot be read", str(atoms).partition(": ")[2])
            continue
        if keys.target is None:
            kind, fault = "no usable labels", label_fault(atoms)
        else:
            kind, fault = "no usable target", target_fault(atoms, keys.target)
        yield Rejected(where, kind, fault) if fault else checked_record(frame, where, atoms, keys)


def checked_record(frame: int, where: str, atoms: Atoms, keys: Keys) -> Record | Rejected:
    """The record of a structure whose labels are fine, or the reason why it is none."""
    try:
        return to_record(frame, atoms, keys)
    except StructureError as error:
        return Rejected(where, "no usable structure", str(error))


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


def target_fault(atoms: Atoms, key: str) -> str | None:
    """Why a structure has no property of this name, or None: it is there and a finite number."""
    value = _target(atoms, key)
    if value is None:
        return f"info has no {key!r}.{nearest(key, map(str, atoms.info))}"
    return None if np.isfinite(_number(value)) else f"its {key} is {value!r}, not a finite number"


def _target(atoms: Atoms, key: str) -> object:
    """An entry of info, or of the results, where ASE's readers put energies and moments."""
    if key in atoms.info:
        return atoms.info[key]
    return None if atoms.calc is None else atoms.calc.results.get(key)


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan


def to_record(frame: int, atoms: Atoms, keys: Keys) -> Record:
    """One structure in canonical form with the labels it carries, or with its property alone.

    Raises StructureError for what `mlff2d.atoms.check` refuses, for atoms on top of each other, a
    state that is missing, and sites that a CIF file says are partly occupied.
    """
    refuse_disorder(atoms)
    graph = to_graph(atoms, OVERLAP_CUTOFF, keys.state)
    labels = to_labels(atoms) if keys.target is None else _no_labels(len(atoms))
    return Record(
        frame=frame,
        material=material_of(atoms, keys.material),
        z=atoms.numbers.astype(np.uint8),
        pos=graph.pos.numpy(),
        cell=graph.cell[0].numpy(),
        pbc=graph.pbc[0].numpy(),
        energy=float(labels.energy[0]),
        forces=labels.forces.numpy(),
        virial=labels.virial[0].numpy(),
        state=graph.state[0].numpy(),
        target=np.nan if keys.target is None else _number(_target(atoms, keys.target)),
    )


def _no_labels(n_atoms: int) -> Labels:
    absent = torch.full((1, 3, 3), torch.nan, dtype=torch.float64)
    return Labels(absent[:, 0, 0], absent[0, :1].expand(n_atoms, 3), absent)


def material_of(atoms: Atoms, key: str) -> str:
    """The entry `key` of `atoms.info`, or the reduced formula where there is none."""
    if key in atoms.info:
        return str(atoms.info[key])
    return atoms.symbols.formula.reduce()[0].format("hill")
