"""Figures of a run in TensorBoard and W&B: all there, once, however often it was stopped."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mlff2d.training.config import ConfigError
from mlff2d.training.logs import EVERY, Logs, flat, refuse_missing_packages
from mlff2d.training.sections import Config
from tests.training_helpers import small_config


def config_with(run_dir: Path, *names: str) -> Config:
    run_dir.mkdir(exist_ok=True)
    return small_config(run_dir, Path("data.extxyz"), log=names)


def row(epoch: int, steps: int) -> dict[str, Any]:
    val = {"loss": 0.5 / epoch, "forces": None}
    return {"epoch": epoch, "steps": steps, "train_loss": 1 / epoch, "val": val, "best": True}


def whole_run(logs: Logs, epochs: range, steps: int, first: int = 0) -> None:
    """Tell of epochs, the first of them from its batch `first` on, where a run went on."""
    with logs:
        for epoch in epochs:
            for step in range(first + 1, steps + 1):
                logs.step(step, {"loss": epoch + step / 1000, "lr": 1e-3})
            logs.epoch(row(epoch, steps))
            first = 0


def events(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Points of every curve, as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(run_dir / "tensorboard"))
    reader.Reload()
    return {
        tag: [(point.step, round(point.value, 6)) for point in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_tensorboard_gets_every_figure(tmp_path: Path) -> None:
    whole_run(Logs(config_with(tmp_path, "tensorboard")), range(1, 4), 25)
    found = events(tmp_path)
    assert set(found) == {
        "step/loss",
        "step/lr",
        "epoch/epoch",
        "epoch/steps",
        "epoch/train_loss",
        "epoch/best",
        "val/loss",
    }
    assert EVERY == 10
    assert found["step/loss"] == [
        (9, 1.01),
        (19, 1.02),
        (34, 2.01),
        (44, 2.02),
        (59, 3.01),
        (69, 3.02),
    ]
    assert found["val/loss"] == [(25, 0.5), (50, 0.25), (75, pytest.approx(0.5 / 3, abs=1e-6))]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == [row(epoch, 25) for epoch in (1, 2, 3)]


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (1, 0), (1, 10), (1, 13), (2, 25)])
def test_a_resumed_run_has_every_point_once(tmp_path: Path, epoch: int, step: int) -> None:
    """The state was saved at a step; the run was killed at the end of an epoch, or of the next."""
    whole_run(Logs(config_with(tmp_path / "whole", "tensorboard")), range(1, 5), 25)
    config = config_with(tmp_path / "killed", "tensorboard")
    whole_run(Logs(config), range(1, 3 if epoch < 2 else 4), 25)
    whole_run(Logs(config, epoch, step), range(epoch + 1, 5), 25, step)
    assert events(tmp_path / "killed") == events(tmp_path / "whole")
    ours, theirs = ((tmp_path / name / "log.jsonl").read_text() for name in ("killed", "whole"))
    assert ours == theirs


class FakeWandb(ModuleType):
    """Notes what it is told; W&B itself is no dependency of the tests."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.starts: list[dict[str, Any]] = []
        self.told: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **how: Any) -> SimpleNamespace:
        self.starts.append(how)
        return SimpleNamespace(log=self._log, finish=self._finish)

    def _log(self, figures: dict[str, float], step: int) -> None:
        self.told.append((step, figures))

    def _finish(self) -> None:
        self.finished += 1


def test_wandb_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = config_with(tmp_path / "first", "wandb")
    whole_run(Logs(config), range(1, 2), 10)
    whole_run(Logs(config, 1), range(2, 3), 10)
    whole_run(Logs(config_with(tmp_path / "other", "wandb")), range(1, 2), 10)
    first, again, other = fake.starts
    assert first == again
    assert first["id"] != other["id"]
    assert first["name"] == "first"
    assert first["resume"] == "allow"
    assert first["config"]["train"]["log"] == ["wandb"]
    assert fake.finished == 3
    expected = {"epoch/epoch": 2, "epoch/steps": 10, "epoch/train_loss": 0.5, "epoch/best": 1}
    assert fake.told[:4] == [
        (9, {"step/loss": 1.01, "step/lr": 1e-3}),
        (10, flat_row(1)),
        (19, {"step/loss": 2.01, "step/lr": 1e-3}),
        (20, expected | {"val/loss": 0.25}),
    ]


def flat_row(epoch: int) -> dict[str, float]:
    numbers = {"epoch": epoch, "steps": 10, "train_loss": 1 / epoch, "best": 1}
    return {f"epoch/{name}": x for name, x in numbers.items()} | {"val/loss": 0.5 / epoch}


def test_what_does_not_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=rf"pip install 'mlff2d\[{name}\]'"):
            refuse_missing_packages(config_with(tmp_path / name, name))
    fake = FakeWandb()
    monkeypatch.setattr(fake, "init", lambda **how: 1 / 0)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(ConfigError, match=r"division by zero\); log in .* WANDB_MODE=offline"):
        Logs(config_with(tmp_path / "other", "wandb"))


def test_wandb_itself_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    whole_run(Logs(config_with(tmp_path, "wandb")), range(1, 3), 10)
    folders = [name for name in os.listdir(tmp_path / "wandb") if name.startswith("offline-run-")]
    assert len(folders) == 1
    assert folders[0].endswith((tmp_path / "wandb" / "run_id").read_text())


def test_flat() -> None:
    assert flat({"a": 1, "b": {"c": 2.5, "d": None, "e": {"f": True}}, "g": "word"}) == {
        "a": 1.0,
        "b/c": 2.5,
        "b/e/f": 1.0,
    }
