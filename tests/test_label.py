"""`mlff2d label` with calculators of ASE in worker processes."""

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.calculators.emt import EMT

from mlff2d import cli
from mlff2d.dataset_file import DatasetFile
from mlff2d.training.labelling import progress
from mlff2d.training.labelling.journal import key_of

ROOT = Path(__file__).resolve().parent.parent
METALS = ("Ni", "Cu", "Pd", "Ag", "Pt", "Au")
NAUGHTY = """
import os, time
from ase.calculators.emt import EMT

class Naughty(EMT):
    '''Energies and forces of EMT, but that some elements end in other ways.'''

    def __init__(self, pause=0.0, folder="."):
        super().__init__()
        self.pause, self.folder = pause, folder

    def calculate(self, atoms=None, properties=None, system_changes=None):
        elements = set(atoms.symbols)
        with open(os.path.join(self.folder, "calls"), "a") as file:
            file.write(str(atoms.symbols) + "\\n")
        print("what a calculator prints is not for us")
        if os.path.exists(os.path.join(self.folder, "good")):
            elements = set()
        if "Cu" in elements:
            os._exit(3)
        if "Ag" in elements:
            os.kill(os.getpid(), 9)
        if "Pt" in elements:
            raise RuntimeError("it did not\\nlike it")
        if "Au" in elements:
            time.sleep(600)
        time.sleep(self.pause)
        super().calculate(atoms, properties, system_changes)
        if "Pd" in elements:
            self.results["forces"][0, 0] = float("nan")
"""


def slabs(metals=METALS) -> list[Atoms]:
    found = []
    for seed, metal in enumerate(metals):
        atoms = fcc111(metal, (1, 1, 2), vacuum=6.0)
        atoms.pbc = (True, True, False)
        atoms.rattle(0.1, seed=seed)
        atoms.info = {"material": f"slab of {metal}", "mode": "rattled"}
        found.append(atoms)
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with structures and descriptions of calculators."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "naughty.py").write_text(NAUGHTY)
    (tmp_path / "emt.yaml").write_text("calculator: ase.calculators.emt:EMT\nlevel: EMT\n")
    (tmp_path / "naughty.yaml").write_text("calculator: naughty:Naughty\nlevel: EMT\n")
    ase.io.write("in.extxyz", slabs())
    return tmp_path


def label(*arguments: object) -> int:
    return cli.main(["label", *map(str, arguments)])


def calls() -> list[str]:
    path = Path("calls")
    return path.read_text().split() if path.exists() else []


def test_labels_are_those_of_the_calculator(capsys) -> None:
    assert label("in.extxyz", "-o", "out.extxyz", "--with", "emt.yaml", "--workers", 2) == 0
    frames = ase.io.read("out.extxyz", ":")
    assert [f.info["material"] for f in frames] == [f"slab of {metal}" for metal in METALS]
    for frame, atoms in zip(frames, slabs(), strict=True):
        atoms.calc = EMT()
        assert frame.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        assert frame.get_forces() == pytest.approx(atoms.get_forces(), abs=1e-6)
        assert frame.get_stress() == pytest.approx(atoms.get_stress(), abs=1e-7)
        assert frame.positions == pytest.approx(atoms.positions, abs=1e-8)
        assert frame.info["mode"] == "rattled"
        assert frame.info["level"] == "EMT"
        assert json.loads(frame.info["settings"])["calculator"] == "ase.calculators.emt:EMT"
        assert frame.info["cpu_s"] >= 0
    said = capsys.readouterr().err
    assert "structures labelled" in said
    assert "6" in said


def test_what_fails_is_passed_over_and_named(request) -> None:
    """Every way to fail: the process ends, is killed, hangs; an exception, NaN."""
    broken = [*slabs(), Atoms("H", cell=[9, 9, 9], pbc=True), Atoms("Cu", [(0, 0, np.nan)])]
    ase.io.write("in.extxyz", broken)
    arguments = ("in.extxyz", "-o", "out.extxyz", "--with", "naughty.yaml")
    assert label(*arguments, "--timeout", 4) == 0
    frames = ase.io.read("out.extxyz", ":")
    assert [f.info.get("material") for f in frames] == ["slab of Ni", None]
    with Path("out.progress/failed.csv").open(newline="") as file:
        failed = {row["formula"]: row for row in csv.DictReader(file)}
    assert "ended with status 3" in failed["Cu2"]["reason"]
    assert "killed by SIGKILL, perhaps for lack of memory" in failed["Ag2"]["reason"]
    assert failed["Pt2"]["reason"] == "RuntimeError: it did not like it"
    assert failed["Au2"]["reason"] == "it took longer than 4 s"
    assert "NaN" in failed["Pd2"]["reason"]
    assert failed["Cu2"]["frame"] == "1"

    # Those that failed are not tried again, but on demand.
    before = len(calls())
    assert label(*arguments) == 0
    assert len(calls()) == before
    Path("good").touch()
    request.getfixturevalue("in_process")
    assert label(*arguments, "--retry") == 0
    assert len(ase.io.read("out.extxyz", ":")) == 7
    assert calls()[before:].count("Ni2") == 0


def test_a_run_that_was_ended_goes_on(folder, request) -> None:
    """By SIGTERM and by SIGKILL; what comes out is what comes out of one that was not."""
    Path("good").touch()
    Path("slow.yaml").write_text("calculator: naughty:Naughty\nparameters: {pause: 0.6}\n")
    command = ["label", "in.extxyz", "--with", "slow.yaml", "-o"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    journal = Path("ended.progress/journal.jsonl")
    for number, count in ((signal.SIGTERM, 2), (signal.SIGKILL, 3)):
        process = subprocess.Popen(
            [sys.executable, "-m", "mlff2d.cli", *command, "ended.extxyz.gz"], env=environment
        )
        while not journal.exists() or journal.read_bytes().count(b"\n") < count:
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(number)
        status = process.wait(60)
        assert status == (-number if number == signal.SIGKILL else 128 + number)
        finished = {json.loads(line)["key"] for line in journal.read_text().splitlines()}
        assert count <= len(finished) < 6
        if number == signal.SIGTERM:  # what was finished is there
            assert len(without_times("ended.extxyz.gz")) == 4 * len(finished)
    with journal.open("ab") as file:
        file.write(b'{"key": "torn')
    Path("calls").write_text("")
    request.getfixturevalue("in_process")
    assert cli.main([*command, "ended.extxyz.gz"]) == 0
    done = [atoms for atoms in slabs() if key_of(atoms) in finished]
    assert not {str(atoms.symbols) for atoms in done} & set(calls())
    assert cli.main([*command, "whole.extxyz.gz"]) == 0
    assert without_times("ended.extxyz.gz") == without_times("whole.extxyz.gz")


def without_times(path: str) -> list[str]:
    with gzip.open(path, "rt") as file:
        return [" ".join(w for w in line.split() if "cpu_s" not in w) for line in file]


@pytest.mark.usefixtures("in_process")
def test_a_list_may_change(capsys) -> None:
    """It gets longer, its order and what it says of a structure change, and it gets shorter."""
    arguments = ("in.extxyz", "-o", "out.h5", "--with", "emt.yaml")
    assert label(*arguments) == 0
    more = slabs()[::-1] + slabs(("Al",))
    more[2].info["material"] = "a new name"
    ase.io.write("in.extxyz", more)
    journal = Path("out.progress/journal.jsonl")
    before = journal.read_text()
    assert label(*arguments) == 0
    after = journal.read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 7
    frames = [atoms for _, atoms in DatasetFile(Path("out.h5")).frames()]
    assert [str(f.symbols) for f in frames] == [f"{m}2" for m in (*METALS[::-1], "Al")]
    assert frames[2].info["material"] == "a new name"
    assert {f.info["level"] for f in frames} == {"EMT"}

    ase.io.write("in.extxyz", slabs()[:1])
    capsys.readouterr()
    assert label(*arguments) == 0
    assert len(list(DatasetFile(Path("out.h5")).frames())) == 1
    assert "6 structures that were labelled here" in " ".join(capsys.readouterr().err.split())
    assert journal.read_text() == after


@pytest.mark.usefixtures("in_process")
def test_every_step_of_a_relaxation_is_a_frame() -> None:
    ase.io.write("in.extxyz", slabs(("Cu", "Ag")))
    arguments = ("in.extxyz", "-o", "out.extxyz", "--with", "emt.yaml", "--steps", 40)
    assert label(*arguments, "--smax", 0.5) == 0
    frames = ase.io.read("out.extxyz", ":")
    steps = [f.info["step"] for f in frames]
    second = steps.index(0, 1)
    assert steps == [*range(second), *range(len(frames) - second)]
    assert len({f.info["trajectory"] for f in frames}) == 2
    energies = [f.get_potential_energy() for f in frames[:second]]
    assert energies[-1] < energies[0] - 0.01
    for frame in frames[second - 2 : second]:
        atoms = frame.copy()
        atoms.calc = EMT()
        assert frame.get_forces() == pytest.approx(atoms.get_forces(), abs=1e-6)
        assert frame.get_stress() == pytest.approx(atoms.get_stress(), abs=1e-6)
    last = frames[second - 1]
    assert last.info["converged"]
    assert not frames[second - 2].info["converged"]
    assert np.linalg.norm(last.get_forces(), axis=1).max() < 0.02
    assert last.cell.lengths()[2] == pytest.approx(frames[0].cell.lengths()[2])


@pytest.mark.usefixtures("in_process")
def test_a_relaxation_that_was_broken_off_goes_on() -> None:
    """What was computed is not computed again, and the way is the same."""
    ase.io.write("in.extxyz", slabs(("Ni",)))
    Path("steps.yaml").write_text("calculator: naughty:Naughty\n")
    arguments = ("in.extxyz", "--with", "steps.yaml", "--steps", 12, "--fmax", 1e-5, "-o")
    assert label(*arguments, "whole.extxyz") == 0
    lines = Path("whole.progress/journal.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree("whole.progress", "torn.progress")
    Path("torn.progress/journal.jsonl").write_text("".join(lines[:5]))
    Path("calls").write_text("")
    assert label(*arguments, "torn.extxyz") == 0
    assert len(calls()) == len(lines) - 1 - 5
    frames = [ase.io.read(f"{name}.extxyz", ":") for name in ("whole", "torn")]
    for one, two in zip(*frames, strict=True):
        assert one.positions == pytest.approx(two.positions, abs=1e-7)
        assert one.info["step"] == two.info["step"]


@pytest.mark.usefixtures("in_process")
def test_other_settings_and_other_outputs_are_refused(capsys) -> None:
    assert label("in.extxyz", "-o", "out.extxyz", "--with", "emt.yaml") == 0
    Path("asap.yaml").write_text(
        "calculator: ase.calculators.emt:EMT\nlevel: EMT\nparameters: {asap_cutoff: true}\n"
    )
    before = Path("out.extxyz").read_bytes()
    assert label("in.extxyz", "-o", "out.extxyz", "--with", "asap.yaml") == 2
    assert "parameters.asap_cutoff: None -> True" in capsys.readouterr().err
    assert Path("out.extxyz").read_bytes() == before
    assert label("in.extxyz", "-o", "out.extxyz", "--with", "asap.yaml", "--restart") == 0
    assert Path("out.extxyz").read_bytes() != before
    assert len(list(Path("out.progress").glob("journal*.jsonl"))) == 2  # labels are dear
    Path("out.extxyz").write_text("mine")
    assert label("in.extxyz", "-o", "out.extxyz", "--with", "asap.yaml") == 2
    Path("other.extxyz").write_text("mine")
    assert label("in.extxyz", "-o", "other.extxyz", "--with", "emt.yaml") == 2
    assert "belongs to no run" in capsys.readouterr().err
    assert Path("other.extxyz").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("calculator: gpow", "Did you mean 'gpaw'?"),
        ("calculatr: gpaw", "Did you mean 'calculator'?"),
        ("level: PBE", "calculator: is missing"),
        ("calculator: gpaw\nparameters: {cutof: 300}", "Did you mean 'cutoff'?"),
        ("calculator: gpaw\nparameters: {cutoff: -3}", "parameters.cutoff"),
        ("calculator: gpaw\nparameters: {cutoffs: {Xx: 600}}", "'Xx' is no element"),
        ("calculator: nowhere:Calculator", "nowhere cannot be imported"),
        ("calculator: ase.calculators.emt:EMTT", "Did you mean 'EMT'?"),
        ("just words", "a list of 'key: value' lines"),
    ],
)
def test_descriptions_that_cannot_be_used(text, said, capsys) -> None:
    Path("bad.yaml").write_text(text)
    assert label("in.extxyz", "-o", "out.extxyz", "--with", "bad.yaml") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not Path("out.extxyz").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--with", "nothing.yaml", "-o", "out.h5"), "cannot be read"),
        (("--with", "vasp", "-o", "out.h5"), "calculator: vasp"),
        (("--with", "what", "-o", "out.h5"), "give gpaw, a YAML file"),
        (("--with", "emt.yaml", "-o", "out.txt"), "must end in one of"),
        (("--with", "emt.yaml", "-o", "no/out.h5"), "no folder no"),
        (("--with", "universal", "-o", "out.h5", "--steps", 2), "mlff2d relax"),
    ],
)
def test_commands_that_cannot_be_done(arguments, said, capsys) -> None:
    assert label("in.extxyz", *arguments) == 2
    assert said in capsys.readouterr().err


def test_gpaw_that_is_missing(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "gpaw", None)
    assert label("in.extxyz", "-o", "out.h5", "--with", "gpaw") == 2
    error = capsys.readouterr().err
    for word in ("pip install gpaw gpaw-data", "libxc-dev", "libopenblas-dev", "libfftw3-dev"):
        assert word in error


def test_another_process_is_waited_for(capsys) -> None:
    from mlff2d.training.lock import locked

    with locked(Path("out.progress")):
        assert label("in.extxyz", "-o", "out.extxyz", "--with", "emt.yaml") == 2
    assert "in use by process" in capsys.readouterr().err


def test_time_left_is_told_by_size() -> None:
    now = [0.0]
    shown = progress.LabelProgress({"a": 3, "b": 6, "c": 12}, 3, clock=lambda: now[0])
    assert shown.left(0.0) == ""
    now[0] = 90.0
    shown.update("a", "done", "")
    # 9 of 9 + 36 + 144 are done.
    assert shown.left(90.0) == "about 30 min left"
    shown.update("b", "failed", "a reason")
    assert shown.left(450.0) == "about 24 min left"
