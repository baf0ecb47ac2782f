"""`mlff2d predict`: a row for each structure, whatever is wrong with one."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import ase.io
import pytest
from ase import Atoms

from mlff2d import checkpoint, cli
from mlff2d.predict import Row, Tally, structure_files
from tests.structures import mos2
from tests.test_property import predictor

ROOT = Path(__file__).resolve().parent.parent
STORED = Path(__file__).parent / "checkpoints"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "gap.pt"
    checkpoint.save(predictor("attention"), path)
    return path


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """A folder with two CIF files, a broken one, a text; a file with four frames."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifs"
    folder.mkdir()
    ase.io.write(folder / "b.cif", mos2())
    ase.io.write(folder / "a.cif", mos2(seed=1))
    (folder / "broken.cif").write_text("what is this")
    (folder / "notes.txt").write_text("not a structure")
    occupied = (folder / "a.cif").read_text().replace("1.0000\n", "0.5000\n", 1)
    (folder / "occupied.cif").write_text(occupied)
    frames = [mos2(), Atoms("Au", cell=[3, 3, 3], pbc=True), mos2(seed=2)]
    ase.io.write(tmp_path / "in.extxyz", frames)
    with (tmp_path / "in.extxyz").open("a") as file:
        file.write("2\nnot a frame\nMo 0 0\n")
    return tmp_path


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


def test_every_structure_has_a_row(inputs, model, capsys) -> None:
    assert cli.main(["predict", str(model), "cifs", "in.extxyz", "-o", "out.csv"]) == 0
    rows = table(Path("out.csv").read_text())
    assert [(row["file"], row["index"]) for row in rows] == [
        *[(f"cifs/{name}.cif", "0") for name in ("a", "b", "broken", "occupied")],
        *[("in.extxyz", str(k)) for k in range(4)],
    ]
    assert {row["unit"] for row in rows} == {"eV"}
    loaded = checkpoint.load_property(model)
    for row, atoms in {1: mos2(), 4: mos2(), 6: mos2(seed=2)}.items():
        assert float(rows[row]["gap"]) == pytest.approx(loaded.predict(atoms), rel=1e-5)
        assert rows[row]["formula"] == "Mo2S4"
        assert rows[row]["reason"] == ""
    for row, word in {2: "cannot be read", 3: "partly occupied", 5: "never seen Au"}.items():
        assert rows[row]["gap"] == ""
        assert word in rows[row]["reason"]
    assert rows[7]["reason"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "gap (eV) of 4 of 8 structures" in printed.err
    assert "not predicted: in.extxyz, frame 1: the model has never seen Au" in printed.err
    assert "Table: out.csv" in printed.err


def test_without_an_output_the_table_is_printed(inputs, model, capsys) -> None:
    assert cli.main(["predict", str(model), "in.extxyz"]) == 0
    assert len(table(capsys.readouterr().out)) == 4


def test_rows_are_written_as_they_come(inputs, model, monkeypatch, capsys) -> None:
    from mlff2d.property import PropertyPredictor

    original, calls = PropertyPredictor.predict, []

    def stop_at_the_second(self, atoms):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, atoms)

    monkeypatch.setattr(PropertyPredictor, "predict", stop_at_the_second)
    assert cli.main(["predict", str(model), "in.extxyz", "-o", "out.csv"]) == 130
    assert len(table(Path("out.csv").read_text())) == 2
    assert "Stopped: 2 structures are done and in out.csv." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MODEL", "nothing.cif"], ["no file nothing.cif"]),
        (["MODEL", "empty"], ["empty", "no .cif, .extxyz, .xyz file"]),
        (["none.pt", "in.extxyz"], ["none.pt"]),
        (["universal", "in.extxyz"], ["universal is a potential", "mlff2d relax"]),
        (["MODEL", "in.extxyz", "-o", "cifs"], ["cifs is a folder"]),
        (["MODEL", "in.extxyz", "-o", "no/out.csv"], ["no folder no"]),
        (["MODEL", "in.extxyz", "-o", "in.extxyz"], ["in.extxyz is an input"]),
    ],
)
def test_what_cannot_begin_is_one_sentence(inputs, model, capsys, arguments, words) -> None:
    Path("empty").mkdir()
    before = Path("in.extxyz").read_bytes()
    argv = [str(model) if a == "MODEL" else a for a in arguments]
    assert cli.main(["predict", *argv]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("mlff2d predict: ")
    for word in words:
        assert word in error[0]
    assert Path("in.extxyz").read_bytes() == before


def test_relax_refuses_a_property(inputs, capsys) -> None:
    stored = STORED / "format-2-property.pt"
    assert cli.main(["relax", "in.extxyz", "--model", str(stored)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "'band_gap' in eV" in error[0]
    assert "`mlff2d predict`" in error[0]


def test_folders_give_what_can_hold_structures(inputs) -> None:
    assert [f.name for f in structure_files([inputs])] == ["in.extxyz"]
    names = [f.name for f in structure_files([inputs / "cifs", inputs / "in.extxyz"])]
    assert names == ["a.cif", "b.cif", "broken.cif", "occupied.cif", "in.extxyz"]


def test_many_failures_are_counted() -> None:
    tally = Tally()
    for k in range(9):
        tally.add(Row("x", k, "", float("nan"), "why"))
    lines = tally.summary("gap").splitlines()
    assert lines[0] == "gap of 0 of 9 structures"
    assert len(lines) == 7
    assert "4 more" in lines[-1]


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from mlff2d import cli\n"
        "try: cli.main(['predict', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'ase' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL
    )
