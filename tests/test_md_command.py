"""`mlff2d md` as a user types it."""

import csv
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import ase.io
import numpy as np
import pytest

from mlff2d import cli
from mlff2d.checkpoint import save
from mlff2d.md.dynamics import command
from mlff2d.md.dynamics.log import COLUMNS, read_log
from mlff2d.md.dynamics.settings import CELLS, ENSEMBLES, GUARDS, MDSettings
from mlff2d.md.dynamics.summary import drift
from tests.potentials import random_potential
from tests.structures import mos2

ROOT = Path(__file__).resolve().parent.parent
FEW = ("--steps", 20, "--log-every", 2, "--write-every", 5, "--timestep", 0.2, "--device", "cpu")
FREE = [word for guard in GUARDS for word in ("--no-guard", guard)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save(random_potential("schnet"), path)
    return path


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "in.extxyz"
    ase.io.write(path, [mos2(), mos2(seed=1), mos2(seed=2)])
    return path


def md(*arguments: object) -> int:
    return cli.main(["md", *map(str, arguments)])


def table(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_and_all_that_it_leaves(source, model, capsys) -> None:
    assert md(source, "--model", model, "--index", "0:2", "--replicas", 2, *FEW, *FREE) == 0
    printed = capsys.readouterr()
    assert "4 replicas" in printed.out
    assert "Mo2S4" in printed.out
    assert "in-md-0.extxyz to in-md-3.extxyz" in printed.out
    log = read_log("in-md.csv")
    assert log["replica"].tolist() == [0, 1, 2, 3] * 11
    assert log["structure"].tolist() == [0, 0, 1, 1] * 11
    rows = table("in-md-summary.csv")
    assert [row["status"] for row in rows] == ["finished"] * 4
    own = {name: column[log["replica"] == 2] for name, column in log.items()}
    assert float(rows[2]["temperature"]) == pytest.approx(own["temperature"].mean(), abs=1e-6)
    assert float(rows[2]["drift"]) == pytest.approx(drift(own), abs=1e-6)
    assert Path("in-md.png").read_bytes().startswith(b"\x89PNG")
    frames = ase.io.read("in-md-3.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 5, 10, 15, 20]
    assert frames[0].info["replica"] == 3
    before = {p.name: p.read_bytes() for p in Path().iterdir() if p.suffix in (".extxyz", ".csv")}
    assert md(source, "--model", model, "--index", "0:2", "--replicas", 2, *FEW, *FREE) == 0
    after = {p.name: p.read_bytes() for p in Path().iterdir() if p.suffix in (".extxyz", ".csv")}
    assert before == after, "nothing was left to do"


def test_goes_on_from_the_last_frame_of_another_run(source, model) -> None:
    nve = ("--model", model, "--ensemble", "nve", "--dtype", "float64", *FEW, *FREE)
    assert md(source, "--index", "-1", "-o", "first.traj", *nve) == 0
    assert md("first.traj", "--index", "-1", "--velocities", "keep", "-o", "next.traj", *nve) == 0
    assert md(source, "--index", "-1", "-o", "whole.traj", *nve, "--steps", 40) == 0
    whole, following = ase.io.read("whole.traj", ":"), ase.io.read("next.traj", ":")
    assert following[-1].info["step"] == 20
    for ours, theirs in zip(following, whole[4:], strict=True):
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-9)
    assert "momenta" in following[0].arrays


def test_a_folder_that_the_run_writes_into_is_gone_on_with(source, model) -> None:
    """What the run has written there is none of its structures."""
    few = ("--model", model, "--index", "0:2", *FREE, "--write-every", 5)
    assert md(".", *few, "-o", "md.extxyz", "--steps", 5) == 0
    assert md(".", *few, "-o", "md.extxyz", "--steps", 10) == 0
    rows = table("md-summary.csv")
    assert [(row["formula"], row["steps"]) for row in rows] == [("Mo2S4", "10")] * 2
    assert md(".", *few[:2], *FREE, "-o", "md.extxyz", "--steps", 1, "--restart") == 0
    assert len(table("md-summary.csv")) == 3, "all structures, none of the run's frames"


def test_a_supercell_lies_in_the_plane(source, model) -> None:
    atoms = mos2()
    atoms.set_cell(atoms.cell.array[[2, 0, 1]])
    atoms.pbc = (False, True, True)
    ase.io.write("first.extxyz", atoms)
    few = ("--steps", 0, "--model", model, *FREE)
    assert md("first.extxyz", "--supercell", 2, 3, "-o", "md.extxyz", *few) == 0
    frame = ase.io.read("md.extxyz", 0)
    np.testing.assert_allclose(frame.cell, atoms.cell * [[1], [2], [3]], atol=1e-7)
    assert len(frame) == 6 * len(atoms)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.cif"], ["nothing.cif", "no such file"]),
        (["in.extxyz", "--index", "7:"], ["--index chooses none of the 3"]),
        (["in.extxyz", "--index", "last"], ["'last' is no index"]),
        (["in.extxyz", "--index", "9"], ["--index chooses none"]),
        (["in.extxyz", "--temperature", "warm"], ["'warm' is no temperature", "300:600"]),
        (["in.extxyz", "--tempratur", "300"], ["Did you mean '--temperature'"]),
        (["in.extxyz", "--pressure", "1"], ["a pressure does nothing"]),
        (["in.extxyz", "--ensemble", "nve", "--temperature", "1:9"], ["nve has none"]),
        (["in.extxyz", "-o", "md.xtc"], ["md.xtc", ".traj"]),
        (["in.extxyz", "-o", "in.extxyz", "--index", "0"], ["in.extxyz is the input"]),
        (["in.extxyz", "-o", "in.xyz"], ["in-0.xyz exists and belongs to no run"]),
        (["in.extxyz", "--velocities", "keep"], ["no velocities"]),
        (["in.extxyz", "--velocities", "keep", "--supercell", "2", "2"], ["same velocity"]),
        (["in.extxyz", "--no-guard", "layers"], ["layers"]),
        (["in.extxyz", "--device", "abacus"], ["'abacus'"]),
    ],
)
def test_what_cannot_be_is_one_sentence(source, model, capsys, arguments, words) -> None:
    Path("in-0.xyz").write_text("mine")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    try:
        status = md(*arguments, "--model", model)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    error = capsys.readouterr().err.strip().splitlines()
    for word in words:
        assert word in error[-1]
    assert {path: path.read_bytes() for path in Path().iterdir()} == before, "nothing is written"


def test_the_help_knows_the_defaults_and_all_that_is_written() -> None:
    parser = ArgumentParser()
    command.add_arguments(parser)
    assert command._settings(parser.parse_args(["x"])) == MDSettings()
    for word in (*COLUMNS, *ENSEMBLES, *CELLS, *GUARDS, "OUT-last.extxyz", "OUT-summary.csv"):
        assert word in parser.epilog


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from mlff2d import cli\n"
        "try: cli.main(['md', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'ase' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL
    )


def test_stopped_from_outside_and_gone_on_with(source, model) -> None:
    arguments = ["md", "in.extxyz", "--index", "0", "--model", str(model), *map(str, FEW), *FREE]
    arguments += ["--steps", "100000", "-o", "md.extxyz"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlff2d.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not Path("md.extxyz").exists():
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "the same command goes on from there" in error
    (row,) = table("md-summary.csv")
    assert row["status"] == "interrupted"
    assert ase.io.read("md-last.extxyz").info["step"] == int(row["steps"])
