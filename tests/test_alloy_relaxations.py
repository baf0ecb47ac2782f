"""Relaxations by potentials: what does not relax, and what a kill leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ase.io
import numpy as np
import pytest

from mlff2d.errors import StructureError
from mlff2d.training import loop
from mlff2d.training.alloys import potentials
from mlff2d.training.alloys.system import System
from tests.alloy_potentials import (
    answer,
    config_of,
    formation,
    make_task,
    relax,
    toy_frames,
    toy_system,
    write_start,
)
from tests.training_helpers import Killed

pytestmark = pytest.mark.usefixtures("layernet")


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> System:
    folder = tmp_path_factory.mktemp("system")
    return toy_system(folder, toy_frames(folder))


def kill_in_step(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    original, done = loop._step, []

    def step(*args: Any) -> float:
        done.append(1)
        if len(done) > n:
            raise Killed
        return original(*args)

    monkeypatch.setattr(loop, "_step", step)


def kill_in_relaxation(monkeypatch: pytest.MonkeyPatch) -> None:
    def relax_one(*args: Any, **settings: Any) -> Iterator[Any]:
        yield next(iter(relax(*args, **settings)))
        raise Killed

    monkeypatch.setattr(potentials, "relaxer", relax_one)


def test_killed_and_resumed_is_uninterrupted(tmp_path, system, monkeypatch) -> None:
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")], steps=24, energy_steps=8)
    task = make_task(config, [system])
    whole = answer("fine-tuned", task)
    again = replace(task, folder=tmp_path / "again")
    # In the first training, in the second, and after both.
    kills = [lambda patch, n=n: kill_in_step(patch, n) for n in (9, 12)] + [kill_in_relaxation]
    for kill in kills:
        with monkeypatch.context() as patch:
            kill(patch)
            with pytest.raises(Killed):
                answer("fine-tuned", again)
    assert answer("fine-tuned", again).of == whole.of
    with monkeypatch.context() as patch:  # what is finished is not computed again
        kill_in_step(patch, 0)
        kill_in_relaxation(patch)
        assert answer("fine-tuned", again).of == whole.of


def test_what_has_relaxed_is_not_relaxed_again(tmp_path, system, monkeypatch) -> None:
    task = make_task(config_of(tmp_path, [write_start(tmp_path / "start.pt")]), [system])
    asked, done = [], 3

    def relax_some(structures: Any, *args: Any, **settings: Any) -> Iterator[Any]:
        asked.append(len(structures))
        for k, found in enumerate(relax(structures, *args, **settings)):
            if k == done and len(asked) == 1:
                raise Killed
            yield found

    monkeypatch.setattr(potentials, "relaxer", relax_some)
    with pytest.raises(Killed):
        answer("zero-shot", task)
    found = answer("zero-shot", task)
    assert asked == [len(task.asked), len(task.asked) - done]
    other = task.config.model_copy(update={"run_dir": tmp_path / "other"})
    whole = answer("zero-shot", replace(task, config=other, folder=tmp_path / "whole"))
    assert formation(found) == pytest.approx(formation(whole), abs=1e-9)


def test_what_has_relaxed_is_written_now_and_then(tmp_path, system, monkeypatch) -> None:
    """For a process that has no time to say farewell."""
    task = make_task(config_of(tmp_path, [write_start(tmp_path / "start.pt")]), [system])
    path = tmp_path / "run/zero-shot/start" / f"{system.name}.extxyz"
    written = []

    def relax_watched(*args: Any, **settings: Any) -> Iterator[Any]:
        for found in relax(*args, **settings):
            yield found
            written.append(len(ase.io.read(path, ":")) if path.exists() else 0)

    monkeypatch.setattr(potentials, "relaxer", relax_watched)
    monkeypatch.setattr(potentials, "SAVE_SECONDS", 0.0)
    answer("zero-shot", task)
    assert written == list(range(1, len(task.asked) + 1))


def test_other_splits_relax_with_the_start_no_more(tmp_path, system, monkeypatch) -> None:
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")])
    first = answer("zero-shot", make_task(config, [system]))
    kill_in_relaxation(monkeypatch)
    second = answer("zero-shot", make_task(config, [system], 1))
    assert formation(second) == pytest.approx(formation(first), abs=1e-12)


@pytest.mark.parametrize("lost", ["mixed", "end"])
def test_one_that_does_not_relax(tmp_path, system, monkeypatch, lost) -> None:
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")])
    task = make_task(config, [system])
    whole = answer("zero-shot", task)
    victim = next(one for one in task.asked if (one.end_member == "W") == (lost == "end"))
    if lost == "mixed":
        victim = next(one for one in task.asked if one.end_member is None)

    def relax_others(structures: Any, *args: Any, **settings: Any) -> Iterator[Any]:
        for k, result in relax(structures, *args, **settings):
            refused = StructureError("it fell\napart") if structures[k] == victim.start else None
            yield k, refused or result

    monkeypatch.setattr(potentials, "relaxer", relax_others)
    config = config.model_copy(update={"run_dir": tmp_path / "other"})
    found = answer("zero-shot", replace(task, config=config))
    said = found.of[victim.system, victim.name]
    assert (said.status, said.reason) == ("failed", "it fell apart") or lost == "end"
    for one in task.asked:
        said, before = found.of[one.system, one.name], whole.of[one.system, one.name]
        if one is victim:
            assert np.isnan([said.formation, said.energy, said.area]).all()
        elif lost == "mixed" or not one.shares["W"]:
            assert said.formation == pytest.approx(before.formation, abs=1e-4)
        else:
            assert np.isnan(said.formation)
            assert said.reason == f"an end member did not relax ({victim.name}: it fell apart)"
            assert said.energy == pytest.approx(before.energy, abs=1e-4)


def test_steps_that_do_not_suffice_are_no_answer(tmp_path, system) -> None:
    config = config_of(tmp_path, [write_start(tmp_path / "start.pt")])
    hasty = {"fmax": 1e-5, "smax": 1e-5, "steps": 2}
    config = config.model_copy(update={"relax": config.relax.model_copy(update=hasty)})
    said = answer("zero-shot", make_task(config, [system])).of.values()
    lost = [one for one in said if one.status == "max-steps"]
    assert len(lost) > 2
    assert all(np.isnan([one.formation, one.energy, one.area]).all() for one in lost)
    assert all(one.reason for one in lost)


def test_what_exploded_has_no_area(tmp_path, system, monkeypatch) -> None:
    """Nor need it be a slab any more."""
    task = make_task(config_of(tmp_path, [write_start(tmp_path / "start.pt")]), [system])
    victim = next(one for one in task.asked if one.end_member is None)

    def explode(structures: Any, *args: Any, **settings: Any) -> Iterator[Any]:
        for k, found in relax(structures, *args, **settings):
            if structures[k] == victim.start:
                atoms = found.atoms.copy()
                atoms.cell[1] = atoms.cell[0]
                why = {"status": "exploded", "reason": "it flew apart"}
                found = replace(found, atoms=atoms, met=False, **why)
            yield k, found

    monkeypatch.setattr(potentials, "relaxer", explode)
    found = answer("zero-shot", task).of
    said = found.pop((victim.system, victim.name))
    assert (said.status, said.reason) == ("exploded", "it flew apart")
    assert np.isnan([said.formation, said.energy, said.area]).all()
    assert np.isfinite([[one.formation, one.area] for one in found.values()]).all()
