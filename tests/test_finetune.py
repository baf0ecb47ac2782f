"""Training that starts from a trained model: what it takes over, and what it puts right."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from mlff2d import checkpoint
from mlff2d.atoms import to_graph
from mlff2d.potential import Potential
from mlff2d.training.config import ConfigError
from mlff2d.training.finetuning.adapters import adapters, add_adapters
from mlff2d.training.finetuning.start import Anchor, fit_shift
from mlff2d.training.loop import train
from mlff2d.training.sections import AdapterConfig, Config
from mlff2d.training.setup import prepare
from tests.training_helpers import (
    PairNet,
    PairNetConfig,
    assert_equal,
    contents,
    die_after,
    monolayers,
    small_config,
)

ELEMENTS = (28, 29, 46, 47, 74, 78, 79)
"""Of the metals, and tungsten, which the data lack."""

ZERO = {"Cu": 3.0, "Ag": -2.0, "Au": 0.5, "Ni": 0.0, "Pd": 1.0, "Pt": -7.0}
"""eV an atom that the new data's energies lie above those that the start knows."""


pytestmark = pytest.mark.usefixtures("pairnet")


@pytest.fixture
def start(tmp_path) -> Path:
    """A model with random weights and a short cutoff, whose zero of energy is its own."""
    torch.manual_seed(1)
    model = PairNet(PairNetConfig(ELEMENTS, cutoff=3.7, width=8))
    potential = Potential(model, {z: 0.1 * z for z in ELEMENTS}, scale=0.31, zbl=True)
    checkpoint.save(potential, tmp_path / "start.pt", training={"note": "random weights"})
    return tmp_path / "start.pt"


def write_data(path: Path, start: Path) -> Path:
    """Frames whose energies are the start's own, in another zero."""
    potential = checkpoint.load(start, dtype=torch.float64)
    frames = monolayers()
    for atoms in frames:
        prediction = potential(to_graph(atoms, potential.cutoff))
        energy = float(prediction.energy) + sum(ZERO[s] for s in atoms.symbols)
        forces = prediction.forces.numpy()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    ase.io.write(path, frames)
    return path


def config_from(start: Path, run_dir: Path, data: Path, **train: object) -> Config:
    # A start that is right to many digits has a loss that any step makes a thousand times higher.
    settings = small_config(run_dir, data, max_jump=None, **train).resolved()
    return Config.model_validate(settings | {"model": {"from": str(start)}})


def test_all_of_the_start_is_taken_over(start, tmp_path):
    run = prepare(config_from(start, tmp_path / "run", write_data(tmp_path / "d.extxyz", start)))
    theirs = checkpoint.load(start)
    assert isinstance(run.module, Potential)
    assert run.module.elements == theirs.elements == ELEMENTS
    assert run.module.cutoff == 3.7
    assert run.module.scale == 0.31
    assert run.module.zbl is not None
    assert run.module.references.as_dict() == theirs.references.as_dict()
    for name, weight in theirs.model.state_dict().items():
        assert torch.equal(run.module.model.state_dict()[name], weight)
        assert torch.equal(run.averaged.model.state_dict()[name], weight)
    assert all(p.requires_grad for p in run.module.parameters())


def test_another_zero_of_energy_is_found(start, tmp_path):
    data = write_data(tmp_path / "d.extxyz", start)
    run = prepare(config_from(start, tmp_path / "run", data, dtype="float64"))
    shift = fit_shift(run.module, run.data, run.fixed_batches(run.split.train))
    symbols = {28: "Ni", 29: "Cu", 46: "Pd", 47: "Ag", 78: "Pt", 79: "Au"}
    assert shift.energies == pytest.approx({z: ZERO[s] for z, s in symbols.items()}, abs=1e-5)
    assert shift.before > 1
    assert shift.after < 1e-5
    assert shift.undetermined == ()
    run.move_references(shift)
    moved = run.module.references.as_dict()
    assert moved[74] == pytest.approx(7.4), "an element without data keeps its energy"
    for z, s in symbols.items():
        assert moved[z] == pytest.approx(0.1 * z + ZERO[s], abs=1e-5)
    assert run.averaged.references.as_dict() == moved
    metrics = run.task.evaluate(run.start.module, run.fixed_batches(run.split.test))
    assert metrics.energy < 1e-5


def test_what_compositions_do_not_determine_stays(start, tmp_path):
    """One compound only: its total is put right, the difference of its elements is not touched."""
    data = write_data(tmp_path / "d.extxyz", start)
    run = prepare(config_from(start, tmp_path / "run", data, dtype="float64"))
    ids = [s for s, name in enumerate(run.data.material) if name in ("Cu-Au", "Au-Cu")]
    shift = fit_shift(run.module, run.data, [ids])
    assert shift.energies == pytest.approx({29: 1.75, 79: 1.75}, abs=1e-5)
    assert shift.undetermined == (29, 79)
    assert shift.frames == {29: len(ids), 79: len(ids)}
    run.data.energy[:] = np.nan
    assert fit_shift(run.module, run.data, [ids]).energies == {}


def test_it_is_printed_and_kept_in_the_model_file(start, tmp_path):
    config = config_from(start, tmp_path / "run", write_data(tmp_path / "d.extxyz", start))
    console = Console(file=StringIO(), markup=False, width=400)
    train(config, console)
    printed = console.file.getvalue()
    assert re.search(r"Pt *│ 7\.8000 *│ 0\.8000 *│ -7\.0000 *│ \d+", printed)
    assert printed.index("Reference energies") < printed.index("Data")
    assert "test start" in printed
    training = checkpoint.read(tmp_path / "run" / "best.pt")["training"]
    assert training["start"]["file"] == training["settings"]["model"]["from"] == "start.pt"
    assert len(training["start"]["sha256"]) == 64
    assert training["start"]["reference_shift"]["Pt"] == pytest.approx(-7.0, abs=1e-3)
    assert training["start"]["training"] == {"note": "random weights"}
    assert str(tmp_path) not in json.dumps(training)
    best = checkpoint.load(tmp_path / "run" / "best.pt")
    assert best.references.as_dict()[78] == pytest.approx(0.8, abs=1e-3)
    assert best.scale == 0.31
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test start"]["energy"] < 1e-3 < metrics["test baseline"]["energy"]


@pytest.mark.parametrize("step", [0, 3, 9])
def test_killed_and_resumed_equals_uninterrupted(start, tmp_path, quiet, monkeypatch, step):
    data = write_data(tmp_path / "d.extxyz", start)
    train(config_from(start, tmp_path / "whole", data), quiet)
    config = config_from(start, tmp_path / "killed", data, save_minutes=1e-9)
    die_after(step, config, monkeypatch, console=quiet)
    train(config, quiet)
    assert_equal(contents(tmp_path / "killed"), contents(tmp_path / "whole"))


def test_a_resumed_run_has_the_same_start(start, tmp_path, quiet):
    data = write_data(tmp_path / "d.extxyz", start)
    train(config_from(start, tmp_path / "run", data, epochs=1), quiet)
    moved = start.rename(tmp_path / "moved.pt")
    assert train(config_from(moved, tmp_path / "run", data, epochs=1), quiet).stopped is None
    content = checkpoint.read(moved)
    torch.save(content | {"scale": 0.5}, start)
    with pytest.raises(ConfigError, match=r"the content of model\.from"):
        train(config_from(start, tmp_path / "run", data, epochs=1), quiet)


def test_the_best_of_a_run_starts_the_next(start, tmp_path, quiet):
    data = write_data(tmp_path / "d.extxyz", start)
    train(config_from(start, tmp_path / "one", data, epochs=1), quiet)
    train(config_from(tmp_path / "one" / "best.pt", tmp_path / "two", data, epochs=1), quiet)
    origin = checkpoint.read(tmp_path / "two" / "best.pt")["training"]["start"]
    assert origin["training"]["start"]["file"] == "start.pt"


def test_an_element_that_the_start_does_not_know_is_refused(start, tmp_path):
    # The network has a place for all, but only two were in the data that it learnt from.
    model = PairNet(PairNetConfig(ELEMENTS, cutoff=3.7, width=8))
    small = tmp_path / "small.pt"
    checkpoint.save(Potential(model, {28: 0.0, 29: 0.0}), small)
    data = write_data(tmp_path / "d.extxyz", start)
    with pytest.raises(ConfigError, match=r"small\.pt.*does not know Pd Ag Pt Au"):
        prepare(config_from(small, tmp_path / "run", data))


def test_training_that_does_harm_gives_the_start_back(start, tmp_path):
    """The data are the start's own, so that no other weights can be better."""
    config = config_from(start, tmp_path / "run", write_data(tmp_path / "d.extxyz", start), lr=0.1)
    console = Console(file=StringIO(), markup=False, width=400)
    train(config, console)
    assert "No epoch was better than the start" in console.file.getvalue()
    theirs = checkpoint.load(start).model.state_dict()
    best, last = (
        checkpoint.load(tmp_path / "run" / f"{name}.pt").model.state_dict()
        for name in ("best", "last")
    )
    assert_equal(best, theirs)
    assert any(not torch.equal(last[name], weight) for name, weight in theirs.items())


def finetune_config(start: Path, run_dir: Path, data: Path, **finetune: object) -> Config:
    """With labels that are not the start's own, so that there is something to learn."""
    settings = config_from(start, run_dir, data).resolved()
    return Config.model_validate(settings | {"finetune": finetune})


def emt_data(path: Path) -> Path:
    ase.io.write(path, monolayers())
    return path


def test_weights_stay_near_the_start_where_that_is_asked_for(start, tmp_path, quiet):
    data = emt_data(tmp_path / "d.extxyz")
    theirs = checkpoint.load(start).model.state_dict()

    def distance(name: str) -> float:
        ours = checkpoint.load(tmp_path / name / "last.pt").model.state_dict()
        return sum(float((ours[key] - theirs[key]).square().sum()) for key in theirs)

    for name, weight in (("free", 0.0), ("loose", 0.1), ("tight", 100.0)):
        train(finetune_config(start, tmp_path / name, data, l2_start=weight), quiet)
    assert 0 < distance("tight") < 0.2 * distance("loose")
    assert distance("loose") < 0.9 * distance("free")


def test_the_anchor_is_half_the_squared_distance():
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    anchor = Anchor(module, 3.0)
    with torch.no_grad():
        module.weight += 2.0
        module.bias += 5.0
    penalty = anchor.penalty()
    assert float(penalty.detach()) == pytest.approx(0.5 * 3.0 * 4 * 2.0**2)
    penalty.backward()
    assert torch.allclose(module.weight.grad, torch.full((2, 2), 6.0))


def test_of_a_matrix_with_an_adapter_the_change_counts():
    module = torch.nn.Sequential(torch.nn.Linear(9, 9, bias=False))
    add_adapters(module, AdapterConfig(rank=2, alpha=4.0))
    anchor = Anchor(module, 1.0)
    assert float(anchor.penalty().detach()) == 0.0
    before = module[0].weight.detach().clone()
    torch.nn.init.normal_(adapters(module)[0].left)
    expected = 0.5 * (module[0].weight - before).square().sum()
    assert float(anchor.penalty().detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_what_is_frozen_stays_to_the_bit(start, tmp_path, quiet):
    data = emt_data(tmp_path / "d.extxyz")
    train(finetune_config(start, tmp_path / "run", data, freeze=["element", r"layers\.0"]), quiet)
    theirs = checkpoint.load(start).model.state_dict()
    ours = checkpoint.load(tmp_path / "run" / "last.pt").model.state_dict()
    same = {name for name in theirs if torch.equal(ours[name], theirs[name])}
    assert same == {"element.weight", "layers.0.weight", "layers.0.bias"}


@pytest.mark.parametrize("step", [3, 9])
def test_with_every_rule_killed_and_resumed_equals_uninterrupted(
    start, tmp_path, quiet, monkeypatch, step
):
    data = emt_data(tmp_path / "d.extxyz")
    rules = {
        "freeze": ["element"],
        "lr": {"readout": 2.0},
        "layer_decay": 0.5,
        "l2_start": 0.1,
        "adapters": {"rank": 4},
    }
    train(finetune_config(start, tmp_path / "whole", data, **rules), quiet)
    config = finetune_config(start, tmp_path / "killed", data, **rules)
    settings = config.train.model_copy(update={"save_minutes": 1e-9})
    config = config.model_copy(update={"train": settings})
    die_after(step, config, monkeypatch, console=quiet)
    train(config, quiet)
    assert_equal(contents(tmp_path / "killed"), contents(tmp_path / "whole"))
    model = checkpoint.load(tmp_path / "whole" / "best.pt").model
    assert type(model) is PairNet
    theirs = checkpoint.load(start).model
    difference = (model.layers[2].weight - theirs.layers[2].weight).detach().double()
    assert 1 <= int((torch.linalg.svdvals(difference) > 1e-6).sum()) <= 4


def test_a_rule_for_nothing_stops_before_training(start, tmp_path, quiet):
    data = emt_data(tmp_path / "d.extxyz")
    config = finetune_config(start, tmp_path / "run", data, freeze=["embedding"])
    with pytest.raises(ConfigError, match=r"'embedding' matches nothing.*element"):
        train(config, quiet)


def test_groups_are_printed(start, tmp_path):
    data = emt_data(tmp_path / "d.extxyz")
    console = Console(file=StringIO(), markup=False, width=200)
    train(finetune_config(start, tmp_path / "run", data, freeze=["element"]), console)
    printed = console.file.getvalue()
    assert re.search(r"trained *│ layers\.0,2 \(4\), readout", printed)
    assert re.search(r"frozen *│ element *│ 760 ", printed)


def test_references_of_the_config_are_refused_with_a_start(start, tmp_path):
    settings = config_from(start, tmp_path / "run", tmp_path / "d.extxyz").resolved()
    settings["priors"]["references"] = {"Cu": 1.0}
    with pytest.raises(ValueError, match=r"priors\.references has no meaning with model\.from"):
        Config.model_validate(settings)
