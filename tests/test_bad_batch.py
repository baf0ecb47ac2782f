"""A loss that is NaN or jumps: the run stops, says which structure did it, and may leave it out."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from rich.console import Console

from mlff2d import checkpoint
from mlff2d.models import REGISTRY
from mlff2d.training import badbatch, loop
from mlff2d.training.badbatch import TrainingError
from mlff2d.training.config import ConfigError
from mlff2d.training.loop import train
from mlff2d.training.setup import prepare, run_files
from tests.training_helpers import (
    PairNet,
    config_of,
    die_after,
    monolayers,
    small_config,
    write_monolayers,
)

pytestmark = pytest.mark.usefixtures("pairnet", "threads")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_monolayers(tmp_path_factory.mktemp("data") / "metals.extxyz")


@pytest.fixture(scope="module")
def with_absurd_labels(tmp_path_factory) -> tuple[Path, list[str]]:
    """Two frames of the training part with absurd energies, and what they are called."""
    folder = tmp_path_factory.mktemp("absurd")
    frames = monolayers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "pairnet", PairNet)
        ase.io.write(folder / "good.extxyz", frames)
        run = prepare(small_config(folder / "run", folder / "good.extxyz"))
    bad = sorted(run.split.train.tolist())[10], sorted(run.split.train.tolist())[30]
    for s, energy in zip(bad, (3e5, -5e5), strict=True):
        frames[run.data.frame[s]].calc.results["energy"] = energy
    ase.io.write(folder / "absurd.extxyz", frames)
    return folder / "absurd.extxyz", [f"frame {run.data.frame[s]} " for s in bad]


def test_absurd_labels_stop_the_run_and_may_be_left_out(with_absurd_labels, tmp_path, monkeypatch):
    file, names = with_absurd_labels
    references = {"references": dict.fromkeys(("Cu", "Ag", "Au", "Ni", "Pd", "Pt"), 0.0)}
    sections = {"priors": references, "train": {"max_jump": 100.0, "save_minutes": 1e-9}}
    config = config_of(tmp_path / "run", file, sections)
    found = []
    for _ in names:
        console = Console(file=StringIO(), markup=False, width=150)
        with pytest.raises(TrainingError, match=r"100 times the median.*--skip-bad-batch") as error:
            train(config, console, skip_bad_batch=bool(found))
        culprits = [name for name in names if name in str(error.value)]
        assert len(culprits) == 1, error.value
        printed = console.file.getvalue()
        table = printed[printed.index("The worst of the batch") :].splitlines()
        assert culprits[0] in table[4], "the worst comes first"
        kept = torch.load(run_files(config.run_dir)["bad_batch"], weights_only=True)
        assert len(kept["structures"]) == len(kept["figures"]["loss"]) == len(kept["ids"])
        assert len(kept["culprits"]) == 1
        worst = int(np.argmax(kept["figures"]["loss"]))
        assert kept["ids"][worst] == kept["culprits"][0]
        assert culprits[0] in kept["structures"][worst]
        found += culprits
    assert sorted(found) == sorted(names)
    with pytest.raises(TrainingError):  # without the flag it stops again at the same place
        train(config, Console(quiet=True))
    console = Console(file=StringIO(), markup=False, width=150)
    sections["train"]["save_minutes"] = 10.0
    die_after(9, config, monkeypatch, console=console, skip_bad_batch=True)  # remembered
    assert train(config, console).stopped is None
    for name in names:
        assert name in console.file.getvalue()
    assert not run_files(config.run_dir)["bad_batch"].exists()
    assert checkpoint.read(config.run_dir / "best.pt")["training"]["left_out"]
    state = torch.load(config.run_dir / "state.pt", weights_only=True)
    run = prepare(config)
    assert sorted(run.data.name(s).split("(")[0] for s in state["left_out"]) == sorted(
        f"absurd.extxyz {name}" for name in names
    )
    assert state["frames"] < 3 * len(run.split.train)


def test_skipping_needs_a_bad_batch(data, tmp_path, quiet):
    with pytest.raises(ConfigError, match=r"no .*bad_batch\.pt.*leave the option out"):
        train(small_config(tmp_path / "run", data), quiet, skip_bad_batch=True)


def test_a_batch_without_a_culprit_is_left_out_as_a_whole(data, tmp_path, quiet, monkeypatch):
    config = small_config(tmp_path / "run", data)
    original, done = badbatch.what_is_wrong, []

    def wrong(*args):
        done.append(1)
        return "the gradient is NaN or infinite" if len(done) == 5 else original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "what_is_wrong", wrong)
        with pytest.raises(TrainingError, match="no structure stands out"):
            train(config, quiet)
    train(config, quiet, skip_bad_batch=True)
    assert len(torch.load(tmp_path / "run" / "state.pt", weights_only=True)["left_out"]) == 8


def test_leaving_out_everything_is_refused(data, tmp_path, quiet, monkeypatch):
    config = small_config(tmp_path / "run", data, batch_size=100, batch_edges=10**6)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "what_is_wrong", lambda *args: "the gradient is NaN or infinite")
        with pytest.raises(TrainingError, match="no structure stands out"):
            train(config, quiet)
    for _ in range(2):
        with pytest.raises(ConfigError, match="nothing would be left to train on"):
            train(config, quiet, skip_bad_batch=True)


def test_a_nan_in_validation_is_traced_to_its_structures(data, tmp_path, quiet, monkeypatch):
    config = small_config(tmp_path / "run", data)
    run = prepare(config)
    bad = run.split.val[2]
    original = PairNet.forward

    def broken(self, graph, edge_vec):
        energies = original(self, graph, edge_vec)
        is_bad = graph.cell[:, 0, 0] == float(np.float32(run.data.batch([bad])[0].cell[0, 0, 0]))
        return torch.where(is_bad[graph.batch], torch.nan, energies)

    monkeypatch.setattr(PairNet, "forward", broken)
    name = re.escape(run.data.name(int(bad)))
    with pytest.raises(TrainingError, match=f"after epoch 1, that of 1 structures: {name};"):
        train(config, quiet)


def test_an_infinite_validation_loss_is_no_result(data, tmp_path, quiet, monkeypatch):
    """It is below no other, so that no model would ever be the best."""
    config = small_config(tmp_path / "run", data, epochs=1)
    original = PairNet.forward

    def broken(self, graph, edge_vec):
        energies = original(self, graph, edge_vec)
        return energies if self.training else energies + torch.inf

    monkeypatch.setattr(PairNet, "forward", broken)
    with pytest.raises(TrainingError, match="the validation loss is NaN or infinite after epoch 1"):
        train(config, quiet)


def test_what_is_taken_for_a_jump(data, tmp_path):
    run = prepare(small_config(tmp_path / "run", data, max_jump=10.0))
    for loss in (5.0, 1.0):
        assert badbatch.what_is_wrong(run, 1e9, 1.0) is None, "too few losses to tell"
        badbatch.note_loss(run, loss)
    badbatch.note_loss(run, 2.0)
    assert badbatch.what_is_wrong(run, 19.9, 1.0) is None
    assert "10 times the median" in str(badbatch.what_is_wrong(run, 20.1, 1.0))
    for value in (float("nan"), float("inf")):
        assert "loss is NaN" in str(badbatch.what_is_wrong(run, value, 1.0))
        assert "gradient is NaN" in str(badbatch.what_is_wrong(run, 1.0, value))
    for _ in range(99):
        badbatch.note_loss(run, 100.0)
    assert len(run.recent) == 100
    assert run.recent[0] == 2.0
    run = prepare(small_config(tmp_path / "run", data, max_jump=None))
    run.recent = [1.0] * 100
    assert badbatch.what_is_wrong(run, 1e30, 1.0) is None
