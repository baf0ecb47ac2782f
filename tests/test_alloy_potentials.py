"""Formation energies by potentials, on a toy of DFT that is a potential itself."""

from __future__ import annotations

from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from mlff2d import checkpoint
from mlff2d.atoms import to_graph
from mlff2d.training.alloys import energy_only, potentials
from mlff2d.training.alloys.formation import dft_formation
from mlff2d.training.alloys.method import Answers, Task
from mlff2d.training.alloys.study import run_study
from mlff2d.training.alloys.system import System
from mlff2d.training.alloys.training import groups, label_of, labelled_frames, split_for
from mlff2d.training.config import ConfigError, load_config
from mlff2d.training.data.splits import part_of
from tests.alloy_potentials import (
    STRENGTHS,
    answer,
    config_of,
    formation,
    layer_potential,
    make_task,
    toy_frames,
    toy_system,
    with_method,
    with_nonsense,
    write_start,
)
from tests.alloys import ENDS, parent_file

pytestmark = pytest.mark.usefixtures("layernet")


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Atoms]:
    return toy_frames(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def system(tmp_path_factory, frames) -> System:
    return toy_system(tmp_path_factory.mktemp("system"), frames)


def truth_of(task: Task) -> dict[tuple[str, str], float]:
    found = {}
    for system in task.systems:
        own = [one for one in task.asked if one.system == system]
        values = dft_formation(own)
        found |= {(system, one.name): float(x) for one, x in zip(own, values, strict=True)}
    return found


def errors(answers: Answers, task: Task) -> np.ndarray:
    """meV per shared site, of the held-out configurations."""
    train = {(one.system, one.name) for one in task.train}
    found, true = formation(answers), truth_of(task)
    return np.array([1000 * (found[key] - true[key]) for key in true if key not in train])


def test_the_potential_that_is_the_dft(tmp_path, system) -> None:
    """Another zero of the start changes neither formation energies nor, once moved, energies."""
    checkpoint.save(
        layer_potential(STRENGTHS, {"S": 1.0, "Mo": -3.0, "W": 2.0}), tmp_path / "truth.pt"
    )
    task = make_task(config_of(tmp_path, [str(tmp_path / "truth.pt")]), [system])
    found, true = answer("zero-shot", task), truth_of(task)
    assert len(task.asked) == len(system.with_dft) > 5
    assert max(map(abs, true.values())) > 0.01
    for one in task.asked:
        said = found.of[one.system, one.name]
        assert said.status == "converged"
        assert said.formation == pytest.approx(true[one.system, one.name], abs=1e-4)
        assert said.energy == pytest.approx(one.energy, abs=1e-4)
        assert one.relaxed is not None
        area = np.linalg.norm(np.cross(*one.relaxed.cell.array[:2])) / len(one.relaxed)
        assert said.area == pytest.approx(area, rel=1e-3)
    assert found.facts[""]["eV/atom before"] > 0.1
    assert found.facts[""]["eV/atom after"] < 1e-5


@pytest.mark.slow
def test_fine_tuning_learns(tmp_path, system) -> None:
    task = make_task(config_of(tmp_path, [write_start(tmp_path / "start.pt")]), [system])
    before, after = answer("zero-shot", task), answer("fine-tuned", task)
    assert np.abs(errors(after, task)).mean() < 0.5 * np.abs(errors(before, task)).mean()


@pytest.mark.parametrize("name", potentials.KINDS)
def test_nothing_of_what_is_held_out(tmp_path, system, name) -> None:
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")], steps=8, energy_steps=4)
    task = make_task(config, [system])
    found = answer(name, task)
    config = config.model_copy(update={"run_dir": tmp_path / "other"})
    elsewhere = with_nonsense(replace(task, config=config, folder=tmp_path / "elsewhere"))
    assert not np.isclose(errors(found, task), errors(found, elsewhere)).any()
    assert answer(name, elsewhere).of == found.of


def test_what_is_left_of_a_training(tmp_path, system) -> None:
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")], steps=8, energy_steps=4)
    task = make_task(config, [system])
    found = answer("fine-tuned", task)
    folder = with_method(task, "fine-tuned").folder
    frames = checkpoint.read(folder / "all" / "run" / "best.pt")["training"]["frames"]
    assert frames["train"] + frames["val"] == sum(len(one.frames) for one in task.train)
    assert found.facts[""]["frames"] == frames["train"]
    minima = ase.io.read(folder / "all" / "minima.extxyz", ":")
    with_energy = [atoms for atoms in minima if "energy" in atoms.calc.results]
    assert len(with_energy) == len(task.train), "rattled frames are higher"
    assert len(minima) == 3 * len(task.train)
    structures = potentials.relaxed_structures(folder, system.name)
    assert structures.keys() == {one.name for one in task.asked}
    final = potentials.final_potential(folder, system, config)
    for one in task.asked:
        atoms = structures[one.name]
        energy = final.double()(to_graph(atoms, final.cutoff)).energy
        assert float(energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    with pytest.raises(ValueError, match="let nowhere finish first"):
        potentials.relaxed_structures(tmp_path / "nowhere", system.name)


def test_formation_energies_are_learnt_last(tmp_path, system) -> None:
    start = [write_start(tmp_path / "start.pt")]
    mean = []
    for steps in (0, 2):
        config = config_of(tmp_path, start, steps=8, energy_steps=4, formation_steps=steps)
        task = make_task(config, [system])
        task = replace(task, folder=tmp_path / str(steps))
        mean.append(abs(errors(answer("fine-tuned", task), task)).mean())
        there = with_method(task, "fine-tuned").folder / "all" / "settled.pt"
        assert there.exists() == bool(steps)
    assert mean[1] < 0.6 * mean[0]


def test_models_that_know_everything_are_files(tmp_path, frames) -> None:
    ase.io.write(parent_file(tmp_path).with_name("dft.extxyz"), frames)
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")], steps=8, energy_steps=4)
    own = {"frames": (tmp_path / "dft.extxyz",), "methods": ("fine-tuned",)}
    assert run_study(config.model_copy(update=own), ["predict"], Console(quiet=True)) is None
    (settled,) = (tmp_path / "run" / "kept").glob("*/fine-tuned/all/settled.pt")
    (model,) = (tmp_path / "run" / "predicted").glob("*.pt")
    assert model.name == "fine-tuned-all.pt"
    assert model.read_bytes() == settled.read_bytes()


def test_from_scratch(tmp_path, system) -> None:
    config = config_of(
        tmp_path, [write_start(tmp_path / "start.pt")], steps=20, energy_steps=0, scratch_lr=0.03
    )
    task = make_task(config, [system])
    answer("fine-tuned", task)
    found = answer("scratch", task)
    assert found.of.keys() == truth_of(task).keys()
    tuned, new = (
        load_config(with_method(task, name).folder / "all" / "run" / "config.yaml")
        for name in ("fine-tuned", "scratch")
    )
    assert new.model.name == "layernet"
    assert (new.train.lr, tuned.train.lr) == (0.03, 4e-2)
    assert new.train.epochs == tuned.train.epochs
    assert new.split == tuned.split


def test_frames_with_energies_alone(tmp_path, frames) -> None:
    bare = []
    for frame in frames:
        made = frame.copy()
        made.calc = SinglePointCalculator(made, energy=frame.get_potential_energy())
        bare.append(made)
    system = toy_system(tmp_path, bare[::3])  # the relaxed ones
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")], steps=10, energy_steps=5)
    task = make_task(config, [system])
    found = answer("fine-tuned", task)
    assert np.isfinite(errors(found, task)).all()


def test_end_members_never_validate(tmp_path, system) -> None:
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")])
    for number in range(5):
        task = make_task(config, [system], number)
        group = groups(task)[0]
        split = split_for(labelled_frames(group.train), group, number)
        parts = [part_of(label_of(one), split["seed"], split["val"], 0) for one in group.train]
        ends = [one.end_member is not None for one in group.train]
        assert {part for part, end in zip(parts, ends, strict=True) if end} == {"train"}
        assert parts.count("val") == 1
        assert parts.count("train") > sum(ends)


def test_few_configurations_are_split_by_frame(tmp_path, system) -> None:
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")])
    task = make_task(config, [system])
    ends = [one for one in task.train if one.end_member]
    group = replace(groups(task)[0], train=tuple(ends))
    frames = labelled_frames(group.train)
    split = split_for(frames, group, 0)
    parts = [part_of(frame.info["config"], split["seed"], split["val"], 0) for frame in frames]
    assert len(frames) == 6
    assert parts.count("val") == 1
    group = replace(group, train=tuple(replace(one, frames=one.frames[:1]) for one in ends))
    with pytest.raises(ConfigError, match="all: there are 2 frames to learn from"):
        split_for(labelled_frames(group.train), group, 0)


def test_systems_together_or_alone(tmp_path, frames) -> None:
    """Frames of an end member that both have are there once."""
    others = toy_frames(tmp_path, ("Mo", "Nb"), 2)
    systems = [
        toy_system(tmp_path, [*frames, *others]),
        toy_system(tmp_path, [*frames, *others], ("Mo", "Nb")),
    ]
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")], steps=4, energy_steps=0)
    task = make_task(config, systems)
    (together,) = groups(task)
    distinct = {(str(f.symbols), f.positions.tobytes()) for x in task.train for f in x.frames}
    assert len(labelled_frames(together.train)) == len(distinct)
    assert len(distinct) < sum(len(one.frames) for one in task.train)
    alone = config.model_copy(
        update={"potentials": config.potentials.model_copy(update={"together": False})}
    )
    found = answer("fine-tuned", replace(task, config=alone))
    assert found.facts.keys() == {system.name for system in systems}
    for system in systems:
        path = task.folder / "fine-tuned" / system.name / "frames.extxyz"
        symbols = {s for frame in ase.io.read(path, ":") for s in frame.symbols}
        assert symbols == {"S", *system.lattice.shared}


@pytest.mark.parametrize("name", ["fine-tuned", "energy-only-dft"])
def test_a_system_that_cannot_be_learnt_does_not_end_the_others(tmp_path, frames, name) -> None:
    others = toy_frames(tmp_path, ("Mo", "Nb"), 2, rattled=0)
    systems = [
        toy_system(tmp_path, [*frames, *others], ("Mo", "Nb")),
        toy_system(tmp_path, [*frames, *others]),
    ]
    poor, rich = (system.name for system in systems)
    config = config_of(
        tmp_path, [write_start(tmp_path / "start.pt")], steps=4, energy_steps=0, together=False
    )
    how = config.energy_only.model_copy(update={"model": {"name": "layernet"}, "steps": 2})
    config = config.model_copy(update={"energy_only": how})
    task = make_task(config, systems)
    train = [
        replace(one, frames=one.frames[:1]) if one.system == poor else one
        for one in task.train
        if one.system == rich or one.end_member
    ]
    task = replace(task, train=train)
    method = energy_only.METHODS.get(name) or potentials.method(name)
    found = method(with_method(task, name))
    assert found.of.keys() == {(one.system, one.name) for one in task.asked}
    for (own, _), said in found.of.items():
        assert np.isfinite(said.formation) == (own == rich)
        assert said.reason.startswith(f"{poor}: there are 2 frames") == (own == poor)
    assert found.facts[poor]["reason"].startswith(poor)
    folder = with_method(task, name).folder
    if name == "fine-tuned":
        assert potentials.final_potential(folder, systems[0], config) is None
        assert potentials.final_potential(folder, systems[1], config) is not None
    alone = replace(
        task,
        systems={poor: systems[0]},
        train=[one for one in train if one.system == poor],
        asked=[one for one in task.asked if one.system == poor],
    )
    with pytest.raises(ConfigError, match=f"{poor}: there are 2 frames"):
        method(with_method(alone, name))


def test_a_hook_that_is_not_set_is_no_answer(tmp_path, system, monkeypatch) -> None:
    task = make_task(config_of(tmp_path, [write_start(tmp_path / "start.pt")]), [system])
    monkeypatch.setattr(potentials, "relaxer", None)
    with pytest.raises(RuntimeError, match="relaxer is not set"):
        answer("zero-shot", task)


def test_a_method_for_each_start(tmp_path) -> None:
    starts = [write_start(tmp_path / f"{name}.pt") for name in ("a", "b")]
    (tmp_path / "other").mkdir()
    starts.append(write_start(tmp_path / "other" / "b.pt"))
    config = config_of(tmp_path, starts)
    config = config.model_copy(update={"methods": ("zero-shot", "ideal", "fine-tuned")})
    assert potentials.start_names(config.potentials) == ["a", "b", "other-b"]
    assert potentials.expanded(config) == [
        "zero-shot",
        "zero-shot:b",
        "zero-shot:other-b",
        "ideal",
        "fine-tuned",
        "fine-tuned:b",
        "fine-tuned:other-b",
    ]


def test_the_second_start(tmp_path, system) -> None:
    checkpoint.save(layer_potential(STRENGTHS, ENDS), tmp_path / "truth.pt")
    starts = [write_start(tmp_path / "start.pt"), str(tmp_path / "truth.pt")]
    task = make_task(config_of(tmp_path, starts), [system])
    assert np.abs(errors(answer("zero-shot:truth", task), task)).max() < 0.1
    assert np.abs(errors(answer("zero-shot", task), task)).max() > 1
    assert sorted(path.name for path in (tmp_path / "run/zero-shot").iterdir()) == [
        "start",
        "truth",
    ]
