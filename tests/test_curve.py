"""Learning curves: nested frames, runs that are done once, and what is written of them."""

from __future__ import annotations

import csv
import math
from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from rich.console import Console

from mlff2d import checkpoint
from mlff2d.potential import Potential
from mlff2d.training.config import ConfigError, load_config
from mlff2d.training.data.choice import training_order
from mlff2d.training.finetuning import curve
from mlff2d.training.finetuning.curve import draw_curve, runs_on
from mlff2d.training.sections import Config, ModelConfig
from mlff2d.training.setup import prepare
from tests.training_helpers import (
    PairNet,
    PairNetConfig,
    assert_equal,
    monolayers,
    small_config,
)

ELEMENTS = (28, 29, 46, 47, 78, 79)


pytestmark = pytest.mark.usefixtures("pairnet")


def config_in(folder: Path, **split: object) -> Config:
    """Fine-tuning of a model with random weights on EMT."""
    torch.manual_seed(1)
    model = PairNet(PairNetConfig(ELEMENTS, cutoff=3.7, width=8))
    checkpoint.save(Potential(model, dict.fromkeys(ELEMENTS, 0.0)), folder / "start.pt")
    ase.io.write(folder / "data.extxyz", monolayers(2))
    settings = small_config(folder / "run", folder / "data.extxyz", epochs=1).resolved()
    settings["model"] = {"from": str(folder / "start.pt")}
    settings["finetune"] = {}
    settings["split"] |= {"val": 0.2, "test": 0.3} | split
    return Config.model_validate(settings)


def test_fewer_frames_are_a_part_of_more_and_bring_all_elements_first(tmp_path):
    config = config_in(tmp_path)
    whole = prepare(config)
    order = training_order(whole.data, whole.split.train, seed=0)
    assert sorted(order) == whole.split.train.tolist()
    assert {int(z) for z in whole.data.atoms_of("z", order[:6])} == set(ELEMENTS)
    names = [whole.data.material[s] for s in order]
    assert len(set(names[: len(set(names))])) > 0.7 * len(set(names)), "one of each in turn"
    for n in (6, 9):
        fewer = config.split.model_copy(update={"train_frames": n})
        run = prepare(config.model_copy(update={"split": fewer}))
        assert set(run.split.train) == set(order[:n])
        assert np.array_equal(run.split.test, whole.split.test)
        assert np.array_equal(run.split.val, whole.split.val)
    assert not np.array_equal(order, training_order(whole.data, whole.split.train, seed=1))


def test_a_curve_is_drawn_and_goes_on_where_it_was(tmp_path, monkeypatch):
    config = config_in(tmp_path)
    console = Console(file=StringIO(), markup=False, width=250)
    assert draw_curve([config], [6, 12, 900], 2, console) is None
    printed = console.file.getvalue()
    n_all = len(prepare(config).split.train)
    assert f"There are {n_all} frames to train on, so the curve ends there." in printed
    folders = {p.parent.relative_to(config.run_dir / "curve") for p in tmp_path.rglob("best.pt")}
    names = {f"{name}/{n}-{seed}" for name in ("start", "pairnet-from-scratch")
             for n in (6, 12, n_all) for seed in (0, 1)}  # fmt: skip
    assert {str(folder) for folder in folders} == names
    rows = list(csv.DictReader((config.run_dir / "curve.csv").open()))
    assert len(rows) == 3 * 2 * 3
    assert {row["start"] for row in rows} == {"start", "pairnet from scratch"}
    assert (config.run_dir / "curve.png").read_bytes().startswith(b"\x89PNG")
    run = load_config(config.run_dir / "curve" / "start" / "6-1" / "config.yaml")
    assert (run.seed, run.split.train_frames) == (1, 6)
    assert run.train.epochs == math.ceil(n_all / 8), "as many steps on fewer frames"

    def no_training(*args: object) -> None:
        raise AssertionError("a finished run is done again")

    before = (config.run_dir / "curve.csv").read_bytes()
    (config.run_dir / "curve.csv").unlink()
    monkeypatch.setattr(curve, "train", no_training)
    draw_curve([config], [6, 12, 900], 2, Console(quiet=True))
    assert_equal((config.run_dir / "curve.csv").read_bytes(), before)
    other = config.model_copy(update={"train": config.train.model_copy(update={"lr": 0.1})})
    with pytest.raises(ConfigError, match=r"6-0 holds a run with other settings \(train\.lr"):
        draw_curve([other], [6], 1, Console(quiet=True))


def test_a_curve_needs_a_test_part(tmp_path):
    with pytest.raises(ConfigError, match=r"needs a test part; raise split\.test"):
        draw_curve([config_in(tmp_path, test=0.0)], [6], 1, Console(quiet=True))


def test_starts_are_told_apart_and_architectures_trained_once(tmp_path):
    config = config_in(tmp_path)
    for folder, width in (("a", 8), ("b", 8), ("c", 9)):
        model = PairNet(PairNetConfig(ELEMENTS, cutoff=3.7, width=width))
        (tmp_path / folder).mkdir()
        potential = Potential(model, dict.fromkeys(ELEMENTS, 0.0))
        checkpoint.save(potential, tmp_path / folder / "best.pt")
    starts = [ModelConfig.model_validate({"from": str(tmp_path / k / "best.pt")}) for k in "abc"]
    configs = [config.model_copy(update={"model": start}) for start in starts]
    found = runs_on(configs, 6, 12, 2)
    assert [len(runs) for runs in found.values()] == [2] * 5
    assert list(found) == [
        "a-best",
        "pairnet from scratch",
        "b-best",
        "c-best",
        "pairnet from scratch like c-best",
    ]
    folders = {run.run_dir for runs in found.values() for run in runs}
    assert len(folders) == 10


def test_from_scratch_sees_as_many_frames_as_a_fine_tuning_with_replay(tmp_path):
    config = config_in(tmp_path)
    settings = config.resolved()
    settings["train"]["epochs"] = 4
    settings["finetune"]["replay"] = {"files": [str(tmp_path / "data.extxyz")], "share": 0.5}
    tuned, scratch = runs_on([Config.model_validate(settings)], 12, 12, 1).values()
    assert (tuned[0].train.epochs, scratch[0].train.epochs) == (4, 8)


def test_spread_is_that_of_a_sample():
    figures = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert curve.spread(figures).tolist() == [1.0, 0.0]
    assert np.isnan(curve.spread(figures[:1])).all()
