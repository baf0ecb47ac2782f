"""Training from a file to a model: it learns, and what interrupts it changes nothing."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from mlff2d import checkpoint
from mlff2d.models import REGISTRY
from mlff2d.potential import Potential
from mlff2d.training import command, loop
from mlff2d.training.badbatch import TrainingError
from mlff2d.training.config import ConfigError, load_config
from mlff2d.training.loop import train
from mlff2d.training.metrics import baselines, evaluate
from mlff2d.training.sections import FilterConfig, LossConfig
from mlff2d.training.setup import Run, prepare, run_files
from tests.training_helpers import (
    Killed,
    PairNet,
    assert_equal,
    contents,
    die_after,
    small_config,
    write_monolayers,
)

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("pairnet", "threads")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_monolayers(tmp_path_factory.mktemp("data") / "metals.extxyz")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """A run of three epochs that nothing interrupted."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "pairnet", PairNet)
        train(small_config(run_dir, data), Console(quiet=True))
    return run_dir


def test_a_run_leaves_what_is_needed(finished, data):
    assert {path.name for path in finished.iterdir()} == {
        "config.yaml",
        "state.pt",
        "log.jsonl",
        "best.pt",
        "last.pt",
        "metrics.json",
        "lock",
    }
    assert load_config(finished / "config.yaml") == small_config(finished, data)
    rows = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    potential = checkpoint.load(finished / "best.pt")
    assert potential.elements == (28, 29, 46, 47, 78, 79)


def test_a_model_says_where_it_comes_from_without_paths(finished, data):
    training = checkpoint.read(finished / "best.pt")["training"]
    assert training["data"][0]["name"] == "metals.extxyz"
    assert len(training["data"][0]["sha256"]) == 64
    assert training["settings"]["split"].items() >= {"val": 0.15, "test": 0.15, "seed": 0}.items()
    assert sum(training["frames"].values()) == 72
    assert sum(training["materials"].values()) == 36
    assert training["versions"]["torch"] == torch.__version__
    assert set(training["metrics"]) == {"val", "val baseline", "test", "test baseline"}
    assert str(data.parent) not in json.dumps(training)
    assert str(finished.parent) not in json.dumps(training)


@pytest.mark.parametrize("step", [0, 1, 6, 7, 8, 13])
def test_killed_and_resumed_equals_uninterrupted(
    finished, data, tmp_path, quiet, monkeypatch, step
):
    """Killed at a step, inside an epoch or between two, with a state saved after every step."""
    config = small_config(tmp_path / "killed", data, save_minutes=1e-9)
    die_after(step, config, monkeypatch, console=quiet)
    outcome = train(config, quiet)
    assert outcome.stopped is None
    assert_equal(contents(tmp_path / "killed"), contents(finished))


@pytest.mark.parametrize("where", ["_keep_models", "save_state", "_finish"])
def test_killed_while_writing_equals_uninterrupted(
    finished, data, tmp_path, quiet, monkeypatch, where
):
    """Killed at the end of the second epoch, or at the very end, before a file was written."""
    config = small_config(tmp_path / "killed", data)
    original, calls = getattr(loop, where), []

    def write_or_die(*args: object) -> None:
        calls.append(1)
        if len(calls) == (1 if where == "_finish" else 2):
            raise Killed
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, where, write_or_die)
        with pytest.raises(Killed):
            train(config, quiet)
    train(config, quiet)
    assert_equal(contents(tmp_path / "killed"), contents(finished))


def test_stopped_by_sigterm_and_by_the_clock(finished, data, tmp_path, quiet, monkeypatch):
    config = small_config(tmp_path / "stopped", data)
    original, done = loop._step, []

    def step_with_signal(*args: object) -> float:
        done.append(1)
        if len(done) == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", step_with_signal)
        outcome = train(config, quiet)
    assert outcome.signal == signal.SIGTERM
    assert len(done) == 9
    assert signal.getsignal(signal.SIGTERM) is handler
    hurried = small_config(tmp_path / "stopped", data, max_minutes=1e-6)
    assert train(hurried, quiet).stopped == "train.max_minutes is up"
    assert train(config, quiet).stopped is None
    assert_equal(contents(tmp_path / "stopped"), contents(finished))


def test_a_finished_run_stays_as_it_is(finished, data, quiet):
    before = contents(finished)
    train(small_config(finished, data), quiet)
    assert_equal(contents(finished), before)


def test_a_run_with_other_settings_or_data_is_refused(finished, data, tmp_path, quiet):
    with pytest.raises(ConfigError, match=r"train\.lr: 0\.005 -> 0\.1"):
        train(small_config(finished, data, lr=0.1), quiet)
    other = write_monolayers(tmp_path / "metals.extxyz", n_each=3)
    with pytest.raises(ConfigError, match=r"the content of data\.files"):
        train(small_config(finished, other), quiet)
    moved = tmp_path / "moved.extxyz"
    moved.write_bytes(data.read_bytes())
    assert train(small_config(finished, moved), quiet).stopped is None


def test_what_is_printed(data, tmp_path):
    frames = ase.io.read(data, ":")
    frames[3].calc = None
    frames[5].calc.results["forces"][:] = np.nan
    del frames[8].calc.results["stress"]
    ase.io.write(tmp_path / "mixed[1].extxyz", frames)
    config = small_config(tmp_path / "run", tmp_path / "mixed[1].extxyz", epochs=2)
    config = config.model_copy(update={"filters": FilterConfig(max_force=1.0)})
    console = Console(file=StringIO(), markup=False, width=200)
    train(config, console)
    lines = console.file.getvalue().splitlines()

    def line(word: str) -> str:
        return next(line for line in lines if word in line)

    assert "72" in line("read")
    assert "-2" in line("refused: no usable labels, e.g. mixed[1].extxyz, frame 3: ")
    removed = int(line("a force component above 1 eV/Å").split()[1])
    sizes = [int(line(f"{part}: ").split()[1]) for part in ("train", "val", "test")]
    assert removed < 0
    assert sum(sizes) == 70 + removed
    assert any("1 without stress" in line for line in lines)
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").open()]
    for row in rows:
        start = f"{row['epoch']:6d}{row['train_loss']:12.5f}{row['val']['loss']:12.5f}"
        assert any(line.startswith(start) for line in lines)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"{1000 * metrics['test baseline']['forces']:.1f}" in line("test baseline")


def test_it_learns_a_small_set(data, tmp_path, quiet):
    config = small_config(tmp_path / "learnt", data, epochs=60, lr=0.02, ema=0.0, clip=None)
    config = config.model_copy(update={"loss": LossConfig(kind="mse")})
    train(config, quiet)
    rows = [json.loads(line) for line in (tmp_path / "learnt" / "log.jsonl").open()]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 4
    metrics = json.loads((tmp_path / "learnt" / "metrics.json").read_text())
    for part in ("val", "test"):
        assert metrics[part]["loss"] < 0.5 * metrics[f"{part} baseline"]["loss"]


@pytest.mark.parametrize("name", ["m3gnet", "nequip"])
def test_registered_models_train(data, tmp_path, quiet, name):
    small = {
        "m3gnet": {"channels": 8, "n_blocks": 1, "threebody_cutoff": 3.5, "cutoff": 3.5},
        "nequip": {"hidden_irreps": "4x0e+4x1o", "n_layers": 2, "l_max": 1, "cutoff": 4.2},
    }[name]
    config = small_config(tmp_path / name, data, epochs=1)
    settings = config.resolved() | {"model": {"name": name, **small}}
    train(type(config).model_validate(settings), quiet)
    training = checkpoint.read(tmp_path / name / "best.pt")
    assert training["model"] == name
    row = json.loads((tmp_path / name / "log.jsonl").read_text())
    assert np.isfinite([row["train_loss"], *row["val"].values()]).all()
    if name == "nequip":  # counted in the training part, as the config did not give it
        assert 6 < training["config"]["avg_neighbors"] < 10


def test_nan_stops_the_run_and_keeps_the_batch(data, tmp_path, quiet, monkeypatch):
    config = small_config(tmp_path / "broken", data)
    original, done = PairNet.forward, []

    def broken(self, graph, edge_vec):
        done.append(1)
        energies = original(self, graph, edge_vec)
        return energies * float("nan") if len(done) == 4 else energies

    monkeypatch.setattr(PairNet, "forward", broken)
    with pytest.raises(TrainingError, match=r"epoch 1, step 4.*bad_batch\.pt"):
        train(config, quiet)
    kept = torch.load(run_files(config.run_dir)["bad_batch"], weights_only=True)
    assert kept["structures"][0].startswith("metals.extxyz frame ")
    assert len(kept["structures"]) == kept["graph"]["cell"].shape[0] == 8
    assert all(torch.isfinite(w).all() for w in kept["model"].values() if w.ndim)


@pytest.fixture
def prepared(data, tmp_path) -> Run:
    return prepare(small_config(tmp_path / "prepared", data))


def test_metrics_and_baselines_are_plain_means(prepared):
    run, ids = prepared, prepared.split.train
    metrics = baselines(run.module, run.data, run.fixed_batches(ids), run.config.loss)
    forces = run.data.atoms_of("forces", ids)
    assert metrics.forces == pytest.approx(np.abs(forces).mean(), rel=1e-5)
    references = run.module.references.as_dict()
    z = run.data.atoms_of("z", ids).reshape(-1, 2)
    explained = np.array([sum(references[int(n)] for n in pair) for pair in z])
    expected = np.abs(run.data.energy[ids] - explained).mean() / 2
    assert metrics.energy == pytest.approx(expected, rel=1e-6)

    whole = evaluate(run.module, run.data, [ids.tolist()], run.config.loss)
    parts = evaluate(run.module, run.data, run.fixed_batches(ids), run.config.loss)
    assert whole.as_dict() == pytest.approx(parts.as_dict(), rel=1e-5)
    assert run.module.training


def test_energies_alone_need_no_derivatives(data, tmp_path, monkeypatch):
    """Neither training, nor validation, nor the last judgement differentiates by positions."""
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kw: pytest.fail("forces built"))
    config = small_config(tmp_path / "run", data, epochs=2)
    config = config.model_copy(update={"loss": LossConfig(forces=0, stress=0)})
    console = Console(file=StringIO(), markup=False, width=200)
    train(config, console)
    printed = console.file.getvalue()
    assert "E meV/atom" in printed
    assert "meV/Å" not in printed
    assert "N/m" not in printed
    assert "no forces" not in printed
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for part in metrics.values():
        assert part["forces"] is part["stress"] is None
        assert part["energy"] > 0


@pytest.mark.parametrize(("forces", "stress"), [(1.0, 0.0), (0.0, 1.0)])
def test_what_has_no_weight_is_not_computed_in_training(
    data, tmp_path, quiet, monkeypatch, forces, stress
):
    wanted = []
    config = small_config(tmp_path / "run", data, epochs=1)
    config = config.model_copy(update={"loss": LossConfig(forces=forces, stress=stress)})
    original = Potential.forward

    def spy(self, graph, forces=True, virial=True, create_graph=None):
        if self.training:
            wanted.append((forces, virial))
        return original(self, graph, forces, virial, create_graph)

    monkeypatch.setattr(Potential, "forward", spy)
    train(config, quiet)
    assert set(wanted) == {(bool(forces), bool(stress))}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["forces"] > 0
    assert metrics["test"]["stress"] > 0


def test_structures_with_elements_outside_training_are_left_out(data, tmp_path):
    config = small_config(tmp_path / "x", data)
    only_copper = config.model_copy(
        update={"split": config.split.model_copy(update={"val": 0.5, "test": 0.45})}
    )
    run = prepare(only_copper)
    known = set(run.module.elements)
    assert len(known) < 6, "choose another seed: nothing is left out"
    for ids in (run.split.val, run.split.test):
        assert set(run.data.atoms_of("z", ids).tolist()) <= known
    left_out = sum(r.count for r in run.removed if "not in training" in r.rule)
    assert left_out + sum(map(len, vars(run.split).values())) == 72


def test_settings_that_do_not_fit_are_one_sentence(data, tmp_path):
    good = small_config(tmp_path / "x", data).resolved()

    def attempt(section: str, **values: object) -> Run:
        return prepare(
            type(small_config(tmp_path, data)).model_validate(
                good | {section: good[section] | values}
            )
        )

    with pytest.raises(ConfigError, match=r"no model is called 'pairnett'.*'pairnet'"):
        attempt("model", name="pairnett")
    with pytest.raises(ConfigError, match=r"no setting 'widht'.*'width'"):
        attempt("model", widht=3)
    with pytest.raises(ConfigError, match=r"model\.elements lacks Ni"):
        attempt("model", elements=[29, 46, 47, 78, 79])
    with pytest.raises(ConfigError, match="val part is empty"):
        attempt("split", val=1e-9)
    with pytest.raises(ConfigError, match=r"train\.device: the device 'gpu'"):
        attempt("train", device="gpu")


def test_command_line(data, tmp_path):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    file = tmp_path / "config.yaml"
    settings = small_config(tmp_path / "run", data).resolved()
    file.write_text(yaml.safe_dump(settings))
    assert command.run(parser.parse_args([str(file), "--set", "train.epochs=1"])) == 0
    resolved = load_config(tmp_path / "run" / "config.yaml")
    assert resolved.train.epochs == 1
    with pytest.raises(ValueError, match=r"train\.epoch'.*'epochs'"):
        command.run(parser.parse_args([str(file), "--set", "train.epoch=1"]))


@pytest.mark.slow
def test_sigkill_and_resume_equals_uninterrupted(data, tmp_path):
    """A real process with a registered model, killed in the middle without any warning."""
    settings = small_config(tmp_path / "whole", data, epochs=4, save_minutes=1e-9).resolved()
    settings["model"] = {"name": "m3gnet", "channels": 8, "n_blocks": 1, "cutoff": 4.0}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    program = [sys.executable, "-m", "mlff2d.cli", "train", str(file)]
    options = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert subprocess.run(program, check=False, **options).returncode == 0
    again = [*program, "--set", f"run_dir={tmp_path / 'killed'}"]
    process = subprocess.Popen(again, **options)
    log = tmp_path / "killed" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert subprocess.run(again, check=False, **options).returncode == 0
    assert_equal(contents(tmp_path / "killed"), contents(tmp_path / "whole"))


def test_a_state_of_another_version_is_refused(finished, data, tmp_path, quiet):
    run_dir = tmp_path / "old"
    run_dir.mkdir()
    state = torch.load(finished / "state.pt", weights_only=True)
    torch.save(state | {"format": 1}, run_dir / "state.pt")
    with pytest.raises(ConfigError, match=r"state\.pt was written by another version"):
        train(small_config(run_dir, data), quiet)
