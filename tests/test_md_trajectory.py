"""Files of frames, the log, and that both can be cut back to where a run goes on."""

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.md.dynamics.log import COLUMNS, LogFile, LogRow, read_log
from mlff2d.md.dynamics.trajectory import (
    BEGINNING,
    SUFFIXES,
    FrameFile,
    check_suffix,
    write_frames,
)
from tests.structures import mos2


def frame(step: int):
    atoms = mos2(seed=step)
    rng = np.random.default_rng(step)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)))
    forces = rng.normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-step, forces=forces, stress=np.arange(6.0))
    atoms.info = {"step": step, "time_fs": 0.5 * step, "stress_2d": np.arange(3.0)}
    return atoms


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0, 1, 2, 41, 42, 43])
def test_frames_written_again_behind_a_cut_are_the_same_bytes(tmp_path, suffix, kept) -> None:
    """Of .traj the table of frames grows at 1 and 42."""
    whole, cut = FrameFile(tmp_path / f"whole{suffix}"), FrameFile(tmp_path / f"cut{suffix}")
    total = 45
    place = cut.place()
    for step in range(total):
        if step == kept:
            place = cut.place()
        whole.add(frame(step))
        cut.add(frame(step))
    with cut.path.open("ab") as file:
        file.write(b"half a fra")
    cut.cut(place)
    if kept:
        frames = ase.io.read(cut.path, ":")
        assert [a.info["step"] for a in frames] == list(range(kept)), "readable as it is"
    else:
        assert place == BEGINNING
        assert not cut.path.exists()
    for step in range(kept, total):
        cut.add(frame(step))
    assert cut.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
def test_a_frame_keeps_all_that_it_has(tmp_path, suffix) -> None:
    file, atoms = FrameFile(tmp_path / f"a{suffix}"), frame(3)
    file.add(atoms)
    read = ase.io.read(file.path)
    for ours, theirs in (
        (read.positions, atoms.positions),
        (read.get_momenta(), atoms.get_momenta()),
        (read.get_forces(), atoms.get_forces()),
        (read.get_stress(), atoms.get_stress()),
        (read.get_potential_energy(), -3.0),
        (read.info["stress_2d"], np.arange(3.0)),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)
    assert (read.info["step"], read.info["time_fs"]) == (3, 1.5)
    assert read.pbc.tolist() == [True, True, False]


def test_a_file_that_is_too_short_is_not_gone_on_with(tmp_path) -> None:
    file = FrameFile(tmp_path / "a.extxyz")
    file.add(frame(0))
    place = file.place()
    file.path.write_bytes(file.path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"a\.extxyz is shorter.*--restart"):
        file.cut(place)
    log = LogFile(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"a\.csv is shorter.*--restart"):
        log.cut(10)


def test_the_name_says_the_format(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"end in \.extxyz, \.xyz or \.traj"):
        check_suffix(tmp_path / "a.trj")
    write_frames(tmp_path / "last.extxyz", [frame(0), frame(1)])
    assert [p.name for p in tmp_path.iterdir()] == ["last.extxyz"]


def row(replica: int, step: int) -> LogRow:
    numbers = {name: 1 / 3 for name in COLUMNS[3:]}
    return LogRow(replica=replica, structure=replica // 2, step=step, **numbers)


def test_the_log_grows_and_is_cut(tmp_path) -> None:
    log = LogFile(tmp_path / "log.csv")
    log.add([row(0, -1), row(1, -1)])
    size = log.size()
    log.add([row(0, 0)])
    before = log.path.read_bytes()
    with log.path.open("a") as file:
        file.write("0,0,1,0.")  # a process that was killed
    columns = read_log(log.path)
    assert tuple(columns) == COLUMNS
    assert columns["step"].tolist() == [-1, -1, 0]
    assert columns["step"].dtype == np.int64
    assert columns["thickness"] == pytest.approx(1 / 3, abs=1e-8)
    log.cut(size)
    log.add([row(0, 0)])
    assert log.path.read_bytes() == before
    log.path.write_text("index,formula\n")
    with pytest.raises(ValueError, match=r"log\.csv is not the log"):
        read_log(log.path)


def test_a_log_without_lines_has_its_columns(tmp_path) -> None:
    log = LogFile(tmp_path / "log.csv")
    log.add([])
    assert all(len(column) == 0 for column in read_log(log.path).values())
