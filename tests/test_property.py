"""A property of a structure: its pooling, its training, its file."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mlff2d import checkpoint
from mlff2d.atoms import to_graph
from mlff2d.errors import StructureError
from mlff2d.graph import Graph, collate
from mlff2d.models import REGISTRY, build_model
from mlff2d.property import POOLINGS, PropertyPredictor, segment_softmax
from mlff2d.training.loop import train
from mlff2d.training.property_metrics import property_metrics, spearman
from mlff2d.training.sections import Config
from mlff2d.training.setup import prepare
from tests.potentials import ELEMENTS, SMALL
from tests.structures import mos2
from tests.training_helpers import (
    PairNet,
    assert_equal,
    contents,
    die_after,
    monolayers,
    small_config,
)

pytestmark = pytest.mark.usefixtures("pairnet")


def predictor(pooling: str, name: str = "m3gnet", seed: int = 0) -> PropertyPredictor:
    """Float64 with random weights, also those of the attention."""
    torch.manual_seed(seed)
    shifts = {z: 0.1 * z for z in ELEMENTS}
    made = PropertyPredictor(build_model(name, SMALL[name]), shifts, 1.7, pooling, "gap", "eV")
    if made.score is not None:
        torch.nn.init.normal_(made.double().score.weight, std=2.0)
    return made.double().eval()


STRUCTURES = [mos2(), mos2(seed=1), Atoms("Cu"), Atoms("CH", [(0, 0, 0), (0, 0, 1.1)])]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_batch_is_its_structures(name: str, pooling: str) -> None:
    model = predictor(pooling, name)
    state = {key: 1.0 for key in model.model.state}
    structures = [atoms.copy() for atoms in STRUCTURES]
    for atoms in structures:
        atoms.info |= state
    graphs = [to_graph(atoms, model.cutoff, model.model.state) for atoms in structures]
    together = model(collate(graphs))
    assert together.dtype == torch.float64
    assert together.shape == (4,)
    alone = [model.predict(atoms) for atoms in structures]
    np.testing.assert_allclose(together.detach(), alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("pooling", "factor"), [("mean", 1), ("attention", 1), ("sum", 4)])
def test_a_larger_cell_of_the_same(pooling: str, factor: int) -> None:
    model = predictor(pooling)
    assert model.predict(mos2() * (2, 2, 1)) == pytest.approx(factor * model.predict(mos2()))


def test_pooling_by_hand() -> None:
    graph = to_graph(mos2(), 4.5)
    shifts = torch.tensor([0.1 * z for z in graph.z.tolist()], dtype=torch.float64)
    for pooling in POOLINGS:
        model = predictor(pooling)
        output = model.model(graph, graph.edge_vectors())
        values = 1.7 * output + shifts
        if pooling == "attention":
            features = model.model.features(graph, graph.edge_vectors())
            weights = torch.softmax(features @ model.score.weight[0], dim=0)
            assert weights.max() > 1.01 * weights.min()
            expected = (weights * values).sum()
        else:
            expected = values.mean() if pooling == "mean" else values.sum()
        assert model(graph).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_attention_starts_as_the_mean_and_can_learn(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, SMALL[name])
    atoms = mos2()
    atoms.info |= dict.fromkeys(network.state, 1.0)
    graph = to_graph(atoms, network.cutoff, network.state)
    pair = [
        PropertyPredictor(network, {16: 0.5, 42: 0.5}, 1.0, p).double()
        for p in ("mean", "attention")
    ]
    assert pair[0](graph).item() == pytest.approx(pair[1](graph).item(), rel=1e-12)
    pair[1](graph).sum().backward()
    assert pair[1].score.weight.grad.abs().max() > 0


@settings(deadline=None, max_examples=50)
@given(
    scores=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=12),
    data=st.data(),
)
def test_weights_of_a_structure_sum_to_one(scores: list[float], data: st.DataObject) -> None:
    n = len(scores)
    cuts = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    index = torch.tensor(cuts).cumsum(0) - cuts[0]
    score = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
    groups = int(index.max()) + 1
    weights = segment_softmax(score, index, groups)
    weights.square().sum().backward()
    assert torch.isfinite(score.grad).all()
    sums = torch.zeros(groups).index_add(0, index, weights.detach())
    torch.testing.assert_close(sums, torch.ones(groups))
    for g in range(groups):
        alone = torch.softmax(score.detach()[index == g], dim=0)
        torch.testing.assert_close(weights.detach()[index == g], alone)


def test_another_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="mean, attention, sum, not 'max'"):
        PropertyPredictor(build_model("m3gnet", SMALL["m3gnet"]), {6: 0.0}, pooling="max")


def test_structures_that_cannot_be_predicted() -> None:
    model = predictor("mean")
    with pytest.raises(StructureError, match="never seen Au"):
        model.predict(Atoms("Au"))
    with pytest.raises(StructureError, match="no atoms"):
        model.predict(Atoms())
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(StructureError, match="NaN or infinity for Mo2S4"):
        model.predict(mos2())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_round_trip_is_exact(pooling: str, tmp_path: Path) -> None:
    model = predictor(pooling)
    checkpoint.save(model, tmp_path / "m.pt", training={"seed": 3})
    loaded = checkpoint.load_property(tmp_path / "m.pt", dtype=torch.float64)
    assert loaded.predict(mos2()) == model.predict(mos2())
    assert (loaded.name, loaded.unit, loaded.pooling) == ("gap", "eV", pooling)
    assert loaded.elements == model.elements
    assert not loaded.training


def learnable(atoms: Atoms) -> float:
    """A property that the model can learn: it depends on pairs of elements and on the area."""
    area = float(np.linalg.norm(np.cross(*atoms.cell.array[:2])))
    return 5 * float(np.sin(atoms.numbers).prod()) + area / 10


def write_frames(path: Path, extensive: bool = False) -> Path:
    frames = monolayers(4)
    for k, atoms in enumerate(frames):
        atoms.calc = None
        atoms.info |= {"gap": learnable(atoms), "material": str(k)}
        if extensive and k % 2:
            frames[k] = atoms * (2, 1, 1)
            frames[k].info["gap"] *= 2
    ase.io.write(path, frames)
    return path


def property_config(run_dir: Path, data: Path, pooling: str = "mean", **train: object) -> Config:
    raw = small_config(run_dir, data, **train).resolved()
    del raw["loss"]
    chosen = {"key": "gap", "pooling": pooling, "unit": "eV"}
    return Config.model_validate(raw | {"property": chosen})


@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_learns_without_building_forces(tmp_path, monkeypatch, pooling):
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kw: pytest.fail("forces built"))
    data = write_frames(tmp_path / "data.extxyz", extensive=pooling == "sum")
    config = property_config(tmp_path / "run", data, pooling, epochs=40, lr=0.02)
    console = Console(file=StringIO(), markup=False, width=200)
    train(config, console)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for part in ("val", "test"):
        assert metrics[part]["mae"] < 0.3 * metrics[f"{part} baseline"]["mae"]
        assert metrics[part]["r2"] > 0.8
        assert metrics[part]["spearman"] > 0.8
    printed = console.file.getvalue()
    assert "Errors in gap" in printed
    assert "MAE (eV)" in printed
    line = next(line for line in printed.splitlines() if "test baseline" in line)
    assert f"{metrics['test baseline']['mae']:.4f}" in line

    content = checkpoint.read(tmp_path / "run" / "best.pt")
    assert content["task"] == "property"
    assert content["training"]["settings"]["property"]["key"] == "gap"
    model = checkpoint.load_property(tmp_path / "run" / "best.pt", dtype=torch.float64)
    run = prepare(config)
    known = [a for k, a in enumerate(ase.io.read(data, ":")) if k in set(run.split.test.tolist())]
    errors = [abs(model.predict(atoms) - atoms.info["gap"]) for atoms in known]
    assert np.mean(errors) == pytest.approx(metrics["test"]["mae"], rel=1e-3)


def test_scale_and_shifts_are_those_of_the_training_part(tmp_path):
    data = write_frames(tmp_path / "data.extxyz")
    run = prepare(property_config(tmp_path / "run", data))
    values = run.data.target[run.split.train]
    assert run.module.scale == pytest.approx(values.std())
    assert list(run.module.shifts.as_dict().values()) == pytest.approx([values.mean()] * 6)
    ids = run.split.test
    metrics = run.task.baselines(run.module, run.fixed_batches(ids))
    expected = np.abs(run.data.target[ids] - values.mean()).mean()
    assert metrics.mae == pytest.approx(expected)
    assert metrics.loss == pytest.approx(expected / values.std())
    assert np.isnan(metrics.spearman), "a constant ranks nothing"

    total = write_frames(tmp_path / "total.extxyz", extensive=True)
    run = prepare(property_config(tmp_path / "run", total, "sum"))
    shifts = run.module.shifts.as_dict()
    ids = run.split.test
    explained = [sum(shifts[int(z)] for z in run.data.atoms_of("z", [s])) for s in ids]
    metrics = run.task.baselines(run.module, run.fixed_batches(ids))
    assert metrics.mae == pytest.approx(np.abs(run.data.target[ids] - explained).mean())
    error = np.abs(run.data.target[ids] - explained) / run.data.n_atoms[ids]
    assert metrics.loss == pytest.approx(error.mean() / run.module.scale)


def test_a_constant_property_is_no_division_by_zero(tmp_path, quiet):
    frames = monolayers(2)
    for atoms in frames:
        atoms.info["gap"] = 0.7
    ase.io.write(tmp_path / "data.extxyz", frames)
    train(property_config(tmp_path / "run", tmp_path / "data.extxyz", epochs=1), quiet)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["r2"] is None
    assert metrics["test baseline"]["mae"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("step", [0, 5, 16])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, quiet, monkeypatch, step):
    data = write_frames(tmp_path / "data.extxyz")
    train(property_config(tmp_path / "whole", data, "attention"), quiet)
    config = property_config(tmp_path / "killed", data, "attention", save_minutes=1e-9)
    die_after(step, config, monkeypatch, console=quiet)
    train(config, quiet)
    assert_equal(contents(tmp_path / "killed"), contents(tmp_path / "whole"))


def test_the_network_of_a_potential_starts_a_property(tmp_path, quiet):
    frames = monolayers(2)
    for atoms in frames:
        atoms.info["gap"] = learnable(atoms)
    ase.io.write(tmp_path / "data.extxyz", frames)
    train(small_config(tmp_path / "potential", tmp_path / "data.extxyz", epochs=1), quiet)
    start = tmp_path / "potential" / "best.pt"
    raw = property_config(tmp_path / "run", tmp_path / "data.extxyz").resolved()
    config = Config.model_validate(raw | {"model": {"from": str(start)}})
    run = prepare(config)
    for name, weight in checkpoint.load(start).model.state_dict().items():
        assert torch.equal(run.module.model.state_dict()[name], weight)
    train(config, quiet)
    best = tmp_path / "run" / "best.pt"
    assert checkpoint.read(best)["training"]["start"]["reference_shift"] == {}
    again = Config.model_validate(raw | {"model": {"from": str(best)}})
    assert isinstance(prepare(again).module, PropertyPredictor)


class Stateful(PairNet):
    """Takes a temperature in, and gives it out."""

    state = ("temperature",)

    def forward(self, graph: Graph, edge_vec: torch.Tensor) -> torch.Tensor:
        return 1e-9 * super().forward(graph, edge_vec) + graph.state[graph.batch, 0]


def test_the_state_of_a_structure_reaches_the_model(tmp_path, quiet, monkeypatch):
    monkeypatch.setitem(REGISTRY, "pairnet", Stateful)
    frames = monolayers(2)
    for k, atoms in enumerate(frames):
        atoms.info |= {"gap": 1.0 * k, "temperature": 300.0 + k}
    del frames[3].info["temperature"]
    frames[4].info["temperature"] = "hot"
    ase.io.write(tmp_path / "data.extxyz", frames)
    config = property_config(tmp_path / "run", tmp_path / "data.extxyz")
    run = prepare(config)
    assert run.conversion.refused == {"no usable structure": 2}
    assert "'temperature'" in run.conversion.examples["no usable structure"]
    graph, _ = run.data.batch([2, 3], torch.float64)
    assert graph.state.tolist() == [[302.0], [305.0]]
    expected = run.module.scale * graph.state[:, 0] + run.module.shifts.as_dict()[29]
    torch.testing.assert_close(
        run.module.double()(graph).detach(), expected.double(), rtol=1e-6, atol=0
    )
    assert run.module.eval().predict(frames[2]) == pytest.approx(float(expected[0]), rel=1e-6)


def test_figures_by_hand() -> None:
    true = np.array([1.0, 2.0, 3.0, 4.0])
    found = property_metrics(np.array([1.0, 2.0, 3.0, 8.0]), true, loss=0.3)
    assert (found.mae, found.rmse, found.loss) == (1.0, 2.0, 0.3)
    assert found.r2 == pytest.approx(1 - 4 / 1.25)
    assert found.spearman == pytest.approx(1)
    assert spearman(-true, true) == pytest.approx(-1)
    assert np.isnan(spearman(np.ones(4), true))
    assert property_metrics(true, np.ones(4), 0.0).as_dict()["r2"] is None


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=20))
def test_rank_correlation_with_ties_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    from scipy.stats import spearmanr

    a, b = np.array(pairs, dtype=float).T
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert spearman(a, b) == pytest.approx(float(spearmanr(a, b).statistic), abs=1e-12)
