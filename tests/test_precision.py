"""Products of matrices in bfloat16 and TF32: where they are, where they are not, and refusals."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from mlff2d import checkpoint, potential
from mlff2d.models import REGISTRY
from mlff2d.training.config import ConfigError
from mlff2d.training.loop import train
from mlff2d.training.sections import Config
from mlff2d.training.setup import Run, prepare
from tests.training_helpers import PairNet, small_config, write_monolayers

ABLE = sorted(name for name in REGISTRY if REGISTRY[name].allows_bf16)


@pytest.fixture(autouse=True)
def _pairnet(monkeypatch):
    monkeypatch.setattr(PairNet, "allows_bf16", True)
    monkeypatch.setitem(REGISTRY, "pairnet", PairNet)


@pytest.fixture(autouse=True)
def _tf32():
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_monolayers(tmp_path_factory.mktemp("data") / "metals.extxyz", 1)


def with_model(config: Config, name: str) -> Config:
    return Config.model_validate(config.resolved() | {"model": {"name": name, "cutoff": 4.5}})


def gradient(run: Run) -> Tensor:
    """Of a batch with energies, forces and stress, so by a second derivative."""
    ids = run.split.train[:12].tolist()
    graph, labels = run.data.batch(ids)
    run.module.zero_grad()
    counts = run.task.counts(graph, labels)
    run.task.loss(run.module, graph, labels, ids, counts).backward()
    return torch.cat([p.grad.flatten() for p in run.module.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ABLE)
def test_gradients_in_bfloat16_point_where_those_in_float32_do(data, tmp_path, name):
    run = prepare(with_model(small_config(tmp_path / "run", data, bf16=True), name))
    assert run.module.model.autocast is torch.bfloat16
    rough = gradient(run)
    run.module.model.autocast = None
    exact = gradient(run)
    assert not torch.equal(rough, exact)
    cosine = float(torch.dot(rough, exact) / rough.norm() / exact.norm())
    print(f"{name}: cosine {cosine:.5f}, length {float(rough.norm() / exact.norm()):.4f}")
    assert rough.dtype is torch.float32
    assert cosine > 0.99
    assert float(rough.norm() / exact.norm()) == pytest.approx(1.0, abs=0.02)


def test_only_the_network_is_in_bfloat16(data, tmp_path, monkeypatch):
    run = prepare(small_config(tmp_path / "run", data, bf16=True))
    seen: dict[str, list[Any]] = {"edges": [], "hidden": [], "readout": [], "virial": []}
    model: Any = run.module.model
    model.register_forward_pre_hook(lambda *args: seen["edges"].append(args[1][1]))
    real = potential._virial

    def virial(*args: Any) -> Tensor:
        seen["virial"].append(torch.is_autocast_enabled("cpu"))
        return real(*args)

    monkeypatch.setattr(potential, "_virial", virial)
    model.layers[0].register_forward_hook(lambda *args: seen["hidden"].append(args[2].dtype))
    model.readout.register_forward_hook(lambda *args: seen["readout"].append(args[2].dtype))
    ids = run.split.train[:4].tolist()
    graph, _ = run.data.batch(ids)
    prediction = run.module(graph)
    assert seen["hidden"] == [torch.bfloat16]
    assert seen["readout"] == [torch.float32]
    assert prediction.energy.dtype is torch.float64
    assert prediction.forces.dtype is prediction.virial.dtype is torch.float32
    assert all(p.dtype is torch.float32 for p in run.module.parameters())
    assert all(p.dtype is torch.float32 for p in run.averaged.parameters())
    assert torch.equal(seen["edges"][0], graph.edge_vectors())
    assert seen["virial"] == [False]
    assert run.averaged.model.autocast is None


def test_a_run_in_bfloat16_learns_and_is_judged_in_float32(data, tmp_path):
    quiet = Console(quiet=True)
    config = small_config(tmp_path / "bf16", data, bf16=True, epochs=6)
    train(config, quiet)
    train(small_config(tmp_path / "float32", data, epochs=6), quiet)
    losses = {}
    for name in ("bf16", "float32"):
        rows = [json.loads(x) for x in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        losses[name] = [row["val"]["loss"] for row in rows]
    assert losses["bf16"][-1] < 0.7 * losses["bf16"][0]
    assert losses["bf16"][-1] == pytest.approx(losses["float32"][-1], rel=0.05)
    assert losses["bf16"] != losses["float32"]
    run = prepare(config)
    last = checkpoint.load(tmp_path / "bf16" / "last.pt")
    judged = run.task.evaluate(last, run.fixed_batches(run.split.val))
    assert judged.loss == pytest.approx(losses["bf16"][-1], rel=1e-6)


def test_reference_energies_are_moved_in_float32(data, tmp_path):
    config = small_config(tmp_path / "run", data)
    checkpoint.save(prepare(config).averaged, tmp_path / "start.pt", {})
    shifts = []
    for bf16 in (False, True):
        settings = config.resolved() | {"model": {"from": str(tmp_path / "start.pt")}}
        settings["run_dir"] = tmp_path / f"bf16 {bf16}"
        settings["train"] |= {"bf16": bf16, "epochs": 1}
        train(Config.model_validate(settings), Console(quiet=True))
        training = checkpoint.read(settings["run_dir"] / "best.pt")["training"]
        shifts.append(training["start"]["reference_shift"])
    assert max(map(abs, shifts[0].values())) > 0.001
    assert shifts[0] == shifts[1]


def test_what_bfloat16_cannot_go_with_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.bf16 .* cannot go with train\.dtype float64"):
        prepare(small_config(tmp_path, data, bf16=True, dtype="float64"))
    # At the start its gradient in bfloat16 is up to 8 % longer than that in float32.
    with pytest.raises(ConfigError, match=r"megnet has not been seen to learn .* one of .*painn"):
        prepare(with_model(small_config(tmp_path, data, bf16=True), "megnet"))


def test_tf32_is_for_gpus_and_only_where_it_is_asked_for(data, tmp_path):
    console = Console(file=StringIO(), width=200)
    train(small_config(tmp_path / "run", data, tf32=True, epochs=1), console)
    printed = console.file.getvalue()
    assert printed.count("train.tf32 has no effect on a CPU") == 1
    assert torch.backends.cuda.matmul.allow_tf32
    prepare(small_config(tmp_path / "other", data))
    assert not torch.backends.cuda.matmul.allow_tf32
