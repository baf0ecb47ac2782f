"""Old frames among the new ones: which may be drawn, how many, and whose labels they have."""

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

from mlff2d import checkpoint
from mlff2d.potential import Potential
from mlff2d.training.config import ConfigError
from mlff2d.training.data.splits import part_of
from mlff2d.training.finetuning.replay import held_out
from mlff2d.training.finetuning.report import scratch_config
from mlff2d.training.lineage import trainings
from mlff2d.training.loop import train
from mlff2d.training.sections import Config
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

OLD_SPLIT = {"val": 0.2, "test": 0.2, "seed": 3}
SHIFT = {"Cu": 3.0, "Ni": -2.0}
"""What the new energies of an atom lie above those of the old level of theory."""


pytestmark = pytest.mark.usefixtures("pairnet")


@pytest.fixture
def old_data(tmp_path) -> Path:
    """Frames of all metals but gold, in the zero of energy of EMT."""
    path = tmp_path / "old.extxyz"
    ase.io.write(path, [atoms for atoms in monolayers(1) if "Au" not in atoms.symbols])
    return path


@pytest.fixture
def start(tmp_path, old_data, quiet) -> Path:
    """A model trained on the old data, which says so in its file."""
    config = small_config(tmp_path / "old", old_data, epochs=1)
    train(config.model_copy(update={"split": config.split.model_copy(update=OLD_SPLIT)}), quiet)
    return tmp_path / "old" / "best.pt"


@pytest.fixture
def new_data(tmp_path) -> Path:
    """Other frames of copper and nickel alone, at another zero of energy."""
    path = tmp_path / "new.extxyz"
    frames = [a for a in monolayers(6, seed=7) if set(a.symbols) <= set(SHIFT)]
    for number, atoms in enumerate(frames):
        energy = atoms.get_potential_energy() + sum(SHIFT[s] for s in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=atoms.get_forces())
        atoms.info["material"] = f"run {number}"
    ase.io.write(path, frames)
    return path


def config_of(start: Path, data: Path, run_dir: Path, old: Path, **replay: object) -> Config:
    settings = small_config(run_dir, data, max_jump=None, epochs=2).resolved()
    settings["model"] = {"from": str(start)}
    settings["finetune"] = {"replay": {"files": [str(old)], "share": 0.25} | replay}
    return Config.model_validate(settings)


def test_only_what_the_start_was_trained_on_is_drawn(start, old_data, new_data, tmp_path):
    run = prepare(config_of(start, new_data, tmp_path / "run", old_data))
    assert run.replay is not None
    names = {run.data.material[s] for s in run.replay.ids}
    assert len(run.replay.ids) > 5
    assert {part_of(name, 3, 0.2, 0.2) for name in names} == {"train"}
    assert run.data.sources[1]["name"] == "old.extxyz"
    assert run.replay.sources == (1,)
    assert "as they were when the start was trained" in run.replay.note
    assert not set(run.replay.ids) & set(np.concatenate([run.split.train, run.split.val]))


def test_what_the_new_data_hold_out_is_not_replayed(start, old_data, new_data, tmp_path):
    """The old files hold the new frames as well."""
    both = tmp_path / "both.extxyz"
    ase.io.write(both, ase.io.read(old_data, ":") + ase.io.read(new_data, ":"))
    run = prepare(config_of(start, new_data, tmp_path / "run", both))
    assert run.replay is not None
    prints = run.data.fingerprint
    judged = prints[np.concatenate([run.split.val, run.split.test])]
    assert np.isin(prints[len(prints) - len(ase.io.read(new_data, ":")) :], judged).any()
    assert not np.isin(prints[run.replay.ids], judged).any()
    assert "validation or test of the new data hold" in run.replay.note


def test_the_share_of_an_epoch_is_drawn_anew_by_seed_and_epoch(start, old_data, new_data, tmp_path):
    run = prepare(config_of(start, new_data, tmp_path / "run", old_data))
    assert run.replay is not None
    ids = run.epoch_ids()
    drawn = np.setdiff1d(ids, run.split.train)
    assert len(drawn) / len(ids) == pytest.approx(0.25, abs=0.03)
    assert len(np.unique(ids)) == len(ids)
    assert np.array_equal(run.epoch_ids(), ids)
    run.epoch = 1
    assert set(run.epoch_ids()) != set(ids)


def test_labels_of_files_move_with_the_reference_energies(start, old_data, new_data, tmp_path):
    run = prepare(config_of(start, new_data, tmp_path / "run", old_data))
    assert run.replay is not None
    before = run.data.energy.copy()
    train(run.config, Console(quiet=True))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    shift = state["shift"]["energies"]
    assert set(shift) == {28, 29}
    run.move_references(type("S", (), {"energies": shift}))  # type: ignore[arg-type]
    for s in run.replay.ids:
        moved = sum(shift.get(int(z), 0.0) for z in run.data.atoms_of("z", [s]))
        assert run.data.energy[s] - before[s] == pytest.approx(moved, abs=1e-9)
    new = run.split.train
    assert np.array_equal(run.data.energy[new], before[new])


def test_the_start_labels_structures_that_have_none(start, new_data, tmp_path):
    frames = [atoms for atoms in monolayers(1, seed=9) if "Au" not in atoms.symbols]
    for atoms in frames:
        atoms.calc = None
    bare = tmp_path / "bare.extxyz"
    ase.io.write(bare, frames)
    run = prepare(config_of(start, new_data, tmp_path / "run", bare, labels="start"))
    assert run.replay is not None
    teacher = run.replay.teacher
    assert teacher is not None
    assert np.isnan(run.data.energy[run.replay.ids]).all()
    ids = [int(run.split.train[0]), int(run.replay.ids[0]), int(run.replay.ids[1])]
    graph, labels = run.data.batch(ids)
    relabelled = run.replay.relabelled(graph, labels, ids)
    expected = teacher(graph, create_graph=False)
    assert relabelled.energy[0] == labels.energy[0]
    assert torch.allclose(relabelled.energy[1:], expected.energy[1:], atol=1e-6)
    old = graph.batch > 0
    assert torch.allclose(relabelled.forces[old], expected.forces[old], atol=1e-6)
    assert torch.equal(relabelled.forces[~old], labels.forces[~old])
    assert torch.isfinite(relabelled.virial[1:]).all()
    with pytest.raises(ValueError, match=r"bare\.extxyz: no frame can be used"):
        prepare(config_of(start, new_data, tmp_path / "run", bare, labels="files"))


def test_what_the_start_does_not_know_is_not_replayed(start, new_data, tmp_path):
    path = tmp_path / "gold.extxyz"
    ase.io.write(path, monolayers(1))
    run = prepare(config_of(start, new_data, tmp_path / "run", path))
    assert run.replay is not None
    assert not any("Au" in run.data.material[s] for s in run.replay.ids)
    assert "split anew" in run.replay.note
    ase.io.write(path, [atoms for atoms in monolayers(1) if set(atoms.symbols) == {"Au"}])
    with pytest.raises(ConfigError, match=r"finetune\.replay\.files: no frame is left"):
        prepare(config_of(start, new_data, tmp_path / "run", path))


@pytest.mark.parametrize("labels", ["files", "start"])
def test_killed_and_resumed_equals_uninterrupted(
    start, old_data, new_data, tmp_path, quiet, monkeypatch, labels
):
    train(config_of(start, new_data, tmp_path / "whole", old_data, labels=labels), quiet)
    config = config_of(start, new_data, tmp_path / "killed", old_data, labels=labels)
    train_settings = config.train.model_copy(update={"save_minutes": 1e-9})
    config = config.model_copy(update={"train": train_settings})
    die_after(3, config, monkeypatch, console=quiet)
    train(config, quiet)
    assert_equal(contents(tmp_path / "killed"), contents(tmp_path / "whole"))


def test_the_model_file_tells_old_data_from_new(start, old_data, new_data, tmp_path):
    console = Console(file=StringIO(), markup=False, width=300)
    train(config_of(start, new_data, tmp_path / "run", old_data), console)
    assert "Replay: 25% of the frames of an epoch" in console.file.getvalue()
    training = checkpoint.read(tmp_path / "run" / "best.pt")["training"]
    assert [source["name"] for source in training["data"]] == ["new.extxyz"]
    assert training["settings"]["finetune"]["replay"]["files"] == ["old.extxyz"]
    assert str(tmp_path) not in json.dumps(training)
    assert [t["data"][0]["name"] for t in trainings(training)] == ["new.extxyz", "old.extxyz"]


def test_forgetting_is_judged_on_what_was_held_out(start, old_data, new_data, tmp_path):
    run = prepare(config_of(start, new_data, tmp_path / "run", old_data))
    assert run.start is not None
    old, batches = held_out([old_data], run.config, run.start)
    names = {old.data.material[s] for batch in batches for s in batch}
    assert {part_of(name, 3, 0.2, 0.2) for name in names} == {"val", "test"}


def test_a_start_without_a_known_split_is_judged_on_all_that_is_not_replayed(new_data, tmp_path):
    model = PairNet(PairNetConfig((28, 29, 46, 47, 78), cutoff=3.7, width=8))
    checkpoint.save(Potential(model, dict.fromkeys(model.config.elements, 0.0)), tmp_path / "s.pt")
    frames = [atoms for atoms in monolayers(1) if "Au" not in atoms.symbols]
    other = tmp_path / "other.extxyz"
    ase.io.write(other, frames)
    config = config_of(tmp_path / "s.pt", new_data, tmp_path / "run", other)
    run = prepare(config)
    assert run.start is not None
    old, batches = held_out([other], config, run.start)
    assert not old.is_known
    assert 0 < sum(map(len, batches)) < len(frames)
    copied = tmp_path / "copied.extxyz"
    ase.io.write(copied, frames)
    _, of_copy = held_out([copied], config, run.start)
    assert sum(map(len, of_copy)) == sum(map(len, batches))
    assert config.finetune is not None
    alone = config.model_copy(
        update={"finetune": config.finetune.model_copy(update={"replay": None})}
    )
    _, batches = held_out([other], alone, run.start)
    assert sum(map(len, batches)) == len(frames)


def test_from_scratch_sees_as_many_frames_as_were_replayed(start, old_data, new_data, tmp_path):
    """There are fewer old frames than the share asks for, so that less is drawn."""
    config = config_of(start, new_data, tmp_path / "run", old_data, share=0.8)
    train(config, Console(quiet=True))
    run = prepare(config)
    assert run.replay is not None
    n_new, n_old = len(run.split.train), len(run.replay.ids)
    assert n_old < 4 * n_new
    epochs = scratch_config(config).train.epochs
    assert epochs == round(2 * (n_new + n_old) / n_new) < 10
