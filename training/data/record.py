"""A labelled structure in canonical form, and what makes a structure unfit to be one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.atoms import to_graph, to_labels
from mlff2d.cif import refuse_disorder
from mlff2d.errors import StructureError, nearest
from mlff2d.graph import Labels
from mlff2d.symmetry import layer_group
from mlff2d.units import EV_PER_ANGSTROM3_IN_GPA

OVERLAP_CUTOFF = 2.0
"""Å. The model's edges are found when training starts; here they only have to show overlaps. A
neighbour search is slower with a smaller cutoff, as it makes more bins."""

VASP_STRESS = -0.1 / EV_PER_ANGSTROM3_IN_GPA
"""eV/Å³, tension positive, of 1 kbar as VASP writes it, compression positive."""

SYMPREC = 0.1
"""Å. Frames of a relaxation and rattled ones keep the group of their material where they can."""


@dataclass(frozen=True)
class Keys:
    """What is read from the `atoms.info` of a structure beside its labels.

    Attributes
    ----------
    material : what the split keeps together; without it the reduced formula
    state : numbers that the model takes in as the graph's state
    target : the property to learn, which then stands in place of all labels; None for a potential
    labels : whether a structure without energy, forces and stress is refused
    """

    material: str = "material"
    state: tuple[str, ...] = ()
    target: str | None = None
    labels: bool = True


@dataclass(frozen=True)
class Record:
    """One labelled structure in canonical form: a slab is in one piece, pbc off along its vacuum.

    Attributes
    ----------
    frame : index in its source, from 0; in a folder of CIF files the line of its table, from 1
    material : what the split keeps together
    trajectory : what the steps of one run share, in the order of their frames
    level : the level of theory as the structure's `level` says; "" where it says none
    z : (N,) uint8 atomic numbers
    pos, cell, pbc : (N, 3) and (3, 3) in Å, (3,)
    energy : eV; NaN where absent, as in `forces` and `virial`
    forces : (N, 3) eV/Å
    virial : (3, 3) dE/dstrain in eV, tension positive
    state : (K,) what is imposed on the structure, for models that take it in
    target : the property to learn; NaN for a potential
    layer_group : 1 to 80 by moyopy at `SYMPREC`; 0 where none is found, or it is no slab
    """

    frame: int
    material: str
    trajectory: str
    level: str
    z: NDArray[np.uint8]
    pos: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: float
    forces: NDArray[np.float64]
    virial: NDArray[np.float64]
    state: NDArray[np.float64]
    target: float
    layer_group: int


class Fault(NamedTuple):
    """Why a frame has no structure: the kind of fault, of which there are few, and this one."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Rejected:
    """What cannot be used: where it is in its source, the kind of fault, and the fault."""

    where: str
    kind: str
    reason: str


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
    # An array that is transposed has as many numbers.
    shapes = {
        "forces": [(len(atoms), 3), (3 * len(atoms),)],
        "stress": [(3, 3), (6,), (9,)],
    }
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
        if values.shape not in shapes.get(key, [values.shape]):
            return f"its {key} has the shape {values.shape}, not {shapes[key][0]}"
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
    material = material_of(atoms, keys.material)
    pos, cell, pbc = graph.pos.numpy(), graph.cell[0].numpy(), graph.pbc[0].numpy()
    return Record(
        frame=frame,
        material=material,
        trajectory=str(atoms.info.get("trajectory", material)),
        level=str(atoms.info.get("level", "")),
        z=atoms.numbers.astype(np.uint8),
        pos=pos,
        cell=cell,
        pbc=pbc,
        energy=float(labels.energy[0]),
        forces=labels.forces.numpy(),
        virial=labels.virial[0].numpy(),
        state=graph.state[0].numpy(),
        target=np.nan if keys.target is None else _number(_target(atoms, keys.target)),
        layer_group=layer_group(atoms.numbers, pos, cell, pbc, SYMPREC),
    )


def _no_labels(n_atoms: int) -> Labels:
    absent = torch.full((1, 3, 3), torch.nan, dtype=torch.float64)
    return Labels(absent[:, 0, 0], absent[0, :1].expand(n_atoms, 3), absent)


def material_of(atoms: Atoms, key: str) -> str:
    """The entry `key` of `atoms.info`, or the reduced formula where there is none."""
    if key in atoms.info:
        return str(atoms.info[key])
    return atoms.symbols.formula.reduce()[0].format("hill")
