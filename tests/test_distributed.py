"""Several processes learn what one learns; what happens to one of them happens to all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from mlff2d import checkpoint
from mlff2d.models import REGISTRY
from mlff2d.training import distributed
from mlff2d.training.loop import train
from mlff2d.training.setup import prepare
from tests.processes import HalfFrozen, cases
from tests.training_helpers import PairNet, assert_equal, contents, monolayers, small_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _models(monkeypatch):
    monkeypatch.setitem(REGISTRY, "pairnet", PairNet)
    monkeypatch.setitem(REGISTRY, "frozen", HalfFrozen)


def write_data(folder: Path) -> None:
    """Frames with a property, of which some lack one label; three fill a batch by themselves."""
    frames = monolayers()
    for atoms in frames[:3]:
        large = atoms.repeat((3, 3, 1))
        large.calc = EMT()
        labels = {name: large.calc.get_property(name, large) for name in ("energy", "forces")}
        large.calc = SinglePointCalculator(large, **labels)
        frames.append(large)
    for k, atoms in enumerate(frames):
        atoms.info["value"] = float(atoms.positions.std() + atoms.numbers.mean() / 100)
        if k % 3 == 0:
            atoms.calc.results.pop("stress", None)
        if k % 5 == 0:
            del atoms.calc.results["forces"]
        if k % 7 == 0:
            del atoms.calc.results["energy"]
    ase.io.write(folder / "metals.extxyz", frames)
    ase.io.write(folder / "values.extxyz", frames)


def write_start(folder: Path) -> None:
    """A model to start from."""
    run = prepare(small_config(folder / "first", folder / "metals.extxyz"))
    checkpoint.save(run.averaged, folder / "start.pt", {})


def start(case: str, folder: Path, n: int = 2) -> list[subprocess.Popen[str]]:
    """So many processes of `tests.processes`, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.processes", case, str(folder)],
            cwd=ROOT,
            env=os.environ | address | {"RANK": str(k), "LOCAL_RANK": str(k), "WORLD_SIZE": str(n)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(n)
    ]


def end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit status and output of each."""
    try:
        output = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *text) for p, text in zip(processes, output, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all cases were trained by two processes, and by one."""
    folder = tmp_path_factory.mktemp("processes")
    write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "pairnet", PairNet)
        patch.setitem(REGISTRY, "frozen", HalfFrozen)
        write_start(folder)
        started = start("equal", folder)
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        for config in cases(folder).values():
            train(config, Console(quiet=True))
        torch.set_num_threads(before)
    outcome = end(started)
    (folder / "stderr").write_text(outcome[0][2])
    for status, out, err in outcome:
        assert status == 0, err
        assert out == ""
    assert outcome[1][2] == ""  # the main process alone has something to say
    return folder


def rows(run_dir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def flat_weights(run_dir: Path) -> torch.Tensor:
    weights = checkpoint.read(run_dir / "last.pt")["weights"]
    return torch.cat([w.double().flatten() for w in weights.values()])


def deviations(ours: Path, theirs: Path) -> tuple[float, float]:
    """Largest relative deviation of the losses of three epochs, and of the weights in the end."""
    pairs = list(zip(rows(ours), rows(theirs), strict=True))
    assert len(pairs) == 3
    losses = [
        abs(a / b - 1)
        for x, y in pairs
        for a, b in [(x["train_loss"], y["train_loss"]), (x["val"]["loss"], y["val"]["loss"])]
    ]
    a, b = flat_weights(ours), flat_weights(theirs)
    return max(losses), float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(
    ("case", "limit"),
    [
        ("float64", 1e-12),
        ("hard", 1e-12),
        ("property", 1e-12),
        ("finetune", 1e-12),
        ("float32", 1e-4),
    ],
)
def test_two_processes_learn_what_one_learns(folder, case, limit):
    loss, weights = deviations(folder / "two" / case, folder / "one" / case)
    print(f"{case}: losses {loss:.1e}, weights {weights:.1e}")
    assert loss < limit
    assert weights < limit
    assert [r["steps"] for r in rows(folder / "two" / case)] == [
        r["steps"] for r in rows(folder / "one" / case)
    ]
    both = [json.loads((folder / n / case / "metrics.json").read_text()) for n in ("two", "one")]
    assert both[0].keys() == both[1].keys()
    for part, figures in both[1].items():
        for name, value in figures.items():
            ours = both[0][part][name]
            assert ours == value or ours == pytest.approx(value, rel=100 * limit), (part, name)


def test_each_process_had_its_share(folder):
    """Also of a batch of one structure, where another has none."""
    shares = [json.loads((folder / f"shares-{k}.json").read_text()) for k in (0, 1)]
    for (first, whole), (second, same) in zip(*shares, strict=True):
        assert whole == same
        assert sorted(first + second) == sorted(whole)
    assert min(len(whole) for _, whole in shares[0]) == 1
    for (first, whole), (second, _) in zip(*shares, strict=True):
        assert len(whole) <= 4 or (first and second)


def test_frozen_weights_stay(folder):
    weights = checkpoint.read(folder / "two" / "hard" / "last.pt")["weights"]
    torch.manual_seed(0)
    first = HalfFrozen(HalfFrozen.Config())
    moved = {n: not torch.equal(weights[n], w.double()) for n, w in first.state_dict().items()}
    assert {name for name, is_moved in moved.items() if not is_moved} == {
        "element.weight",
        "layers.0.bias",
    }


def test_a_signal_to_one_process_stops_all_and_they_go_on_to_the_bit(folder):
    two = folder / "two"
    assert_equal(contents(two / "stopped"), contents(two / "stop"))
    assert "stopped by SIGTERM: saved" in (folder / "stderr").read_text()


def test_one_process_goes_on_where_two_stopped(folder, tmp_path):
    shutil.copytree(folder / "one" / "stopped", tmp_path / "stopped")
    config = cases(folder)["stop"].model_copy(update={"run_dir": tmp_path / "stopped"})
    train(config, Console(quiet=True))
    loss, weights = deviations(tmp_path / "stopped", folder / "two" / "stop")
    assert loss < 1e-4
    assert weights < 1e-4


@pytest.mark.parametrize("case", ["dies", "hangs"])
def test_a_lost_process_is_not_waited_for(tmp_path, case):
    write_data(tmp_path)
    started = start(case, tmp_path)
    try:
        _, error = started[0].communicate(timeout=240)
    finally:
        for process in started:
            process.kill()
    for process in started:
        process.wait()
    assert started[0].returncode == 1
    [sentence] = [line for line in error.splitlines() if "one sentence" in line]
    assert "one of the 2 processes has ended or does not answer" in sentence
    assert "run the same command again" in sentence
    assert "Traceback" not in error


def test_a_gradient_that_is_nan_in_one_process_stops_all_with_one_sentence(tmp_path):
    write_data(tmp_path)
    (status, _, error), (other, _, silence) = end(start("nan", tmp_path))
    assert (status, other) == (1, 2)
    assert silence == ""
    [sentence] = [line for line in error.splitlines() if "one sentence" in line]
    assert "the gradient is NaN or infinite in epoch 1, step 4; no structure stands" in sentence
    bad = torch.load(tmp_path / "run" / "bad_batch.pt", weights_only=True)
    assert bad["graph"]["cell"].shape == (8, 3, 3)  # the batch of both
    assert all(torch.isfinite(w).all() for w in bad["model"].values())


def test_torchrun_with_the_real_program(tmp_path):
    """With a label that no number holds: both processes stop, one tells."""
    frames = monolayers()
    frames[3].calc.results["forces"][0, 0] = 1e30
    ase.io.write(tmp_path / "metals.extxyz", frames)
    config = {
        "run_dir": str(tmp_path / "run"),
        "data": {"files": [str(tmp_path / "metals.extxyz")]},
        "model": {"name": "schnet", "channels": 8, "n_blocks": 1, "cutoff": 4.0},
        "loss": {"kind": "mse"},
        "train": {"epochs": 2, "batch_size": 8, "device": "cpu"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "mlff2d.cli", "train", "config.yaml"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("mlff2d train: ")]
    assert len(told) == 1, done.stderr
    assert "the loss is NaN or infinite in epoch 1, step" in told[0]
    assert (tmp_path / "run" / "bad_batch.pt").exists()


def test_structures_are_dealt_out_evenly(monkeypatch):
    n_edges = np.array([5, 100, 40, 60, 7, 0, 0])
    monkeypatch.setattr(distributed, "world", lambda: 3)
    shares = []
    for k in range(3):
        monkeypatch.setattr(distributed, "rank", lambda k=k: k)
        shares.append(distributed.share([6, 0, 1, 2, 3, 4, 5, 1], n_edges))
    assert sorted(s for share in shares for s in share) == [0, 1, 1, 2, 3, 4, 5, 6]
    assert [int(n_edges[share].sum()) for share in shares] == [107, 105, 100]
    assert distributed.share([4], n_edges) == []


def test_one_process_has_all_to_itself():
    assert (distributed.rank(), distributed.world(), distributed.is_main()) == (0, 1, True)
    assert distributed.share([3, 1], np.zeros(4, dtype=np.int64)) == [3, 1]
    assert distributed.undeal(distributed.deal([1, 2, 3])) == [1, 2, 3]
    assert distributed.from_main(lambda: "x") == "x"
    with distributed.main_first():
        pass


def test_signals_of_a_process_that_is_alone_are_its_own():
    assert distributed.largest(signal.SIGTERM) == signal.SIGTERM
