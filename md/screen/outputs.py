"""The files that a screen ends in: structures and table, written from the records of its journals.

A writer is a context manager whose `add` takes one record after another; it writes to whatever
path it is given. The same records make the same bytes, but for the times in an ASE database.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from abc import ABC, abstractmethod
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.db.core import check, now
from ase.db.row import AtomsRow

from .row import COLUMNS, Record

STRUCTURES = (".extxyz", ".xyz", ".db")
"""Endings of the files of structures; extended XYZ or a database of ASE."""

TABLES = (".csv", ".parquet")
"""Endings of tables."""

_INTEGERS = ("index", "frame", "steps", "layer_group_before", "layer_group_after")
_TRUTHS = ("lattice_changed",)
_TEXTS = ("source", "formula", "status", "reason", "lattice_before", "lattice_after")

_ROW_GROUP = 10_000  # rows of a Parquet file that are in memory at a time


def typed(column: str, text: str) -> int | float | bool | str | None:
    """What a cell of the table says as what it is; None where it is empty and no text."""
    if column in _TEXTS:
        return text
    if not text:
        return None
    if column in _TRUTHS:
        return text == "True"
    return int(text) if column in _INTEGERS else float(text)


class Writer(ABC):
    """A file that grows by a record at a time, complete when the context ends."""

    @abstractmethod
    def add(self, record: Record) -> None:
        """Write what the file holds of a record."""

    @abstractmethod
    def close(self) -> None:
        """Complete the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_writer(path: Path, suffix: str) -> Writer:
    """A writer to a new file of the kind that a suffix of `STRUCTURES` or `TABLES` names.

    Raises ValueError for another suffix, and where a package for it is missing.
    """
    if suffix in (".extxyz", ".xyz"):
        return _ExtxyzWriter(path)
    if suffix == ".db":
        return _DatabaseWriter(path)
    if suffix == ".csv":
        return _CsvWriter(path)
    if suffix == ".parquet":
        return _ParquetWriter(path)
    raise ValueError(f"{suffix!r} is no kind of output; valid: {', '.join((*STRUCTURES, *TABLES))}")


def require_parquet() -> None:
    """Raise ValueError where the package that writes Parquet is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "a Parquet table needs the package pyarrow: pip install 'mlff2d[parquet]', "
            "or write a CSV table"
        ) from error


class _ExtxyzWriter(Writer):
    """The frames as they are; what has none is left out."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")

    def add(self, record: Record) -> None:
        self._file.write(record.frame)

    def close(self) -> None:
        self._file.close()


class _CsvWriter(Writer):
    """A line for every record, below a header."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._table = csv.writer(self._file, lineterminator="\n")
        self._table.writerow(COLUMNS)

    def add(self, record: Record) -> None:
        self._table.writerow([getattr(record.row, column) for column in COLUMNS])

    def close(self) -> None:
        self._file.close()


class _ParquetWriter(Writer):
    """The table with numbers as numbers, absent ones as null."""

    def __init__(self, path: Path) -> None:
        require_parquet()
        import pyarrow
        import pyarrow.parquet

        kinds = {int: pyarrow.int64(), bool: pyarrow.bool_(), str: pyarrow.string()}
        self._pyarrow = pyarrow
        self._schema = pyarrow.schema(
            [(column, kinds.get(_kind(column), pyarrow.float64())) for column in COLUMNS]
        )
        self._table = pyarrow.parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, record: Record) -> None:
        row = {column: typed(column, getattr(record.row, column)) for column in COLUMNS}
        self._rows.append(row)
        if len(self._rows) == _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._table.write_table(self._pyarrow.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._table.close()


def _kind(column: str) -> type:
    if column in _TEXTS:
        return str
    if column in _TRUTHS:
        return bool
    return int if column in _INTEGERS else float


class _DatabaseWriter(Writer):
    """A row for each frame: what the table says of it as key-value pairs `relax_*`.

    Of what else the structure carries, single values are key-value pairs too and the rest is data.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._database = ase.db.connect(str(path), type="db", serial=True)
        self._database.__enter__()  # one transaction for all rows

    def add(self, record: Record) -> None:
        if not record.frame:
            return
        atoms: Atoms = ase.io.read(StringIO(record.frame), format="extxyz")  # type: ignore[assignment]
        pairs = {
            f"relax_{column}": value
            for column in COLUMNS
            if (value := typed(column, getattr(record.row, column))) not in (None, "")
        }
        data: dict[str, Any] = {}
        for key, value in atoms.info.items():
            if not key.startswith("relax_"):  # as precise in the table
                value = value.item() if isinstance(value, np.generic) else value
                (pairs if _is_pair(key, value) else data)[key] = value
        for key in [key for key, value in pairs.items() if not _is_pair(key, value)]:
            data[key] = pairs.pop(key)
        row: Any = AtomsRow(atoms)
        row.unique_id = hashlib.blake2b(record.frame.encode(), digest_size=16).hexdigest()
        row.ctime = now()
        row.user = None  # whoever happened to finish the screen
        self._database.write(row, key_value_pairs=pairs, data=data)

    def close(self) -> None:
        self._database.__exit__(None, None, None)


def _is_pair(key: str, value: Any) -> bool:
    """Whether an ASE database takes this as a key-value pair; a text that is a number it does not.

    Nor does it warn of it: keys that are a formula would be looked up as one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check({key: value})
    except (ValueError, UserWarning):
        return False
    return True
