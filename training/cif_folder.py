"""Folders of CIF files with an `id_prop.csv`, as CGCNN reads them: a row `id,value` a file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlff2d.cif import read_cif
from mlff2d.errors import StructureError, nearest

from .readers import Keys, Record, Rejected, checked_record

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


def read_table(folder: Path, key: str) -> Table:
    """The table of a folder and the column of a property in it.

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
        raise StructureError(f"{path}: the table cannot be read ({error})") from error
    rows = [(number, cells) for number, cells in enumerate(lines, 1) if any(cells)]
    if not rows:
        raise StructureError(f"{path}: the table is empty")
    first = rows[0][1]
    is_header = (
        len(first) > 1
        and not any(_is_number(cell) for cell in first[1:])
        and not (folder / f"{first[0]}.cif").is_file()
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

    A record's material is its id. Raises StructureError as `read_table` does.
    """
    assert keys.target is not None
    table = read_table(folder, keys.target)
    seen: set[str] = set()
    for number, cells in table.rows:
        identifier = cells[0]
        where = f"line {number} ({identifier})"
        value = cells[table.column] if len(cells) > table.column else ""
        path = folder / f"{identifier}.cif"
        if identifier in seen:
            yield Rejected(where, "id given twice", "an id counts once, with its first line")
            continue
        seen.add(identifier)
        if not _is_number(value):
            fault = f"its {keys.target} is {value!r}, not a finite number"
            yield Rejected(where, "no usable target", fault)
        elif not path.is_file():
            yield Rejected(where, "no CIF file", f"there is no {path.name}")
        else:
            yield _record(number, where, path, float(value), keys)
    for path in sorted(folder.glob("*.cif")):
        if path.stem not in seen:
            yield Rejected(path.name, "no row in the table", f"{TABLE} has no id {path.stem}")
    if table.note:
        yield table.note


def _record(number: int, where: str, path: Path, value: float, keys: Keys) -> Record | Rejected:
    try:
        atoms = read_cif(path)
    except StructureError as error:
        return Rejected(where, "cannot be read", str(error))
    assert keys.target is not None
    atoms.info |= {keys.material: path.stem, keys.target: value}
    return checked_record(number, where, atoms, keys)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
