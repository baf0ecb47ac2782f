"""Networks that learn formation energies alone, on alloys whose energies are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest

from mlff2d.training.alloys import energy_only
from mlff2d.training.alloys.config import AlloyConfig
from mlff2d.training.alloys.formation import dft_formation
from mlff2d.training.alloys.method import Task
from mlff2d.training.alloys.system import System
from mlff2d.training.alloys.training import groups
from mlff2d.training.config import ConfigError
from tests.alloy_potentials import formation, make_task, with_method, with_nonsense
from tests.alloys import ising_system
from tests.training_helpers import die_after

pytestmark = pytest.mark.usefixtures("pairnet", "threads")


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> System:
    """MoWS2 with up to four sites; formation energies up to 32 meV per site, by unlike pairs."""
    return ising_system(tmp_path_factory.mktemp("ising"))


def task_of(folder: Path, system: System, **energy_only: object) -> Task:
    how = {"model": {"name": "pairnet"}, "steps": 150, "lr": 1e-2} | energy_only
    parent = {"parent": folder / "MoS2.extxyz", "sublattice": "Mo", "species": ["Mo", "W"]}
    settings = {"run_dir": folder / "run", "systems": [parent], "energy_only": how}
    config = AlloyConfig.model_validate({**settings, "device": "cpu", "threads": 1})
    return make_task(config, [system])


def by_dft(task: Task) -> dict[tuple[str, str], float]:
    values = dft_formation(task.asked)
    return {(one.system, one.name): float(x) for one, x in zip(task.asked, values, strict=True)}


def held_out(task: Task) -> list[tuple[str, str]]:
    train = {(one.system, one.name) for one in task.train}
    return [(one.system, one.name) for one in task.asked if (one.system, one.name) not in train]


def relaxed_by_hand(task: Task, met: dict[str, bool] | None = None) -> None:
    """What the fine-tuned potential would have left: the geometries as they are."""
    folder = task.folder / "fine-tuned" / "relaxed"
    folder.mkdir(parents=True)
    for system in task.systems:
        frames = []
        for k, one in enumerate(one for one in task.asked if one.system == system):
            atoms = one.start.copy()
            done = (met or {}).get(one.name, True)
            atoms.info = {"config": one.name, "key": f"k{k}", "met": done, "status": "?"}
            atoms.info |= {} if done else {"reason": "it fell apart"}
            frames.append(atoms)
        ase.io.write(folder / f"{system}.extxyz", frames)


def answers(name: str, task: Task) -> energy_only.Answers:
    return energy_only.METHODS[name](with_method(task, name))


@pytest.mark.slow
def test_learns_unlike_pairs(tmp_path, system, monkeypatch) -> None:
    monkeypatch.setattr(energy_only, "MEMBERS", 1)
    model = {"name": "nequip", "cutoff": 4.5, "hidden_irreps": "8x0e+4x1o", "l_max": 1}
    task = task_of(tmp_path, system, model=model | {"n_layers": 2}, steps=300, batch_size=4)
    found, true = formation(answers("energy-only-dft", task)), by_dft(task)
    held = held_out(task)
    mean = np.mean([true[one.system, one.name] for one in task.train])
    baseline = np.abs([mean - true[key] for key in held]).mean()
    assert np.abs([found[key] - true[key] for key in held]).mean() < 0.5 * baseline


def test_nothing_of_what_is_held_out(tmp_path, system) -> None:
    task = task_of(tmp_path, system, steps=8)
    found = answers("energy-only-dft", task).of
    ends = [found[one.system, one.name] for one in task.asked if one.end_member]
    assert [said.formation for said in ends] == [0, 0]
    elsewhere = with_nonsense(replace(task, folder=tmp_path / "elsewhere"), geometry=False)
    assert max(by_dft(elsewhere).values()) > 100
    assert answers("energy-only-dft", elsewhere).of == found


def test_on_structures_of_the_potential(tmp_path, system) -> None:
    task = task_of(tmp_path, system, steps=8)
    with pytest.raises(ValueError, match="let fine-tuned finish first"):
        answers("energy-only", task)
    lost = next(one.name for one in task.train if one.end_member is None and one.n_sites > 1)
    relaxed_by_hand(task, {lost: False})
    found = answers("energy-only", task).of
    assert found.keys() == {(one.system, one.name) for one in task.asked}
    for (_, name), said in found.items():
        assert np.isnan(said.formation) == (name == lost)
        assert said.reason == ("the potential did not relax it: it fell apart" * (name == lost))
    learnt = ase.io.read(task.folder / "energy-only" / "all" / "formation-0.extxyz", ":")
    assert len(learnt) == len(task.train) - 1
    elsewhere = with_nonsense(replace(task, folder=tmp_path / "elsewhere"))
    relaxed_by_hand(elsewhere, {lost: False})
    assert str(answers("energy-only", elsewhere).of) == str(found)
    more = replace(task, asked=[*task.asked, replace(task.asked[0], name="new")])
    with pytest.raises(ValueError, match="no relaxed structure of new of MoWS2"):
        answers("energy-only", more)


def test_what_dft_has_not_relaxed(tmp_path, system) -> None:
    task = task_of(tmp_path, system, steps=8)
    new = replace(task.asked[-1], name="new", relaxed=None, energy=np.nan, frames=())
    found = answers("energy-only-dft", replace(task, asked=[*task.asked, new])).of
    said = found["MoWS2", "new"]
    assert np.isnan(said.formation)
    assert said.reason == "DFT has not relaxed it"
    assert np.isfinite([x.formation for key, x in found.items() if key[1] != "new"]).all()


def test_killed_and_resumed_is_uninterrupted(tmp_path, system, monkeypatch) -> None:
    task = task_of(tmp_path, system, steps=12)
    whole = answers("energy-only-dft", task)
    again = replace(task, folder=tmp_path / "again")
    group = groups(with_method(again, "energy-only-dft"))[0]
    structures, _ = energy_only._of_dft(task, group)
    config = energy_only.member_config(again, group, structures, 0)
    die_after(2, config, monkeypatch)
    assert answers("energy-only-dft", again).of == whole.of


def test_a_system_whose_structures_lack_does_not_end_the_others(tmp_path, system) -> None:
    task = task_of(tmp_path, system, steps=8)
    relaxed_by_hand(task)
    twin = replace(
        system,
        name="twin",
        configurations=[replace(one, system="twin") for one in system.configurations],
    )
    how = task.config.potentials.model_copy(update={"together": False})
    both = make_task(task.config.model_copy(update={"potentials": how}), [twin, system])
    found = answers("energy-only", both)
    for (name, _), said in found.of.items():
        assert np.isfinite(said.formation) == (name == system.name)
        assert ("let fine-tuned finish first" in said.reason) == (name == "twin")
    assert found.facts.keys() == {"twin", system.name}
    assert found.of.keys() == {(one.system, one.name) for one in both.asked}


def test_a_model_that_is_none(tmp_path, system) -> None:
    task = task_of(tmp_path, system, model={"name": "pairnets"})
    with pytest.raises(ConfigError, match=r"energy_only: model: .*'pairnets'"):
        answers("energy-only-dft", task)
