"""The programs `mlff2d` and `mlff2d-relax`, in this process and in one of their own."""

import csv
import os
import pickle
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from mlff2d import cli
from mlff2d.checkpoint import save
from mlff2d.md.relaxation.relax import FMAX, SMAX, STEPS
from mlff2d.md.screen import command
from mlff2d.training.data import command as data_command
from tests.potentials import random_potential
from tests.structures import mos2

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model file with random weights: what it computes does not matter here."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save(random_potential("m3gnet"), path)
    return path


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """Three structures, the second a bulk crystal, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "in.extxyz"
    ase.io.write(path, [mos2(), Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True), mos2(seed=1)])
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def relax(*arguments: object) -> int:
    return cli.relax_main([str(argument) for argument in arguments])


def test_relax_writes_beside_each_other(source, model, capsys) -> None:
    assert relax(source, "--model", model, "--steps", 2) == 0
    rows = table(Path("in-relaxed.csv"))
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert rows[1]["status"] == "failed"
    assert "in.extxyz, frame 1 (Cu)" in rows[1]["reason"]
    assert len(ase.io.read("in-relaxed.extxyz", ":")) == 2
    printed = capsys.readouterr()
    assert "3 structures" in printed.out
    assert "in-relaxed.csv" in printed.out
    assert "frame 1 (Cu)" in printed.out, "the summary says what failed"
    assert "3/3" in printed.err, "the bar is on stderr"
    before = Path("in-relaxed.csv").read_bytes()
    assert relax(source, "--model", model, "--steps", 2) == 0, "nothing left to do"
    assert Path("in-relaxed.csv").read_bytes() == before
    assert relax(source, "--model", model, "--steps", 1) == 2
    assert "--restart" in capsys.readouterr().err
    assert relax(source, "--model", model, "--steps", 1, "--restart") == 0


def test_relax_is_an_alias(source, model) -> None:
    options = [str(source), "--model", str(model), "--steps", "2", "--fix-cell"]
    assert cli.main(["relax", *options, "-o", "a.extxyz"]) == 0
    assert cli.relax_main([*options, "-o", "b.extxyz"]) == 0
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()
    assert Path("a.extxyz").read_bytes() == Path("b.extxyz").read_bytes()
    for atoms in ase.io.read("a.extxyz", ":"):
        assert np.array_equal(atoms.cell.array, mos2().cell.array)


def test_thresholds_reach_the_optimiser(source, model) -> None:
    loose = ["--fmax", "1e6", "--smax", "1e6"]
    assert relax(source, "--model", model, *loose) == 0
    rows = table(Path("in-relaxed.csv"))
    assert [(row["status"], row["steps"]) for row in rows[::2]] == [("converged", "0")] * 2


def test_defaults_shown_are_the_defaults() -> None:
    parser = ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["x"])
    assert (args.fmax, args.smax, args.steps) == (FMAX, SMAX, STEPS)
    for column in ("status", "thickness", "lattice_changed"):
        assert column in parser.epilog


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "no file"), ("", "empty"), ("not a structure", "in.extxyz"), ("1\n\nXq 0 0 0\n", "Xq")],
)
def test_a_file_without_structures_is_one_sentence(source, model, capsys, content, word) -> None:
    source.unlink()
    if content is not None:
        source.write_text(content)
    assert relax(source, "--model", model) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert word in error[-1]
    assert str(source) in error[-1]
    assert "Traceback" not in "".join(error)
    assert not Path("in-relaxed.csv").exists()


class Harmful:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("harm", "w"))


@pytest.mark.parametrize("kind", ["missing", "text", "pickle", "model of another kind"])
def test_a_file_that_is_no_model_is_one_sentence(source, capsys, kind) -> None:
    path = Path("model.pt")
    if kind == "text":
        path.write_text("hello")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    elif kind != "missing":
        import torch

        torch.save({"weights": {}}, path)
    assert relax(source, "--model", path) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("mlff2d-relax: ")
    assert "model.pt" in error[0]
    assert not Path("harm").exists()


def test_debug_shows_where(source) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        relax(source, "--model", "nowhere.pt", "--debug")


def test_interrupted(source, model, capsys, monkeypatch) -> None:
    from mlff2d.md.screen import relax_file

    whole = relax_file.relax

    def interrupted(atoms, *args, **kwargs):
        if len(table(Path("in-relaxed.csv"))) == 2:
            raise KeyboardInterrupt
        return whole(atoms, *args, **kwargs)

    monkeypatch.setattr(relax_file, "relax", interrupted)
    assert relax(source, "--model", model, "--steps", 2) == 130
    assert "same command goes on" in capsys.readouterr().err
    assert len(table(Path("in-relaxed.csv"))) == 2
    monkeypatch.setattr(relax_file, "relax", whole)
    assert relax(source, "--model", model, "--steps", 2) == 0
    assert "2 structures already finished" in capsys.readouterr().err
    assert [row["index"] for row in table(Path("in-relaxed.csv"))] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["relx"], ["'relx'", "'relax'"]),
        (["relax", "x.xyz", "--fmx", "1"], ["'--fmx'", "'--fmax'"]),
        (["relax", "x.xyz", "--fmax", "-1"], ["--fmax", "not a positive number"]),
        (["relax", "x.xyz", "--smax", "nan"], ["--smax", "not a positive number"]),
        (["relax", "x.xyz", "--fmax", "small"], ["--fmax", "small"]),
        (["relax", "x.xyz", "--steps", "-1"], ["--steps", "not a number of steps"]),
        (["relax", "x.xyz", "y.xyz"], ["'y.xyz'"]),
        (["relax"], ["structures"]),
        (["data", "biuld"], ["'biuld'", "'build'"]),
        (["data", "build", "x.xyz", "-o", "a.h5", "--materialkey", "k"], ["'--material-key'"]),
        (["data", "build", "x.xyz"], ["-o"]),
        (["data", "build", "x.xyz", "-o", "a.h5"], ["x.xyz", "no such file"]),
        (["data", "stats", "a.h5"], ["a.h5", "no such data file"]),
        (["data", "merge", "a.h5", "-o", "b.h5"], ["a.h5", "no such data file"]),
    ],
)
def test_misspelt(argv, words, capsys) -> None:
    try:
        status = cli.main(argv)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error


@pytest.mark.parametrize("group", [[], ["data"]])
def test_help_of_each_command(group, capsys) -> None:
    prog = " ".join(["mlff2d", *group])
    assert cli.main([*group, "--help"]) == 0
    overview = capsys.readouterr().out
    assert f"usage: {prog} COMMAND" in overview
    for name in data_command.COMMANDS if group else cli.COMMANDS:
        assert name in overview
        if name == "data":
            continue
        with pytest.raises(SystemExit) as exit_:
            cli.main([*group, name, "--help"])
        assert exit_.value.code == 0
        assert f"usage: {prog} {name}" in capsys.readouterr().out
    assert cli.main(group) == 2


def program(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlff2d.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("argv", [["--help"], ["relax", "--help"], ["data", "build", "--help"]])
def test_help_does_not_wait_for_torch(argv) -> None:
    code = (
        "import sys; from mlff2d import cli\n"
        f"try: cli.main({argv})\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'ase' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL
    )


def test_as_a_program(source, model, tmp_path) -> None:
    done = program("relax", "in.extxyz", "--model", str(model), "--steps", "1", cwd=tmp_path)
    assert (done.returncode, len(table(tmp_path / "in-relaxed.csv"))) == (0, 3), done.stderr
    done = program("relax", "nothing.cif", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "mlff2d relax: there is no file nothing.cif\n"


def test_the_example_is_what_it_says() -> None:
    structures = ase.io.read(ROOT / "examples" / "monolayers.extxyz", ":")
    assert [a.info["material"] for a in structures] == [
        *("MoS2", "WS2", "WSe2", "NbS2", "TiS2", "graphene", "hBN", "phosphorene"),
    ]
    for atoms in structures:
        assert atoms.pbc.tolist() == [True, True, False]
        distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
        assert 1.3 < distances.min() < 2.7
