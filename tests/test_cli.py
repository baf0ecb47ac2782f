"""The programs `mlff2d` and `mlff2d-relax`, in this process and in one of their own."""

import csv
import os
import pickle
import resource
import signal
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
from mlff2d.md.relaxation.one_by_one import AseRelaxer
from mlff2d.md.relaxation.result import STATUSES
from mlff2d.md.relaxation.settings import CELLS, DEFAULTS
from mlff2d.md.screen import command
from mlff2d.md.screen.journal import locked
from mlff2d.md.screen.row import COLUMNS
from mlff2d.training.data import command as data_command
from mlff2d.training.generation import command as generate_command
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
    assert "3/3" in printed.err, "progress is on stderr"
    before = Path("in-relaxed.csv").stat()
    assert relax(source, "--model", model, "--steps", 2) == 0, "nothing left to do"
    printed = capsys.readouterr()
    assert "All is done already" in printed.err
    assert "3 structures" in printed.out
    assert Path("in-relaxed.csv").stat() == before
    assert relax(source, "--model", model, "--steps", 1) == 2
    assert "begun with steps 2, now 1" in capsys.readouterr().err
    assert relax(source, "--model", model, "--steps", 1, "--restart") == 0
    assert {row["steps"] for row in table(Path("in-relaxed.csv"))} == {"1", ""}


def test_every_way_makes_the_same_files(source, model) -> None:
    ase.io.write("more.extxyz", [mos2(seed=k) for k in range(2, 7)])
    options = [source, "more.extxyz", "--model", model, "--steps", 3, "--block", 3]
    assert relax(*options, "-o", "plain.extxyz") == 0
    for i in (3, 1, 2):
        assert not Path("shards.extxyz").exists(), "the last one writes"
        assert relax(*options, "-o", "shards.extxyz", "--shard", f"{i}/3") == 0
    assert relax(*options, "-o", "ase.db", "--relaxer", "ase", "--table", "parquet") == 0
    for suffix in (".csv", ".extxyz"):
        whole = Path("plain").with_suffix(suffix).read_bytes()
        assert Path("shards").with_suffix(suffix).read_bytes() == whole
    rows = table(Path("plain.csv"))
    assert [(row["source"], row["frame"]) for row in rows[2:5]] == [
        (str(source), "2"),
        ("more.extxyz", "0"),
        ("more.extxyz", "1"),
    ]
    assert len(ase.io.read("ase.db", ":")) == 7
    assert Path("ase.parquet").exists()


@pytest.mark.slow
def test_workers_make_the_same_files(source, model) -> None:
    pytest.importorskip("distributed")
    options = [source, "--model", model, "--steps", 3, "--block", 1]
    assert relax(*options, "-o", "plain.extxyz") == 0
    assert relax(*options, "-o", "workers.extxyz", "--workers", 2) == 0
    for suffix in (".csv", ".extxyz"):
        whole = Path("plain").with_suffix(suffix).read_bytes()
        assert Path("workers").with_suffix(suffix).read_bytes() == whole


def test_a_second_run_beside_the_first(source, model, capsys) -> None:
    assert relax(source, "--model", model, "--steps", 1) == 0
    journal = Path("in-relaxed.progress", "block-00000.jsonl")
    journal.write_bytes(b"")
    with journal.open("ab") as file:
        assert locked(file)
        assert relax(source, "--model", model, "--steps", 1) == 2
        assert "another run is writing to in-relaxed.extxyz" in capsys.readouterr().err
        assert relax(source, "--model", model, "--steps", 1, "--restart") == 2
    assert relax(source, "--model", model, "--steps", 1) == 0
    assert len(table(Path("in-relaxed.csv"))) == 3


def test_a_folder_in_which_the_output_lies(source, model) -> None:
    for _ in range(2):
        assert relax(".", "--model", model, "--steps", 1, "-o", "out.extxyz") == 0
    assert len(table(Path("out.csv"))) == 3


def test_relax_is_an_alias(source, model) -> None:
    options = [str(source), "--model", str(model), "--steps", "2", "--cell", "fixed"]
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
    assert (args.fmax, args.smax, args.steps) == (DEFAULTS.fmax, DEFAULTS.smax, DEFAULTS.steps)
    for word in (*COLUMNS, *STATUSES, *CELLS):
        assert word.replace("stress_yy", "_yy").replace("stress_xy", "_xy") in parser.epilog


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "no such file"), ("", "empty"), (" \n\n", "holds no structure")],
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


def test_a_file_of_nothing_but_bad_frames_has_its_rows(source, model, capsys) -> None:
    source.write_text("1\n\nXq 0 0 0\n2\n\nCu 0 0 0\n")
    assert relax(source, "--model", model) == 0
    rows = table(Path("in-relaxed.csv"))
    assert [row["status"] for row in rows] == ["failed", "failed"]
    assert "in.extxyz, frame 0: " in rows[0]["reason"]
    assert "in.extxyz, frame 1: " in capsys.readouterr().out


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(source, model, capsys, monkeypatch, number) -> None:
    whole = AseRelaxer.run

    def interrupted(self, structures, snapshot=None):
        for finished in whole(self, structures, snapshot):
            signal.raise_signal(number)
            yield finished

    options = [source, "--model", model, "--steps", 2, "--relaxer", "ase"]
    monkeypatch.setattr(AseRelaxer, "run", interrupted)
    assert relax(*options) == 128 + number
    error = capsys.readouterr().err
    assert "1 of 3 structures" in error
    assert "same command goes on" in error
    assert [row["index"] for row in table(Path("in-relaxed.csv"))] == ["0"]
    monkeypatch.setattr(AseRelaxer, "run", whole)
    assert relax(*options) == 0
    assert "1 of 3 structures are finished already" in capsys.readouterr().err
    assert [row["index"] for row in table(Path("in-relaxed.csv"))] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["relx"], ["'relx'", "'relax'"]),
        (["relax", "x.xyz", "--fmx", "1"], ["'--fmx'", "'--fmax'"]),
        (["relax", "x.xyz", "--fmax", "-1"], ["--fmax", "not a positive number"]),
        (["relax", "x.xyz", "--smax", "nan"], ["--smax", "not a positive number"]),
        (["relax", "x.xyz", "--fmax", "small"], ["--fmax", "small"]),
        (["relax", "x.xyz", "--steps", "-1"], ["--steps", "not a whole number from 0 on"]),
        (["relax", "x.xyz", "--cell", "fxed"], ["--cell", "fxed", "fixed"]),
        (["relax", "x.xyz", "--shard", "3/2"], ["--shard", "'3/2'", "1/8"]),
        (["relax", "x.xyz", "--block", "0"], ["--block", "'0'"]),
        (["relax", "x.xyz", "--polish", "--dtype", "float64"], ["--polish", "float64"]),
        (["relax", "x.xyz", "--restart", "--shard", "1/2"], ["--restart", "OUT.progress"]),
        (["relax", "x.xyz", "--workers", "2", "--dask", "a:1"], ["--workers", "--dask"]),
        (["relax", "x.xyz", "--cell", "fixed", "--pressure", "1"], ["pressure", "'fixed'"]),
        (["relax", "x.xyz", "--pressure", "nan"], ["pressure", "nan"]),
        (["relax", "x.xyz", "-o", "out.traj"], ["out.traj", ".extxyz", ".db"]),
        (["relax", "x.xyz", "-o", "no/such/folder/out.db"], ["no/such/folder", "make it"]),
        (["relax"], ["STRUCTURES"]),
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


GROUPS = {"data": data_command.COMMANDS, "generate": generate_command.COMMANDS}


@pytest.mark.parametrize("group", [[], *([name] for name in GROUPS)])
def test_help_of_each_command(group, capsys) -> None:
    prog = " ".join(["mlff2d", *group])
    assert cli.main([*group, "--help"]) == 0
    overview = capsys.readouterr().out
    assert f"usage: {prog} COMMAND" in overview
    for name in GROUPS[group[0]] if group else cli.COMMANDS:
        assert name in overview
        if not group and name in GROUPS:
            continue
        with pytest.raises(SystemExit) as exit_:
            cli.main([*group, name, "--help"])
        assert exit_.value.code == 0
        assert f"usage: {prog} {name}" in capsys.readouterr().out
    assert cli.main(group) == 2


def program(
    *arguments: str, cwd: Path, largest_file: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess[str]:
    """Run `mlff2d`; a file that would grow beyond its largest size meets the end of the disk."""
    return subprocess.run(
        [sys.executable, "-m", "mlff2d.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file,) * 2),
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
    assert done.stderr == "mlff2d relax: nothing.cif: there is no such file or folder.\n"


def test_no_room(source, model, tmp_path) -> None:
    command = ["relax", "in.extxyz", "--model", str(model), "--steps", "1"]
    done = program(*command, cwd=tmp_path, largest_file=3000)
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("mlff2d relax: in-relaxed.progress/block-00000.jsonl could not be")
    assert "same command goes on" in error
    assert "Traceback" not in done.stderr
    assert program(*command, cwd=tmp_path).returncode == 0
    assert len(table(tmp_path / "in-relaxed.csv")) == 3


def test_the_example_is_what_it_says() -> None:
    structures = ase.io.read(ROOT / "examples" / "monolayers.extxyz", ":")
    assert [a.info["material"] for a in structures] == [
        *("MoS2", "WS2", "WSe2", "NbS2", "TiS2", "graphene", "hBN", "phosphorene"),
    ]
    for atoms in structures:
        assert atoms.pbc.tolist() == [True, True, False]
        distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
        assert 1.3 < distances.min() < 2.7
