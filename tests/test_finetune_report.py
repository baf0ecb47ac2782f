"""Fine-tuning as a command, and what it says at the end."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from mlff2d import checkpoint, cli
from mlff2d.atoms import to_graph
from mlff2d.potential import Potential
from mlff2d.training.config import load_config
from mlff2d.training.finetuning.forgetting import change_between, prototypes
from mlff2d.training.finetuning.report import change_epochs, fine_tune, from_scratch, verdict
from mlff2d.training.metrics import EnergyMetrics
from mlff2d.training.sections import Config
from tests.training_helpers import PairNet, PairNetConfig, monolayers, small_config

KNOWN = (5, 6, 7, 16, 28, 29, 34, 42, 46, 47, 78, 79)


pytestmark = pytest.mark.usefixtures("pairnet")


@pytest.fixture
def start(tmp_path) -> Path:
    torch.manual_seed(1)
    model = PairNet(PairNetConfig(KNOWN, cutoff=3.7, width=8))
    checkpoint.save(Potential(model, dict.fromkeys(KNOWN, 0.5)), tmp_path / "start.pt")
    return tmp_path / "start.pt"


@pytest.fixture
def data(tmp_path) -> Path:
    frames = monolayers(1)
    for number, atoms in enumerate(frames):
        atoms.info["config"] = f"c{number % 18}"
    ase.io.write(tmp_path / "alloy.extxyz", frames)
    return tmp_path / "alloy.extxyz"


def config_of(start: Path, data: Path, run_dir: Path, **finetune: object) -> Config:
    settings = small_config(run_dir, data, epochs=2, max_jump=None).resolved()
    settings["model"] = {"from": str(start)}
    return Config.model_validate(settings | {"finetune": finetune})


def losses(**values: float) -> dict[str, EnergyMetrics]:
    names = {"start": "start", "tuned": "fine-tuned", "scratch": "from scratch"}
    return {
        names[key]: EnergyMetrics(loss=loss, energy=0.0, forces=0.0, stress=0.0)
        for key, loss in values.items()
    }


def test_from_a_start_and_a_file_to_a_report(start, data, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["finetune", "--from", str(start), str(data), "-o", "out"]
    command += ["--set", "train.epochs=2", "--set", "train.device=cpu"]
    assert cli.main(command) == 0
    printed = " ".join(capfd.readouterr().err.split())
    assert "Split by info entry 'config' (18 groups of 36 frames)" in printed
    for words in (
        "Reference energies",
        "Parameters",
        "From scratch in the same budget",
        "Forgetting",
    ):
        assert words in printed
    report = json.loads(Path("out/finetune.json").read_text())
    assert set(report["errors"]) == {"val", "test"}
    assert set(report["errors"]["test"]) == {"start", "fine-tuned", "from scratch", "baseline"}
    assert report["forgetting"]["change"]["n_compounds"] > 0
    assert report["forgetting"]["change"]["forces"] > 0
    assert all(sentence.strip() in printed for sentence in report["verdict"])
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert report["errors"]["test"]["start"] == metrics["test start"]
    assert report["errors"]["test"]["fine-tuned"] == metrics["test"]
    scratch = load_config(Path("out/scratch/config.yaml"))
    assert (scratch.model.name, scratch.train.epochs, scratch.train.lr) == ("pairnet", 2, 3e-3)
    # The settings that were used are a config to go on from.
    assert cli.main(["finetune", "out/config.yaml"]) == 0
    assert "Going on with out" in capfd.readouterr().err
    assert cli.main(["train", "out/config.yaml"]) == 0
    assert "Report: out/finetune.json" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alloy.extxyz"], "--from is missing"),
        (["--from", "start.pt", "config.yaml"], "config.yaml is a config"),
        (["--from", "start.pt", "--from", "start.pt", "alloy.extxyz"], "add --curve"),
        (["--from", "nothing.pt", "alloy.extxyz"], "no model file or shipped model 'nothing.pt'"),
        (["--from", "start.pt", "nothing.extxyz"], "nothing.extxyz"),
        (["--from", "start.pt", "alloy.extxyz", "--curve", "ten"], "is no list of numbers"),
        (["--from", "start.pt", "alloy.extxyz", "--seeds", "5"], "--seeds is about a learning"),
        (["some.yaml", "--curve", "3", "--seeds", "0"], "--seeds must be at least 1"),
        (["some.yaml", "--curve", "3", "--skip-bad-batch"], "--skip-bad-batch is about one run"),
        (["--from", "start.pt", "alloy.extxyz", "--set", "finetune.frezee=[a]"], "'freeze'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    start, data, tmp_path, capfd, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) if "ten" in arguments else _nothing():
        assert cli.main(["finetune", *arguments]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("best.pt"))


class _nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *args: object) -> None:
        pass


def test_the_verdict_follows_the_validation_part(tmp_path):
    config = small_config(tmp_path / "run", tmp_path / "d.extxyz")
    better = verdict(losses(start=2.0, tuned=1.0, scratch=4.0), 3, config)
    assert "Fine-tuning helped" in better[0]
    assert "50% of it" in better[0]
    assert "better than training from scratch" in better[1]
    assert "25% of it" in better[1]
    worse = verdict(losses(start=2.0, tuned=1.0, scratch=0.5), 3, config)
    assert "Training from scratch was better" in worse[1]
    assert str(tmp_path / "run" / "scratch" / "best.pt") in worse[1]
    same = verdict(losses(start=2.0, tuned=1.99), 3, config)
    assert "next to no difference" in same[0]
    assert "did not help" in verdict(losses(start=2.0, tuned=2.0), 0, config)[0]
    harm = verdict(losses(start=2.0, tuned=2.5), 3, config)  # of a second stage
    assert "did harm: the validation loss is 2.5, that of the start" in harm[0]


def test_harm_is_said_and_the_start_given_back(start, tmp_path, monkeypatch):
    """The labels are the start's own, so that every step does harm."""
    potential = checkpoint.load(start, dtype=torch.float64)
    frames = monolayers(1)
    for atoms in frames:
        prediction = potential(to_graph(atoms, potential.cutoff), create_graph=False)
        results = {"energy": float(prediction.energy), "forces": prediction.forces.numpy()}
        atoms.calc = SinglePointCalculator(atoms, **results)
    ase.io.write(tmp_path / "own.extxyz", frames)
    console = Console(file=StringIO(), markup=False, width=400)
    config = config_of(start, tmp_path / "own.extxyz", tmp_path / "run", scratch=False)
    fine_tune(config, console)
    assert "Fine-tuning did not help" in console.file.getvalue()
    report = json.loads((tmp_path / "run" / "finetune.json").read_text())
    assert report["errors"]["val"]["fine-tuned"] == report["errors"]["val"]["start"]
    assert report["forgetting"]["change"]["energy"] == pytest.approx(0.0, abs=1e-7)


def test_forgetting_on_held_out_data(start, data, tmp_path):
    rng = np.random.default_rng(3)
    frames = monolayers(1, seed=4)
    for atoms in frames:
        forces = rng.normal(size=(2, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    ase.io.write(tmp_path / "old.extxyz", frames)
    old = [str(tmp_path / "old.extxyz")]
    console = Console(file=StringIO(), markup=False, width=200)
    fine_tune(config_of(start, data, tmp_path / "run", scratch=False, old=old), console)
    report = json.loads((tmp_path / "run" / "finetune.json").read_text())["forgetting"]
    assert report["frames"] == len(frames)
    assert report["before"]["forces"] != report["after"]["forces"]
    # Of the start as it was: its energies are not those of the new level of theory.
    potential = checkpoint.load(start)
    energies = [float(potential(to_graph(a, 3.7).to(dtype=torch.float32)).energy) for a in frames]
    assert report["before"]["energy"] == pytest.approx(np.abs(energies).mean() / 2, rel=1e-4)
    assert "errors on 36 held-out frames of the old data" in console.file.getvalue()


def test_from_scratch_is_the_architecture_of_the_start(start, data, tmp_path):
    config = config_of(start, data, tmp_path / "run", scratch_lr=0.5)
    scratch = from_scratch(config, tmp_path / "new", 7)
    assert scratch.model.settings() == {"cutoff": 3.7, "width": 8}
    assert (scratch.train.lr, scratch.train.epochs) == (0.5, 7)
    assert scratch.finetune is None
    assert scratch.split == config.split
    assert scratch.loss == config.loss


def test_prototypes_are_of_other_elements_that_the_start_knows():
    found = prototypes(KNOWN, new=(16, 42))
    formulas = {atoms.get_chemical_formula() for atoms in found}
    assert formulas == {"C2", "BN", "MoSe2", "PtS2", "PtSe2"}
    assert all(atoms.pbc.tolist() == [True, True, False] for atoms in found)


def test_change_of_area_is_that_of_a_potential_whose_lengths_are_scaled():
    """All distances of the second model are 1 % longer, so is its lattice."""

    class Spring(PairNet):
        def forward(self, graph, edge_vec):
            i, _ = graph.edge_index
            d = edge_vec.norm(dim=1)
            near = torch.nonzero(d < 1.9).flatten()
            energy = (d[near] - self.length).square()
            return energy.new_zeros(graph.n_atoms).index_add(0, i[near], energy)

    models = []
    for length in (1.42, 1.42 * 1.01):
        model = Spring(PairNetConfig((6,), cutoff=3.0))
        model.length = length
        models.append(Potential(model, {6: 0.0}).double())
    (graphene,) = prototypes((6,), new=())
    change = change_between(*models, [graphene])
    assert change.area == pytest.approx(1.01**2 - 1, rel=1e-3)
    assert change.n_compounds == 1
    same = change_between(models[0], models[0], [graphene])
    assert (same.energy, same.forces, same.area) == (0.0, 0.0, 0.0)


def test_the_second_stage_moves_with_the_number_of_epochs():
    settings = {"train": {"epochs": 10}, "loss": {"stage_two": {"epoch": 8, "lr": 1.0}}}
    change_epochs(settings, 50)
    assert settings == {"train": {"epochs": 50}, "loss": {"stage_two": {"epoch": 40, "lr": 1.0}}}
    change_epochs(settings, 1)
    assert settings == {"train": {"epochs": 1}, "loss": {"stage_two": None}}
