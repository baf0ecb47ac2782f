"""Folders of CIF files with an `id_prop.csv`, as CGCNN reads them: a row `id,value` a file."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlff2d.cif import read_cif
from mlff2d.errors import StructureError, nearest

from .record import Keys, Record, Rejected, checked_record

TABLE = "id_prop.csv"


@dataclass(frozen=True)
class Table:
    """The rows of an `id_prop.csv`.

    Attributes
    ----------
    rows : number of the line in the file (from 1) and its cells
    column : of the property; the id is column 0
    note : what a reader of the table should know, or None
    """

    rows: list[tuple[int, list[str]]]
    column: int
    note: str | None


def cif_files(folder: Path) -> dict[str, Path]:
    """The CIF files of a folder and the folders in it, by id: name (with folder) without .cif."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".cif")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def _without_suffix(identifier: str) -> str:
    return identifier[:-4] if identifier.lower().endswith(".cif") else identifier


def _refuse_other_separator(path: Path, rows: list[tuple[int, list[str]]]) -> None:
    """Spreadsheets where the comma is the decimal point, for example, write semicolons."""
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if all(separator in cells[0] for _, cells in rows):
            raise StructureError(
                f"{path}: the cells are separated by {name}; write rows `id,value` with a comma "
                "between them and a point in the numbers"
            )


def read_table(folder: Path, key: str, files: Collection[str]) -> Table:
    """The table of a folder, whose CIF files have these ids, and the column of a property in it.

    A first line whose values are no numbers, and whose id has no file, is a header and names the
    columns. Raises StructureError where there is no table, or no such column in it.
    """
    path = folder / TABLE
    if not path.is_file():
        raise StructureError(
            f"{folder}: the folder has no {TABLE}; write one with a row `id,value` for each id.cif"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise StructureError(
            f"{path}: the table cannot be read ({error}); save it as comma-separated UTF-8 text"
        ) from error
    rows = [(number, cells) for number, cells in enumerate(lines, 1) if any(cells)]
    if not rows:
        raise StructureError(f"{path}: the table is empty")
    _refuse_other_separator(path, rows)
    first = rows[0][1]
    is_header = (
        len(first) > 1
        and not any(_is_number(cell) for cell in first[1:])
        and _without_suffix(first[0]) not in files
    )
    names = first[1:] if is_header else []
    n_columns = max(len(cells) for _, cells in rows) - 1
    if key in names:
        return Table(rows[1:], names.index(key) + 1, None)
    if key.isdecimal() and 1 <= int(key) <= n_columns:
        return Table(rows[is_header:], int(key), None)
    if is_header:
        raise StructureError(f"{path}: there is no column {key!r}.{nearest(key, names)}")
    if key.isdecimal():
        raise StructureError(f"{path}: there is no column {key}; it has {n_columns} behind the id")
    note = None
    if n_columns > 1:
        note = (
            f"{path.name} has {n_columns} columns behind the id and no header line: {key} was "
            "taken from the first and the others were not read; property.key: 2 takes the second"
        )
    return Table(rows, 1, note)


def iter_cif_folder(folder: Path, keys: Keys) -> Iterator[Record | Rejected | str]:
    """Every row of the table in order and every CIF file without one; last what to note, if any.

    An id may be written with its .cif. A record's material is its id. Raises StructureError as
    `read_table` does, and where a model wants a state.
    """
    assert keys.target is not None
    if keys.state:
        raise StructureError(
            f"{folder}: the model takes {', '.join(keys.state)} from atoms.info, which CIF files "
            "do not have; write the structures as extended XYZ with it and the property in info"
        )
    files = cif_files(folder)
    table = read_table(folder, keys.target, files)
    seen: set[str] = set()
    for number, cells in table.rows:
        identifier = _without_suffix(cells[0])
        where = f"line {number} ({identifier})"
        value = cells[table.column] if len(cells) > table.column else ""
        if identifier in seen:
            yield Rejected(where, "id given twice", "an id counts once, with its first line")
            continue
        seen.add(identifier)
        if not _is_number(value):
            fault = f"its {keys.target} is {value!r}, not a finite number"
            yield Rejected(where, "no usable target", fault)
        elif identifier not in files:
            yield Rejected(where, "no CIF file", f"there is no {identifier}.cif")
        else:
            yield _record(number, identifier, files[identifier], float(value), keys)
    for identifier, path in files.items():
        if identifier not in seen:
            yield Rejected(path.name, "no row in the table", f"{TABLE} has no id {identifier}")
    if table.note:
        yield table.note


def _record(
    number: int, identifier: str, path: Path, value: float, keys: Keys
) -> Record | Rejected:
    where = f"line {number} ({identifier})"
    try:
        atoms = read_cif(path)
    except StructureError as error:
        return Rejected(where, "cannot be read", str(error))
    assert keys.target is not None
    atoms.info |= {keys.material: identifier, keys.target: value}
    return checked_record(number, where, atoms, keys)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
