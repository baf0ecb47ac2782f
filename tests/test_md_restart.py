"""A run that is stopped at any moment, in any way, ends in the same bytes as one that is not."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlff2d.md.dynamics import engine, restart
from mlff2d.md.dynamics.log import LogFile
from mlff2d.md.dynamics.result import FAILED, FINISHED, INTERRUPTED, STOPPED
from mlff2d.md.dynamics.trajectory import FrameFile
from mlff2d.md.evaluator import Evaluator
from tests.md_morse import SETTINGS, move

ROOT = Path(__file__).resolve().parent.parent
SHORT = replace(SETTINGS, steps=30)


class Killed(Exception):
    """Stands in for the end of a process."""


def files(folder: Path) -> dict[str, bytes]:
    """All that a run leaves but its state, which holds places of a zip file."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".state"}


def equal(ours: object, theirs: object) -> bool:
    """To the bit, NaN included, through dicts and lists."""
    if isinstance(ours, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return same and ours.numpy().tobytes() == theirs.numpy().tobytes()
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return bool(ours == theirs)


def assert_same(ours: Path, theirs: Path) -> None:
    left, right = files(ours), files(theirs)
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []
    states = [torch.load(f / "md.state", weights_only=True) for f in (ours, theirs)]
    assert equal(*states)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that are killed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[".extxyz", ".traj"])
def whole(request, tmp_path_factory) -> tuple[Path, str]:
    """An uninterrupted run of 30 steps, and the format of its frames."""
    folder = tmp_path_factory.mktemp("whole")
    result = move(folder, request.param, SHORT)
    statuses = [replica.status for replica in result.replicas]
    assert statuses == [FINISHED, FINISHED, FAILED, FAILED, STOPPED, STOPPED], "a rich case"
    assert 0 < result.replicas[4].steps < 30
    return folder, request.param


def test_twice_the_same(whole, tmp_path) -> None:
    move(tmp_path, whole[1], SHORT)
    assert_same(tmp_path, whole[0])
    assert np.isnan(move(tmp_path, whole[1], SHORT).ns_per_day), "nothing is left to do"
    assert_same(tmp_path, whole[0])


def test_killed_while_writing(whole, tmp_path, monkeypatch) -> None:
    """At every tenth call that writes something, half of it written, again and again."""
    calls = [0]

    def dying(write, half):
        def maybe(*args, **kwargs):
            calls[0] += 1
            if calls[0] == 10:
                calls[0] = 0
                half(*args)
                raise Killed
            return write(*args, **kwargs)

        return maybe

    def half_frame(self, atoms):
        with self.path.open("ab") as file:
            file.write(b"17\nLattice=")

    def half_line(self, rows):
        with self.path.open("ab") as file:
            file.write(b"0,1,")

    def half_state(snapshot, path):
        path.with_name(path.name + ".tmp").write_bytes(b"PK")

    def half_last(path, frames):
        path.with_name(path.name + ".tmp").write_bytes(b"1")

    deaths = 0
    with monkeypatch.context() as patch:
        patch.setattr(FrameFile, "add", dying(FrameFile.add, half_frame))
        patch.setattr(LogFile, "add", dying(LogFile.add, half_line))
        patch.setattr(restart, "save", dying(restart.save, half_state))
        patch.setattr(engine, "write_frames", dying(engine.write_frames, half_last))
        while True:
            try:
                move(tmp_path, whole[1], SHORT, save_minutes=0.0)
                break
            except Killed:
                deaths += 1
    assert deaths > 5
    assert_same(tmp_path, whole[0])


@pytest.mark.parametrize("whole", [".traj"], indirect=True)
def test_killed_nine(whole, tmp_path) -> None:
    """Processes of their own, killed at moments drawn at random."""
    rng = random.Random(whole[1])
    command = [sys.executable, "-m", "tests.md_morse", str(tmp_path), whole[1], "30"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = 0
    for _ in range(2):
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        state = tmp_path / "md.state"
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None:
            time.sleep(0.01)
            if state.exists() and state.stat().st_mtime_ns != before:
                break  # it has begun to move
        time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert_same(tmp_path, whole[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_keeps_the_last_frames(whole, tmp_path, number) -> None:
    def progress(done: int, total: int, moving: int) -> None:
        if done == 20:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = move(tmp_path, whole[1], SHORT, progress=progress)
    assert signal.getsignal(number) is before
    assert result.signal == number
    assert [r.status for r in result.replicas][:2] == [INTERRUPTED] * 2
    assert (tmp_path / "md-0-last.extxyz").exists()
    result = move(tmp_path, whole[1], SHORT)
    assert result.signal is None
    assert_same(tmp_path, whole[0])


def test_more_steps_lengthen_a_run(whole, tmp_path) -> None:
    for steps in (7, 16, 30):
        move(tmp_path, whole[1], replace(SETTINGS, steps=steps))
    assert_same(tmp_path, whole[0])
    with pytest.raises(ValueError, match=r"steps 30 \(now 16\)"):
        move(tmp_path, whole[1], replace(SETTINGS, steps=16))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timestep": 2.0}, r"timestep 3\.0 \(now 2\.0\)"),
        ({"ensemble": "nve", "seed": 3}, r"ensemble 'langevin' \(now 'nve'\); seed 0"),
        ({"unguarded": ("layer",)}, "unguarded"),
    ],
)
def test_other_settings_are_refused(whole, tmp_path, change, words) -> None:
    move(tmp_path, whole[1], replace(SETTINGS, steps=3))
    before = files(tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        move(tmp_path, whole[1], replace(SETTINGS, steps=3, **change))
    assert "--restart" in str(error.value)
    assert files(tmp_path) == before, "untouched"
    move(tmp_path, whole[1], replace(SETTINGS, steps=3, **change), anew=True)


def test_another_format_of_frames_is_another_run(tmp_path) -> None:
    """Log and state would be in the same files."""
    move(tmp_path, ".traj", replace(SETTINGS, steps=3))
    with pytest.raises(ValueError, match=r"frames '\.traj' \(now '\.extxyz'\)"):
        move(tmp_path, ".extxyz", replace(SETTINGS, steps=3))


def test_a_ramp_cannot_be_lengthened(tmp_path) -> None:
    ramp = replace(SETTINGS, steps=3, temperature_end=500.0)
    move(tmp_path, ".extxyz", ramp)
    with pytest.raises(ValueError, match=r"steps 3 \(now 6\)"):
        move(tmp_path, ".extxyz", replace(ramp, steps=6))


def test_begun_anew_over_a_longer_run(whole, tmp_path) -> None:
    move(tmp_path, whole[1], replace(SHORT, seed=1, replicas=3))
    move(tmp_path, whole[1], SHORT, anew=True)
    assert_same(tmp_path, whole[0])


def test_files_of_others_are_not_touched(tmp_path) -> None:
    settings = replace(SETTINGS, steps=3)
    (tmp_path / "md.csv").write_text("mine\n")
    with pytest.raises(ValueError, match=r"md\.csv exists and belongs to no run"):
        move(tmp_path, ".extxyz", settings)
    assert (tmp_path / "md.csv").read_text() == "mine\n"
    (tmp_path / "md.csv").unlink()
    (tmp_path / "md-0.extxyz").write_text("mine\n")
    with pytest.raises(ValueError, match=r"md-0\.extxyz exists and belongs to no run"):
        move(tmp_path, ".extxyz", settings)
    (tmp_path / "md-0.extxyz").unlink()
    for name in ("md.png", "md-summary.csv"):
        (tmp_path / name).write_text("mine\n")
        with pytest.raises(ValueError, match=rf"{name} exists and belongs to no run"):
            move(tmp_path, ".extxyz", settings)
        (tmp_path / name).unlink()
    (tmp_path / "md.state").write_text("mine\n")
    with pytest.raises(ValueError, match=r"md\.state is not the state of a run"):
        move(tmp_path, ".extxyz", settings)
    move(tmp_path, ".extxyz", settings, anew=True)


def test_parts_of_a_large_structure_stay_as_they_were(tmp_path, monkeypatch) -> None:
    """Sums over other parts would round otherwise."""
    made = []

    class Parting(Evaluator):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

        def __call__(self, slabs):
            if len(made) == 1:
                self.part_edges = 4321  # as found by the first process
            return super().__call__(slabs)

    monkeypatch.setattr(engine, "Evaluator", Parting)
    for steps in (3, 6, 9):
        move(tmp_path, ".extxyz", replace(SETTINGS, steps=steps))
    assert [evaluator.part_edges for evaluator in made] == [4321] * 3


def test_one_process_at_a_time(tmp_path) -> None:
    def progress(done: int, total: int, moving: int) -> None:
        with pytest.raises(ValueError, match="another run is writing to"):
            move(tmp_path, ".extxyz", SHORT)

    move(tmp_path, ".extxyz", replace(SETTINGS, steps=1), progress=progress)
    with pytest.raises(FileNotFoundError, match="make it first"):
        move(tmp_path / "nowhere", ".extxyz", SHORT)
