"""Relaxation of all structures of a file, one after another, each with a row whatever happens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, all_properties

from mlff2d.errors import StructureError
from mlff2d.reading import iter_structures

from ..relaxation.relax import FAILED, FMAX, SMAX, STEPS, RelaxResult, relax
from .output import OutputFiles, check_output


@dataclass(frozen=True)
class RelaxSettings:
    """What `relax` is told: eV/Å, N/m, number of steps, and whether the cell stays as it is."""

    fmax: float = FMAX
    smax: float = SMAX
    steps: int = STEPS
    fix_cell: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table: text as it is written, empty where there is nothing to say.

    Attributes
    ----------
    index : place of the structure in the file, from 0
    formula : chemical formula
    status, reason, steps : see `RelaxResult`; "failed" where no relaxation could begin
    energy_per_atom : eV/atom
    fmax : eV/Å
    stress_xx, stress_yy, stress_xy, smax : in-plane stress in N/m, tension positive, and its
        largest absolute principal value
    area_before, area_after : Å²/atom
    thickness : Å
    lattice_before, lattice_after, lattice_changed : lattice type of the layer group
    """

    index: int
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
    lattice_before: str = ""
    lattice_after: str = ""
    lattice_changed: str = ""


COLUMNS = tuple(field.name for field in fields(Row))


def relax_file(
    source: Path,
    frames: Path,
    calculator: BaseCalculator,
    settings: RelaxSettings,
    *,
    model: str,
    restart: bool = False,
    progress: Callable[[Row | None, int, int], None] = lambda row, done, total: None,
) -> list[dict[str, str]]:
    """Relax every structure of a file and write what came out; an interrupted run goes on.

    Parameters
    ----------
    source : any file that ASE reads
    frames : the extended XYZ file to write; see `OutputFiles` for what lies beside it
    calculator : used on every structure in turn
    model : whatever identifies what the calculator computes; a run goes on with the same only
    restart : begin anew instead of going on
    progress : called with the row just written (None at the beginning), the number of rows, and the
        number of structures

    Returns
    -------
    The rows of the whole table by column, see `Row`; frames hold all but the failed structures.

    Raises
    ------
    StructureError where nothing in the file can be read; as `OutputFiles` does.
    """
    check_output(frames)
    total = _count(source)
    for path in (frames, frames.with_suffix(".csv")):
        if path.exists() and path.samefile(source):
            raise ValueError(f"the output {path} is the input; give another name with -o")
    identity = {
        "input_sha256": _hash_file(source),
        "model": model,
        **asdict(settings),
    }
    with OutputFiles(frames, COLUMNS, identity, restart) as output:
        if output.n_done > total:
            raise ValueError(f"{output.table_path} has more rows than {source} has structures")
        done = output.n_done
        progress(None, done, total)
        for index, structure in iter_structures(source):
            if index < done:
                continue
            row, relaxed = _relax_one(index, structure, source, calculator, settings)
            output.add(relaxed, list(asdict(row).values()))
            progress(row, output.n_done, total)
        return output.rows()


def _count(source: Path) -> int:
    """The number of structures. Raises the first one's StructureError where none can be read."""
    total, readable, error = 0, 0, None
    for _, structure in iter_structures(source):
        total += 1
        if isinstance(structure, Atoms):
            readable += 1
        elif error is None:
            error = structure
    if error is not None and not readable:
        raise error
    return total


def _relax_one(
    index: int,
    structure: Atoms | StructureError,
    source: Path,
    calculator: BaseCalculator,
    settings: RelaxSettings,
) -> tuple[Row, Atoms | None]:
    if isinstance(structure, StructureError):
        return Row(index, reason=str(structure)), None
    formula = structure.get_chemical_formula(mode="metal")
    where = f"{source}, frame {index} ({formula}): "
    try:
        result = relax(structure, calculator, **asdict(settings))
    except StructureError as error:
        return Row(index, formula, reason=where + str(error)), None
    except Exception as error:  # the other structures must not suffer from what nobody foresaw
        reason = " ".join(f"{where}{type(error).__name__}: {error}".split())
        return Row(index, formula, reason=reason), None
    return _row(index, formula, result), _annotated(index, result)


def _row(index: int, formula: str, result: RelaxResult) -> Row:
    xx, yy, xy = result.stress_2d
    lattices = (result.lattice_before, result.lattice_after)
    return Row(
        index=index,
        formula=formula,
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
        lattice_before=lattices[0],
        lattice_after=lattices[1],
        lattice_changed=str(lattices[0] != lattices[1]) if all(lattices) else "",
    )


def _number(value: float, digits: int = 6) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else ""


def _annotated(index: int, result: RelaxResult) -> Atoms:
    """The relaxed structure with what the table says of it, its old info kept.

    Results of another calculation, or of an earlier relaxation, that the input carried along would
    no longer belong to it. Extended XYZ cannot hold line breaks or empty text.
    """
    atoms = result.atoms
    for name, value in list(atoms.info.items()):
        if name.startswith("relax_") or value == "":
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
    if result.reason:
        atoms.info["relax_reason"] = result.reason
    return atoms


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
