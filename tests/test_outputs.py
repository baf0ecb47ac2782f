"""Structures and tables as each kind of file holds them."""

from __future__ import annotations

import csv
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pyarrow.parquet
import pytest
from ase.build import fcc111

from mlff2d.errors import StructureError
from mlff2d.md.screen.outputs import STRUCTURES, TABLES, open_writer, require_parquet
from mlff2d.md.screen.row import COLUMNS, Record, failed, relaxed
from mlff2d.sources import Found
from tests.screens import result_of, sheet


def records() -> list[Record]:
    """One that ended well, one that did not, one that could not begin."""
    odd = fcc111("Cu", (2, 1, 1), a=3.7, vacuum=6.0)
    odd.info |= {
        "id": 3,  # a word that databases keep for themselves
        "CuO": 1.5,  # a key that is a formula
        "mixed": [1, "two"],
        "vector": np.arange(3.0),
        "flag": np.True_,
    }
    odd.info["material"] = "a, b"
    found = [Found(k, "in.extxyz", k, atoms) for k, atoms in enumerate((sheet(), odd, sheet()))]
    first = relaxed(found[0], result_of(sheet(), -1.5, 3))
    return [
        replace(first, row=replace(first.row, formula="NaN")),  # sodium nitride, no number
        relaxed(found[1], result_of(odd, -2.5, 16)),
        failed(found[2], StructureError('it is a "molecule",\nnot a slab')),
    ]


def written(path: Path) -> Path:
    with open_writer(path, path.suffix) as writer:
        for record in records():
            writer.add(record)
    return path


def test_extended_xyz(tmp_path):
    frames = ase.io.read(written(tmp_path / "out.extxyz"), ":")
    assert [atoms.info["relax_index"] for atoms in frames] == [0, 1]
    assert [atoms.get_potential_energy() for atoms in frames] == [-1.5, -2.5]
    assert frames[1].info["material"] == "a, b"


def test_csv(tmp_path):
    with written(tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["status"] for row in rows] == ["converged", "max-steps", "failed"]
    assert rows[2]["reason"] == 'in.extxyz, frame 2 (Cu): it is a "molecule", not a slab'


def test_parquet_says_what_csv_says(tmp_path, monkeypatch):
    monkeypatch.setattr("mlff2d.md.screen.outputs._ROW_GROUP", 2)
    table = pyarrow.parquet.read_table(written(tmp_path / "out.parquet")).to_pylist()
    with written(tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(table) == len(rows) == 3
    for ours, theirs in zip(table, rows, strict=True):
        assert list(ours) == list(theirs)
        for column, value in ours.items():
            text = theirs[column]
            if isinstance(value, bool | str):
                assert str(value) == text
            else:
                assert value == (float(text) if text else None)
    assert table[0]["index"] == 0
    assert table[0]["lattice_changed"] is False
    assert table[2]["steps"] is None
    assert isinstance(table[0]["energy_per_atom"], float)


def test_database(tmp_path):
    path = written(tmp_path / "out.db")
    with ase.db.connect(path) as database:
        first, second = database.select()
        (found,) = database.select("relax_status=max-steps,relax_energy_per_atom<-1")
    assert found.id == second.id == 2
    assert first.energy == -1.5
    assert (first.relax_steps, first.relax_source, first.relax_frame) == (3, "in.extxyz", 0)
    assert first.data["relax_formula"] == "NaN"
    assert first.material == "sheet 1.0"
    assert first.relax_lattice_changed in (False, 0)
    assert second.flag in (True, 1)
    assert second.data["id"] == 3
    assert second.data["CuO"] == 1.5
    np.testing.assert_array_equal(second.data["vector"], np.arange(3.0))
    atoms = second.toatoms()
    np.testing.assert_allclose(atoms.positions, fcc111("Cu", (2, 1, 1), 3.7, 6.0).positions)
    assert atoms.get_potential_energy() == -2.5
    assert atoms.pbc.tolist() == [True, True, False]


@pytest.mark.parametrize("suffix", [*STRUCTURES, *TABLES])
def test_the_same_records_make_the_same_file(tmp_path, suffix):
    one, two = (written(tmp_path / f"{name}{suffix}") for name in ("one", "two"))
    if suffix != ".db":
        assert one.read_bytes() == two.read_bytes()
        return
    contents = []
    for path in (one, two):
        with closing(sqlite3.connect(path)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
            rows = {
                name: connection.execute(f"SELECT * FROM {name}").fetchall()
                for name in ("systems", "keys", "text_key_values", "number_key_values", "species")
            }
        rows["systems"] = [row[:2] + row[4:] for row in rows["systems"]]  # but for two times
        contents.append((tables, rows))
    assert contents[0] == contents[1]


def test_a_database_that_was_begun_is_begun_anew(tmp_path):
    path = tmp_path / "out.db"
    for _ in range(2):
        written(path)
    with ase.db.connect(path) as database:
        assert database.count() == 2


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"mlff2d\[parquet\]"):
        require_parquet()
    with pytest.raises(ValueError, match=r"'\.txt' is no kind of output"):
        open_writer(tmp_path / "out.txt", ".txt")
