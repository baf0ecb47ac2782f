"""What is written of one structure: its row of the table and its frame."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, fields
from io import StringIO

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.io import read, write

from mlff2d.errors import StructureError
from mlff2d.sources import Found

from ..relaxation.result import FAILED, RelaxResult


@dataclass(frozen=True)
class Row:
    """One line of the table: text as it is written, empty where there is nothing to say.

    Attributes
    ----------
    index : place of the structure in the whole input, from 0
    source, frame : the file it is from, and its place in that, from 0
    formula : chemical formula
    status, reason, steps : see `RelaxResult`; "failed" where no relaxation could begin
    energy_per_atom : eV/atom
    fmax : eV/Å
    stress_xx, stress_yy, stress_xy, smax : in-plane stress in N/m, tension positive, and the
        largest absolute principal value of what had to vanish of it
    area_before, area_after : Å²/atom
    thickness : Å
    layer_group_before, layer_group_after : number of the layer group
    lattice_before, lattice_after, lattice_changed : lattice type of the layer group
    """

    index: str
    source: str
    frame: str
    formula: str = ""
    status: str = FAILED
    reason: str = ""
    steps: str = ""
    energy_per_atom: str = ""
    fmax: str = ""
    stress_xx: str = ""
    stress_yy: str = ""
    stress_xy: str = ""
    smax: str = ""
    area_before: str = ""
    area_after: str = ""
    thickness: str = ""
    layer_group_before: str = ""
    layer_group_after: str = ""
    lattice_before: str = ""
    lattice_after: str = ""
    lattice_changed: str = ""


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Record:
    """A finished structure as the journal keeps it and the outputs are made from.

    Attributes
    ----------
    row : its line of the table
    frame : the relaxed structure as extended XYZ, "" where there is none
    """

    row: Row
    frame: str

    @property
    def index(self) -> int:
        """Place of the structure in the whole input."""
        return int(self.row.index)

    def as_json(self) -> str:
        """One line of text, from which `from_json` makes the same record."""
        return json.dumps({"row": asdict(self.row), "frame": self.frame})

    @staticmethod
    def from_json(text: str | bytes) -> Record:
        """Raises ValueError, KeyError or TypeError for anything that `as_json` did not write."""
        content = json.loads(text)
        return Record(Row(**content["row"]), content["frame"])


def failed(found: Found, error: Exception) -> Record:
    """The record of a structure whose relaxation could not begin."""
    formula = ""
    reason = str(error)  # of a frame that cannot be read it names file and frame itself
    if isinstance(found.structure, Atoms):
        formula = found.structure.get_chemical_formula(mode="metal")
        what = reason if isinstance(error, StructureError) else f"{type(error).__name__}: {reason}"
        named = f" ({formula})" if formula else ""
        reason = f"{found.source}, frame {found.frame}{named}: {what}"
    return Record(Row(*_place(found), formula, reason=" ".join(reason.split())), "")


def relaxed(found: Found, result: RelaxResult) -> Record:
    """The record of a structure that was relaxed, however that ended."""
    xx, yy, xy = result.stress_2d
    lattices = (result.lattice_before, result.lattice_after)
    index, source, frame = _place(found)
    row = Row(
        index=index,
        source=source,
        frame=frame,
        formula=result.atoms.get_chemical_formula(mode="metal"),
        status=result.status,
        reason=result.reason,
        steps=str(result.steps),
        energy_per_atom=_number(result.energy / len(result.atoms), 8),
        fmax=_number(result.fmax),
        stress_xx=_number(xx),
        stress_yy=_number(yy),
        stress_xy=_number(xy),
        smax=_number(result.smax),
        area_before=_number(result.area_before),
        area_after=_number(result.area_after),
        thickness=_number(result.thickness),
        layer_group_before=str(result.layer_group_before or ""),
        layer_group_after=str(result.layer_group_after or ""),
        lattice_before=lattices[0],
        lattice_after=lattices[1],
        lattice_changed=str(lattices[0] != lattices[1]) if all(lattices) else "",
    )
    return Record(row, _frame(_annotated(found.index, result)))


def _place(found: Found) -> tuple[str, str, str]:
    return str(found.index), found.source, str(found.frame)


def _number(value: float, digits: int = 6) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else ""


def _annotated(index: int, result: RelaxResult) -> Atoms:
    """The relaxed structure with what the table says of it, its old info kept.

    Results of another calculation, or of an earlier relaxation, that the input carried along would
    no longer belong to it. Extended XYZ cannot hold line breaks or empty text.
    """
    atoms = result.atoms
    for name, value in list(atoms.info.items()):
        if str(name).startswith("relax_") or (isinstance(value, str) and not value):
            del atoms.info[name]
        elif isinstance(value, str):
            atoms.info[name] = " ".join(value.split())
    for name in all_properties:
        atoms.info.pop(name, None)
        atoms.arrays.pop(name, None)
    atoms.info.update(
        relax_index=index,
        relax_status=result.status,
        relax_steps=result.steps,
        relax_fmax=result.fmax,
    )
    if np.isfinite(result.stress_2d).all():
        atoms.info["relax_stress_2d"] = result.stress_2d
    if result.symmetrized:
        atoms.info["relax_symmetrized"] = result.symmetrized
    if result.reason:
        atoms.info["relax_reason"] = result.reason
    return atoms


def _frame(atoms: Atoms) -> str:
    """Extended XYZ that can be read; where entries of the input prevent that, without them."""
    try:
        text = _extxyz(atoms)
        again = read(StringIO(text), format="extxyz")
        if isinstance(again, Atoms) and _is_as_written(again, atoms):
            return text
    except Exception:  # whatever ASE trips over in what a user's file carried along
        pass
    bare = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.calc = atoms.calc
    bare.info = {k: v for k, v in atoms.info.items() if str(k).startswith("relax_")}
    bare.info["relax_note"] = "other entries were left out; extended XYZ cannot hold one of them"
    return _extxyz(bare)


def _is_as_written(read: Atoms, written: Atoms) -> bool:
    """Whether no entry has shifted what stands behind it."""
    return (
        np.array_equal(read.numbers, written.numbers)
        and np.allclose(read.positions, written.positions)
        and np.allclose(read.get_forces(), written.get_forces())
        and read.info.get("relax_status") == written.info["relax_status"]
    )


def _extxyz(atoms: Atoms) -> str:
    text = StringIO()
    with warnings.catch_warnings():  # of single entries that are left out
        warnings.simplefilter("ignore")
        write(text, atoms, format="extxyz")
    return text.getvalue()
