"""Faults of calculators that must not become labels, and what they leave behind."""

import csv
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111

from mlff2d import cli
from mlff2d.errors import StructureError
from mlff2d.training.labelling.frames import pack
from mlff2d.training.labelling.journal import DONE, FAILED, STEP, Journal
from mlff2d.training.labelling.pool import Pool
from mlff2d.training.labelling.settings import LabelSettings
from mlff2d.training.labelling.worker import Order, Task

FAULTY = """
import errno, os, subprocess
from ase.calculators.emt import EMT

class Plain(EMT):
    implemented_properties = ["energy", "forces"]

    def calculate(self, *arguments, **named):
        super().calculate(*arguments, **named)
        self.results = {key: self.results[key] for key in self.implemented_properties}

class Short(EMT):
    def calculate(self, *arguments, **named):
        super().calculate(*arguments, **named)
        self.results["forces"] = self.results["forces"][:1]

class Half(EMT):
    def calculate(self, *arguments, **named):
        super().calculate(*arguments, **named)
        self.results["energy"] = float("nan")  # the free energy is a number

class Full(EMT):
    def calculate(self, *arguments, **named):
        if not os.path.exists("room"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file of mine")
        super().calculate(*arguments, **named)

class Raising(EMT):
    def calculate(self, *arguments, **named):
        raise RuntimeError("it did not like it")

class Program(EMT):
    def calculate(self, *arguments, **named):
        program = subprocess.Popen(["sleep", "60"])
        with open("pid.tmp", "w") as file:
            file.write(str(program.pid))
        os.rename("pid.tmp", "pid")
        program.wait()
"""


def slab() -> Atoms:
    atoms = fcc111("Cu", (1, 1, 2), vacuum=6.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, in_process) -> Path:
    """The current folder, with one structure and calculators that have faults."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "faulty.py").write_text(FAULTY)
    ase.io.write("in.extxyz", slab())
    return tmp_path


def label(name: str, *arguments: str) -> int:
    Path("it.yaml").write_text(f"calculator: faulty:{name}\n")
    return cli.main(["label", "in.extxyz", "--with", "it.yaml", *arguments])


def reason() -> str:
    with Path("out.progress/failed.csv").open(newline="") as file:
        return " ".join(row["reason"] for row in csv.DictReader(file))


def test_a_calculator_without_a_free_energy() -> None:
    """Its energy is the one that the forces belong to."""
    assert label("Plain", "-o", "out.extxyz") == 0
    frame = ase.io.read("out.extxyz")
    assert frame.get_potential_energy() == pytest.approx(0.77, abs=0.3)
    assert "energy_sigma0" not in frame.info
    assert "stress" not in frame.calc.results


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("Short", (), "forces of the shape (1, 3) for 2 atoms"),
        ("Half", (), "NaN or infinity"),
        ("Plain", ("--steps", "3"), "the calculator gives no stress"),
    ],
)
def test_what_is_no_label_is_a_failure(name, more, said) -> None:
    assert label(name, "-o", "out.extxyz", *more) == 0
    assert said in reason()
    if not more:
        assert not Path("out.extxyz").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_that_is_packed_is_nan(bad) -> None:
    atoms, forces, stress = slab(), np.zeros((2, 3)), np.zeros((3, 3))
    pack(atoms, 1.0, forces, None, {"magmom": 2.0, "kpts": "9x9x1"})
    for labels in (
        (bad, forces, stress, {}),
        (1.0, forces + bad, stress, {}),
        (1.0, forces, stress + bad, {}),
        (1.0, forces, stress, {"magmom": bad}),
    ):
        with pytest.raises(StructureError, match="NaN or infinity"):
            pack(atoms, *labels)


def test_a_full_disk_is_no_fault_of_the_structure(capsys) -> None:
    assert label("Full", "-o", "out.extxyz") == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "run the same command again" in said
    Path("room").touch()
    assert label("Full", "-o", "out.extxyz") == 0
    assert len(ase.io.read("out.extxyz", ":")) == 1


@pytest.mark.parametrize(
    ("name", "said"), [("Raising", "RuntimeError: it did not like it"), ("Plain", "stress")]
)
def test_a_check_of_a_calculator_that_fails(name, said, capsys) -> None:
    assert label(name, "--check") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("how", ["timeout", "parent gone"])
def test_programs_of_a_calculator_end_with_it(how, folder) -> None:
    """A calculation that goes on unseen would write into the files of the next one."""
    order = Order(LabelSettings(calculator="faulty:Program"), folder)
    timeout = 2.0 if how == "timeout" else None
    with Pool(order, 1, 1, timeout) as pool:
        for event in pool.run(iter([Task("k", slab())])):
            if event is not None:
                assert event[1] == FAILED
            elif timeout is None and Path("pid").exists():
                pool._workers[0].process.stdin.close()  # as it is when this process is killed
                timeout = 0.0
    program = Path("/proc") / Path("pid").read_text()
    end = time.monotonic() + 10
    while program.exists() and "Z" not in (program / "stat").read_text().split()[2]:
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.05)


def test_steps_of_a_way_that_was_left_are_no_frames(tmp_path) -> None:
    """A relaxation that is done again may go another way, and be shorter."""

    def frame(energy: float) -> dict[str, object]:
        return pack(slab(), energy, np.zeros((2, 3)), None, {})

    with Journal(tmp_path / "journal.jsonl") as journal:
        for step in range(5):
            journal.add("k", STEP, frame=frame(step), step=step)
        for step in (2, 3):
            journal.add("k", STEP, frame=frame(10 + step), step=step)
        journal.add("k", DONE)
    with Journal(tmp_path / "journal.jsonl") as journal:
        energies = [found["energy"] for found in journal.frames("k")]
    assert energies == [0, 1, 12, 13]
