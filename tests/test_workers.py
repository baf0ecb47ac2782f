"""Processes that make batches: the same bits, and an end in order whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest
import torch

from mlff2d.models import REGISTRY
from mlff2d.training.data.batches import iter_batches
from mlff2d.training.data.convert import convert
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.record import Keys
from mlff2d.training.data.workers import WorkerError
from mlff2d.training.loop import train
from tests.training_helpers import (
    PairNet,
    assert_equal,
    contents,
    monolayers,
    small_config,
    write_monolayers,
)

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
BATCHES = [[5, 1, 30], [0], [9, 9, 2], list(range(36)), [35], [4, 3], [7, 8], [12, 20]]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    ase.io.write(folder / "f.traj", monolayers(1))
    convert([folder / "f.traj"], folder / "f.h5", Keys())
    return folder / "f.h5"


@pytest.fixture(scope="module")
def with_workers(path):
    data = Dataset(path, 4.0, workers=2)
    yield data
    data.workers.close()


def assert_same_bits(ours, theirs) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for name, value in vars(b).items():
            assert torch.equal(getattr(a, name), value), name
            assert getattr(a, name).dtype == value.dtype


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_are_the_same_to_the_bit(path, with_workers, in_memory):
    without = Dataset(path, 4.0, in_memory=in_memory)
    expected = list(iter_batches(without, BATCHES, torch.float32, CPU))
    for _ in range(2):  # the processes serve again
        found = list(iter_batches(with_workers, BATCHES, torch.float32, CPU))
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_bits(ours, theirs)
    assert list(iter_batches(with_workers, [], torch.float32, CPU)) == []


def test_energies_that_were_shifted_arrive(path):
    with_, without = Dataset(path, 4.0, workers=1), Dataset(path, 4.0)
    for data in (with_, without):
        data.shift_energies([0], {29: 0.5, 78: -1.0})
    expected = list(iter_batches(without, BATCHES, torch.float64, CPU))
    for ours, theirs in zip(
        iter_batches(with_, BATCHES, torch.float64, CPU), expected, strict=True
    ):
        assert_same_bits(ours, theirs)
    with_.workers.close()


def test_edges_are_counted_by_them_too(path, monkeypatch, with_workers):
    expected = Dataset(path, 4.0).n_edges.tolist()
    found = [
        n
        for counts, _ in with_workers.workers.count_edges([[0, 1], [2, 3, 4], [5]])
        for n in counts
    ]
    assert found == expected[:6]


def test_errors_get_through_and_the_processes_go_on(with_workers):
    with pytest.raises(IndexError):
        list(iter_batches(with_workers, [[0], [99], [1]], torch.float64, CPU))
    (first,) = iter_batches(with_workers, [[3]], torch.float64, CPU)
    assert_same_bits(first, with_workers.batch([3], torch.float64))


def test_stopping_early_leaves_nothing_behind(with_workers):
    loader = iter_batches(with_workers, BATCHES, torch.float64, CPU)
    next(loader)
    loader.close()
    (first,) = iter_batches(with_workers, [[3]], torch.float64, CPU)
    assert_same_bits(first, with_workers.batch([3], torch.float64))


def test_a_process_that_dies_is_one_sentence(path):
    data = Dataset(path, 4.0, workers=2)
    loader = iter_batches(data, BATCHES * 5, torch.float32, CPU)
    next(loader)
    os.kill(next(iter(data.workers.pids())), signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"has died.*data\.workers") as error:
        list(loader)
    assert "\n" not in str(error.value)
    again = list(iter_batches(data, BATCHES, torch.float32, CPU))
    assert len(again) == len(BATCHES), "new processes serve the next epoch"
    data.workers.close()


def test_training_is_the_same_whoever_makes_its_batches(tmp_path, monkeypatch):
    monkeypatch.setitem(REGISTRY, "pairnet", PairNet)
    source = write_monolayers(tmp_path / "data.traj")
    found = []
    for workers, in_memory in ((0, True), (0, False), (2, None)):
        config = small_config(tmp_path / f"run-{workers}-{in_memory}", source, epochs=2)
        settings = {"workers": workers, "in_memory": in_memory}
        config = config.model_copy(update={"data": config.data.model_copy(update=settings)})
        train(config)
        found.append(contents(config.run_dir))
    for other in found[1:]:
        assert_equal(other, found[0])


PROGRAM = """
import sys, time
from pathlib import Path
import torch
from mlff2d.models import REGISTRY
from mlff2d.training.data.batches import iter_batches
from mlff2d.training.data.dataset import Dataset

def main():
    data = Dataset(Path(sys.argv[1]), 4.0, workers=2)
    loader = iter_batches(data, [[0]] * 10**6, torch.float32, torch.device("cpu"))
    next(loader)
    print(*data.workers.pids(), flush=True)
    for _ in loader:
        time.sleep(0.01)

if __name__ == "__main__":
    main()
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _heed_interrupts() -> None:
    """A shell that runs tests in the background has them, and what they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_their_parent(path, tmp_path, how):
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, program, path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C reaches all of them, as from a terminal
        preexec_fn=_heed_interrupts,
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    _, errors = process.communicate(timeout=180)
    if how == signal.SIGINT:
        assert errors.count("Traceback") == 1, "the parent's own, and none of the processes"
        assert errors.rstrip().endswith("KeyboardInterrupt")
    until = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, pids))


def test_in_a_process_that_was_forked(path):
    """Handles of the parent are not used: the child opens the files for itself."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    data = Dataset(path, 4.0, in_memory=False)
    expected = data.batch([3, 1])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(data.batch([3, 1])[0].pos.numpy()))
    child.start()
    assert torch.equal(torch.from_numpy(queue.get(timeout=30)), expected[0].pos)
    child.join()
