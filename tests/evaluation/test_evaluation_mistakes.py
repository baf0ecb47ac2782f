"""What users of `mlff2d evaluate` get wrong, and its defaults."""

from __future__ import annotations

import ase.io
import pytest
from ase import Atoms

from mlff2d import cli
from mlff2d.training.data.splits import part_of
from mlff2d.training.evaluation import command
from mlff2d.training.evaluation.evaluate import Options
from tests.judging import potential_file
from tests.training_helpers import monolayers

pytestmark = pytest.mark.usefixtures("pairnet")


def complaint(capsys, *argv: object) -> str:
    try:
        status: object = cli.main(["evaluate", *map(str, argv)])
    except SystemExit as stop:  # of an argument that the parser refuses
        status = stop.code
    assert status == 2
    text = capsys.readouterr().err.strip()
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def test_mistakes_get_one_sentence(model, source, data, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is a model, not data" in complaint(capsys, model, model)
    assert "is not a model file" in complaint(capsys, source, data)
    assert "there is no" in complaint(capsys, model, "nothing.extxyz")
    assert "add --relax" in complaint(capsys, model, data, "--reference", model)
    assert "not a whole number from 1 on" in complaint(capsys, model, data, "--limit", "0")
    assert "is a file" in complaint(capsys, model, data, "-o", source)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "holds other files" in complaint(capsys, model, data, "-o", "mine")
    bare = [Atoms(a.symbols, a.positions, cell=a.cell, pbc=a.pbc) for a in monolayers(1)]
    ase.io.write("bare.extxyz", bare)
    assert "no energy, forces or stress" in complaint(capsys, model, "bare.extxyz")
    assert not list(tmp_path.glob("evaluation-*"))  # nothing begun is left behind


def test_an_empty_part_is_one_sentence(source, tmp_path, capsys) -> None:
    one = [a for a in ase.io.read(source, ":") if a.info["material"] == "Cu-Pd"]
    part = part_of("Cu-Pd", 0, 0.2, 0.3)
    ase.io.write(tmp_path / "one.extxyz", one)
    model = potential_file(tmp_path / "models" / "mine.pt", tmp_path / "one.extxyz")
    other = "val" if part != "val" else "test"
    text = complaint(
        capsys, model, tmp_path / "one.extxyz", "--part", other, "-o", tmp_path / "report"
    )
    assert f"the {other} part is empty: of 2 frames" in text


def test_defaults_are_those_of_relax() -> None:
    from mlff2d.md.relaxation.settings import DEFAULTS

    parser = cli._Parser("mlff2d evaluate")
    command.add_arguments(parser)
    args = parser.parse_args(["model", "data"])
    options = Options(model="", data=[])
    assert (args.fmax, args.smax, args.steps) == (DEFAULTS.fmax, DEFAULTS.smax, DEFAULTS.steps)
    assert (options.fmax, options.smax, options.steps) == (
        DEFAULTS.fmax,
        DEFAULTS.smax,
        DEFAULTS.steps,
    )
    assert options.reference_fmax == args.reference_fmax
