"""What a batch keeps for its backward pass: counted right, foreseen, and kept below a ceiling."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from mlff2d.training import loop, setup
from mlff2d.training.badbatch import TrainingError
from mlff2d.training.loop import train
from mlff2d.training.memory import GB, batch_limit, bytes_kept, heaviest, measure, memory_notes
from mlff2d.training.sections import Config, StageTwoConfig
from mlff2d.training.setup import Run, prepare
from tests.training_helpers import assert_equal, contents, die_after, small_config

MODELS: dict[str, dict[str, Any]] = {
    "painn": {"name": "painn", "channels": 8, "cutoff": 5.0},
    "m3gnet": {"name": "m3gnet", "channels": 8, "cutoff": 5.0, "threebody_cutoff": 4.0},
    "mace": {"name": "mace", "hidden_irreps": "4x0e+4x1o", "cutoff": 5.0},
}


pytestmark = pytest.mark.usefixtures("pairnet")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Square monolayers of one to nine atoms, some with twice the neighbours of others."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(60):
        a = 2.3 + 1.3 * (k % 7) / 6
        n = 1 + k % 3
        atoms = Atoms("Cu", cell=[a, a, 15.0], pbc=(True, True, False)).repeat((n, n, 1))
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        atoms.info["material"] = f"m{k}"
        atoms.calc = EMT()
        names = ("energy", "forces", "stress")
        labels = {name: atoms.calc.get_property(name, atoms) for name in names}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / "copper.extxyz"
    ase.io.write(path, frames)
    return path


def prepared(data: Path, folder: Path, model: dict[str, Any] | None = None, **train: Any) -> Run:
    config = small_config(folder / "run", data, **train)
    if model is not None:
        config = Config.model_validate(config.resolved() | {"model": model})
    return prepare(config)


def kept_by(run: Run, ids: list[int]) -> int:
    return bytes_kept(run.task, run.module, run.data, ids)


@pytest.mark.parametrize("name", MODELS)
def test_the_estimate_holds_for_other_batches(data, tmp_path, name):
    """Within a fifth, for batches of structures that were not counted."""
    run = prepared(data, tmp_path, MODELS[name])
    ids = run.split.train
    use = measure(run.task, run.module, run.data, ids)
    assert use is not None
    density = run.data.n_edges[ids] / run.data.n_atoms[ids]
    assert density.max() > 1.8 * density.min()
    rng = np.random.default_rng(1)
    for _ in range(4):
        batch = rng.permutation(ids)[:12]
        estimate = use.of(run.data.n_edges[batch], run.data.n_atoms[batch]).sum()
        kept = kept_by(run, batch.tolist())
        print(f"{name}: estimate / counted {estimate / kept:.3f}")
        assert 0.8 < estimate / kept < 1.2
        ceiling = use.per_edge.max() * run.data.n_edges[batch].sum()
        assert kept < 1.02 * ceiling


def test_the_count_is_what_the_allocator_sees(data, tmp_path):
    run = prepared(data, tmp_path, MODELS["painn"])
    ids = run.split.train[:16].tolist()
    graph, labels = run.data.batch(ids)
    counts = run.task.counts(graph, labels)
    run.task.loss(run.module, graph, labels, ids, counts)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        loss = run.task.loss(run.module, graph, labels, ids, counts)
    assert loss.requires_grad  # so that all that it needs is still there
    events = watched.profiler.kineto_results.events()
    allocated = sum(event.nbytes() for event in events if event.name() == "[memory]")
    inputs = sum(t.nbytes for t in (*vars(graph).values(), *vars(labels).values()))
    assert allocated == pytest.approx(kept_by(run, ids), abs=inputs, rel=0.05)


def test_the_second_derivative_and_the_precision_count(data, tmp_path):
    run = prepared(data, tmp_path)
    ids = run.split.train[:16].tolist()
    whole = kept_by(run, ids)
    assert kept_by(run, ids) == whole
    exact = prepared(data, tmp_path, dtype="float64")
    assert 1.6 < kept_by(exact, ids) / whole < 2.1
    energies = run.task.config.model_copy(update={"forces": 0.0, "stress": 0.0})
    run.task.config = energies
    assert kept_by(run, ids) < 0.6 * whole
    later = energies.model_copy(
        update={"stage_two": StageTwoConfig(epoch=2, energy=1.0, forces=1.0, stress=0.1)}
    )
    run.task.config = later
    assert bytes_kept(heaviest(run.task, later), run.module, run.data, ids) == whole
    assert run.task.config is later


def test_twice_the_memory_is_twice_the_edges(data, tmp_path):
    run = prepared(data, tmp_path)

    def limit(gigabytes: float, edges: int = 10**9) -> int:
        config = run.config.train.model_copy(
            update={"batch_memory": gigabytes, "batch_edges": edges}
        )
        return batch_limit(config, run.task, run.module, run.data, run.split.train)[1]

    assert limit(0.02) == pytest.approx(2 * limit(0.01), abs=1)
    assert limit(0.02, 50) == 50
    assert limit(1e-12) == 1


def test_batches_stay_below_the_ceiling_and_a_run_goes_on_with_the_same(
    data, tmp_path, monkeypatch
):
    ceiling = 3e-4
    console = Console(file=StringIO(), width=200)
    config = small_config(tmp_path / "whole", data, batch_memory=ceiling, save_minutes=1e-9)
    train(config, console)
    printed = console.file.getvalue()
    run = prepare(config)
    assert 0 < run.batch_edges < config.train.batch_edges
    assert f"an edge keeps {run.memory.per_edge.min() / 1e3:.3g}" in printed
    assert f"a batch has at most {run.batch_edges:,} edges" in printed
    batches = loop._batches_of_epoch(run)
    kept = [kept_by(run, batch) for batch in batches if len(batch) > 1]
    assert 0.5 * ceiling * GB < max(kept) < 1.02 * ceiling * GB

    killed = config.model_copy(update={"run_dir": tmp_path / "killed"})
    die_after(4, killed, monkeypatch, console=console)
    # Another version of torch may keep more; the batches of a run stay what they were.
    real = setup.batch_limit
    monkeypatch.setattr(setup, "batch_limit", lambda *args: (real(*args)[0], 7))
    train(killed, console)
    assert_equal(contents(tmp_path / "killed"), contents(tmp_path / "whole"))


def test_a_structure_above_the_ceiling_is_named(data, tmp_path):
    run = prepared(data, tmp_path, batch_memory=4e-5)
    train_config, ids = run.config.train, run.split.train
    _, second = memory_notes(run.memory, run.batch_edges, train_config, run.data, ids)
    kept = run.memory.of(run.data.n_edges[ids], run.data.n_atoms[ids])
    n_above = int((kept > 4e4).sum())
    assert 1 < n_above < len(ids)
    assert second.startswith(f"{n_above} structures keep more than that even alone")
    worst = ids[np.argmax(kept)]
    assert f"{kept.max() / GB:.3g} GB ({run.data.name(worst)})" in second

    one = ids[np.argsort(kept)][-1:]
    [_, note] = memory_notes(run.memory, run.batch_edges, train_config, run.data, one)
    assert note.startswith("1 structure keeps more")
    assert memory_notes(None, 5, train_config, run.data, ids) == []


def test_a_full_gpu_is_one_sentence_with_the_figure_that_fits(data, tmp_path, monkeypatch):
    """No GPU here: the error is raised by hand, in the third step."""
    run = prepared(data, tmp_path)
    original, calls = type(run.task).loss, []

    def full(self: Any, module: Any, graph: Any, *args: Any) -> torch.Tensor:
        calls.append(graph.n_edges)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return original(self, module, graph, *args)

    monkeypatch.setattr(type(run.task), "loss", full)
    there = SimpleNamespace(total_memory=int(5e5))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: there)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(TrainingError) as error:
        train(run.config, Console(quiet=True))
    sentence = str(error.value)
    assert sentence.startswith("epoch 1, step 3: the 0.0005 GB of the GPU are not enough for")
    assert f"8 structures with {calls[2]} edges, which keep 0.00" in sentence
    assert "train.batch_memory of at most 0.0003 or train.batch_edges of at most" in sentence
    edges = int(sentence.rstrip(".").rpartition(" ")[2])
    assert 0 < edges < calls[2]
