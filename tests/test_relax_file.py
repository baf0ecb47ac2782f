"""Relaxing a file: a row for everything, and a run killed at any byte goes on as if it had not."""

import csv
import os
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
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlff2d.errors import StructureError
from mlff2d.md.screen.output import OutputFiles
from mlff2d.md.screen.relax_file import COLUMNS, RelaxSettings, relax_file
from tests.standins import Morse

QUICK = RelaxSettings(steps=4)


def sheet(scale: float = 1.0) -> Atoms:
    atoms = fcc111("Cu", (1, 1, 1), a=3.6 * scale, vacuum=6.0)
    atoms.info = {"material": f"sheet {scale}"}
    return atoms


def broken_structures(path: Path) -> list[tuple[str, str]]:
    """Write a file of good and broken frames; returns status and a word of the reason of each."""
    bulk = Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True)
    molecule = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], cell=[9, 9, 9])
    chain = Atoms("Cu", cell=[2.5, 9, 9], pbc=[True, False, False])
    unknown = sheet()
    unknown.symbols[0] = "X"
    twins = sheet() + sheet()
    flat = sheet()
    flat.set_cell([flat.cell[0], flat.cell[0], flat.cell[2]])
    no_cell = Atoms("Cu", pbc=[True, True, False])
    nan, infinite = sheet(), sheet()
    nan.positions[0, 0] = np.nan
    infinite.cell[0, 0] = np.inf
    good = [("max-steps", "4 steps")]
    frames: list[tuple[Atoms | str, tuple[str, str]]] = [
        (sheet(), *good),
        (bulk, ("failed", "vacuum")),
        (molecule, ("failed", "molecule")),
        (chain, ("failed", "chain")),
        (unknown, ("failed", "no element")),
        (twins, ("failed", "apart")),
        (flat, ("failed", "dependent")),
        (no_cell, ("failed", "zero")),
        (nan, ("failed", "NaN")),
        (infinite, ("failed", "NaN")),
        ("2\nProperties=species:S:1:pos:R:3\nCu 0 0 0\nCu 0 0\n", ("failed", "frame 10")),
        ("1\nProperties=species:S:1:pos:R:3\nCu a b c\n", ("failed", "frame 11")),
        ("1\nLattice=1\nXq 0 0 0\n", ("failed", "frame 12")),
        (sheet(1.02), *good),
    ]
    for frame, _ in frames:
        with path.open("a") as file:
            if isinstance(frame, str):
                file.write(frame)
            else:
                ase.io.write(file, frame, format="extxyz")
    return [expected for _, expected in frames]


def run(source: Path, frames: Path, calculator=None, **kwargs) -> list[dict[str, str]]:
    calculator = calculator or Refusing()
    return relax_file(source, frames, calculator, QUICK, model="morse", **kwargs)


class Refusing(Morse):
    """Refuses twins as our calculator does."""

    def calculate(self, atoms=None, *args) -> None:
        distances = atoms.get_all_distances()
        if len(atoms) > 1 and distances[np.triu_indices(len(atoms), 1)].min() < 0.4:
            raise StructureError("two atoms are 0.000 Å apart")
        super().calculate(atoms, *args)


def test_a_row_for_everything(tmp_path) -> None:
    source, frames = tmp_path / "in.extxyz", tmp_path / "out.extxyz"
    expected = broken_structures(source)
    rows = run(source, frames)
    with (tmp_path / "out.csv").open() as file:
        assert list(csv.DictReader(file)) == rows
    assert [int(row["index"]) for row in rows] == list(range(len(expected)))
    for row, (status, word) in zip(rows, expected, strict=True):
        assert row["status"] == status
        assert word in row["reason"], row
        if status == "failed":
            assert str(source) in row["reason"], "the sentence names the file"
            assert f"frame {row['index']}" in row["reason"]
            assert row["energy_per_atom"] == ""
        else:
            assert np.isfinite(float(row["energy_per_atom"]))
    relaxed = ase.io.read(frames, ":")
    assert [a.info["relax_index"] for a in relaxed] == [0, 13]
    assert [a.info["material"] for a in relaxed] == ["sheet 1.0", "sheet 1.02"]


def test_frames_agree_with_the_table(tmp_path) -> None:
    source, frames = tmp_path / "in.extxyz", tmp_path / "out.extxyz"
    atoms = sheet(1.05)
    atoms.info |= {"energy": 5.0, "odd key": {"nested": [1, "two"]}, "note": 'a "quoted" = line'}
    atoms.arrays["forces"] = np.ones((1, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=np.zeros((1, 3)))
    ase.io.write(tmp_path / "in.traj", atoms)
    ase.io.write(source, sheet(1.05))
    for name in ("in.traj", "in.extxyz"):
        rows = relax_file(
            tmp_path / name, frames, Morse(), RelaxSettings(), model="m", restart=True
        )
        assert rows[0]["status"] == "converged"
        relaxed = ase.io.read(frames)
        assert relaxed.get_potential_energy() == pytest.approx(float(rows[0]["energy_per_atom"]))
        area = np.linalg.norm(np.cross(*relaxed.cell.array[:2]))
        assert area == pytest.approx(float(rows[0]["area_after"]), abs=1e-5)
        assert relaxed.info["relax_status"] == "converged"
        xx = float(rows[0]["stress_xx"])
        assert relaxed.info["relax_stress_2d"][0] == pytest.approx(xx, abs=1e-6)
        assert rows[0]["lattice_changed"] == "False"
        assert relaxed.info.get("note", atoms.info["note"]) == atoms.info["note"]


class Killed(BaseException):
    """Stands in for a kill: nothing in the program may catch it."""


class Dying(Morse):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def calculate(self, *args, **kwargs) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise Killed
        super().calculate(*args, **kwargs)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """A folder with an input of 6 structures, and what one run makes of it."""
    folder = tmp_path_factory.mktemp("run")
    for k in range(6):
        atoms = sheet(1 + 0.01 * k)
        if k == 3:
            atoms.pbc = False
        ase.io.write(folder / "in.extxyz", atoms, append=True)
    run(folder / "in.extxyz", folder / "out.extxyz")
    return folder


NAMES = ("out.extxyz", "out.csv", "out.progress.jsonl")


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    calls=st.integers(0, 30),
    cuts=st.fixed_dictionaries({name: st.none() | st.floats(0, 1) for name in NAMES}),
    again=st.booleans(),
)
def test_killed_at_any_byte(uninterrupted, tmp_path_factory, calls, cuts, again) -> None:
    """Killed in any structure, with any of its files cut off anywhere, once or twice."""
    folder = tmp_path_factory.mktemp("killed")
    source = uninterrupted / "in.extxyz"
    for _ in range(1 + again):
        try:
            run(source, folder / "out.extxyz", Dying(calls))
        except Killed:
            for name, cut in cuts.items():
                path = folder / name
                if cut is not None:
                    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    run(source, folder / "out.extxyz")
    for name in NAMES:
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def test_what_is_finished_is_not_done_again(uninterrupted, tmp_path) -> None:
    source = uninterrupted / "in.extxyz"
    with pytest.raises(Killed):
        run(source, tmp_path / "out.extxyz", Dying(12))
    seen = []
    run(source, tmp_path / "out.extxyz", progress=lambda row, done, total: seen.append((row, done)))
    assert seen[0] == (None, 2)
    assert [row.index for row, _ in seen[1:]] == [2, 3, 4, 5]
    run(source, tmp_path / "out.extxyz", Dying(0))


def test_changed_input_or_settings_are_refused(uninterrupted, tmp_path) -> None:
    source, frames = tmp_path / "in.extxyz", tmp_path / "out.extxyz"
    source.write_bytes((uninterrupted / "in.extxyz").read_bytes())
    with pytest.raises(Killed):
        run(source, frames, Dying(12))
    before = {name: (tmp_path / name).read_bytes() for name in NAMES}
    with pytest.raises(ValueError, match=r"begun with fmax 0\.02, now 0\.5.*--restart"):
        relax_file(source, frames, Morse(), RelaxSettings(fmax=0.5, steps=4), model="morse")
    with pytest.raises(ValueError, match="begun with another model"):
        relax_file(source, frames, Morse(), QUICK, model="other")
    with source.open("a") as file:
        ase.io.write(file, sheet(), format="extxyz")
    with pytest.raises(ValueError, match="begun with another input file"):
        run(source, frames)
    assert before == {name: (tmp_path / name).read_bytes() for name in NAMES}
    assert len(run(source, frames, restart=True)) == 7
    assert len(ase.io.read(frames, ":")) == 6


def test_foreign_files_are_not_written_over(uninterrupted, tmp_path) -> None:
    source = uninterrupted / "in.extxyz"
    for name in ("out.extxyz", "out.csv"):
        path = tmp_path / name
        path.write_text("precious")
        with pytest.raises(ValueError, match=rf"{name} exists.*--restart"):
            run(source, tmp_path / "out.extxyz")
        assert path.read_text() == "precious"
        path.unlink()
    (tmp_path / "out.progress.jsonl").write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"progress\.jsonl is no journal"):
        run(source, tmp_path / "out.extxyz")
    with pytest.raises(ValueError, match="is the input"):
        run(source, source, restart=True)
    with pytest.raises(ValueError, match=r"ends in \.extxyz"):
        run(source, tmp_path / "out.traj")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        run(source, tmp_path / "nowhere" / "out.extxyz")
    for content, word in (("", "empty"), ("hello", "odd.dat")):
        (tmp_path / "odd.dat").write_text(content)
        with pytest.raises(StructureError, match=word):
            run(tmp_path / "odd.dat", tmp_path / "odd.extxyz")
    assert not (tmp_path / "odd.csv").exists()


def test_one_writer_at_a_time(tmp_path) -> None:
    frames = tmp_path / "out.extxyz"
    with (
        OutputFiles(frames, COLUMNS, {}),
        pytest.raises(ValueError, match="another run is writing"),
        OutputFiles(frames, COLUMNS, {}),
    ):
        pass


PROGRAM = """
import sys, time
from pathlib import Path
from tests.standins import Morse
from mlff2d.md.screen.relax_file import RelaxSettings, relax_file

class Slow(Morse):
    def calculate(self, *args, **kwargs):
        time.sleep(0.005)
        super().calculate(*args, **kwargs)

relax_file(Path(sys.argv[1]), Path(sys.argv[2]), Slow(), RelaxSettings(steps=4), model="morse")
"""


@pytest.mark.slow
def test_kill_9(uninterrupted, tmp_path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(uninterrupted / "in.extxyz"), "out.extxyz"]
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    kills = 0
    for wanted in (1, 4):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment)
        table = tmp_path / "out.csv"
        while process.poll() is None:
            if table.exists() and table.read_bytes().count(b"\n") > wanted:
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
            time.sleep(0.001)
    assert kills == 2, "the runs were killed on the way"
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def test_what_an_earlier_relaxation_or_a_database_left_does_no_harm(tmp_path) -> None:
    atoms = sheet()
    atoms.info |= {
        "relax_reason": "not converged after 2 steps",
        "note": "two\nlines",
        "empty": "",
        "kept": "as it is",
    }
    ase.io.write(tmp_path / "in.traj", [atoms, atoms])
    relax_file(tmp_path / "in.traj", tmp_path / "out.extxyz", Morse(), RelaxSettings(), model="m")
    frames = ase.io.read(tmp_path / "out.extxyz", ":")
    assert len(frames) == 2
    for frame in frames:
        assert frame.info["relax_status"] == "converged"
        assert "relax_reason" not in frame.info
        assert (frame.info["note"], frame.info["kept"]) == ("two lines", "as it is")
        assert frame.pbc.tolist() == atoms.pbc.tolist()


@pytest.mark.parametrize("name", [".", "out", "no/such/folder/out.extxyz"])
def test_a_useless_output_is_refused_before_any_work(name, tmp_path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=r"ends in \.extxyz|does not exist"):
        relax_file(tmp_path / "not read", Path(name), Morse(), QUICK, model="m")
