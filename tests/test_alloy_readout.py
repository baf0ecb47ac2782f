"""A linear fit to a potential's features: exact where the truth is linear in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from mlff2d import checkpoint
from mlff2d.atoms import to_graph
from mlff2d.potential import Potential
from mlff2d.training.alloys import readout
from mlff2d.training.alloys.formation import dft_formation
from mlff2d.training.alloys.method import Answers, Task
from mlff2d.training.alloys.system import System
from tests.alloy_potentials import (
    STRENGTHS,
    answer,
    config_of,
    formation,
    layer_potential,
    make_task,
    toy_frames,
    toy_system,
)

pytestmark = pytest.mark.usefixtures("layernet")

WEIGHTS = {"S": 0.15, "Mo": 0.9, "W": -0.4}
"""eV for one unit of the bonds of an atom; those of the potential are 0.5."""


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> System:
    folder = tmp_path_factory.mktemp("toy")
    return toy_system(folder, toy_frames(folder, rattled=0, max_sites=4))


def with_energies(system: System, energy: Callable[[Atoms], float]) -> System:
    """The same with other DFT energies, made from the relaxed structures."""
    changed = [
        replace(one, energy=energy(one.relaxed) / one.n_sites)
        for one in system.configurations
        if one.relaxed is not None
    ]
    return replace(system, configurations=changed)


def weighted(potential: Potential) -> Callable[[Atoms], float]:
    """An energy that is linear in the features, with another weight for each element."""

    def energy(atoms: Atoms) -> float:
        graph = to_graph(atoms, potential.cutoff)
        with torch.no_grad():
            bonds = potential.model.features(graph, graph.edge_vectors())[:, 0].numpy()
        return float(bonds @ [WEIGHTS[symbol] for symbol in atoms.symbols])

    return energy


def task_of(folder: Path, system: System) -> Task:
    checkpoint.save(layer_potential(STRENGTHS), folder / "truth.pt")
    return make_task(config_of(folder, [str(folder / "truth.pt")]), [system])


def held_out_errors(found: Answers, task: Task) -> np.ndarray:
    """eV per shared site."""
    known = {one.name for one in task.train}
    off = np.array(list(formation(found).values())) - dft_formation(task.asked)
    return abs(off[[one.name not in known for one in task.asked]])


def test_a_truth_that_is_linear_in_the_features(tmp_path, system) -> None:
    task = task_of(tmp_path, with_energies(system, weighted(layer_potential(STRENGTHS))))
    found, before = answer("readout", task), answer("zero-shot", task)
    assert len(held_out_errors(found, task)) >= 3
    assert held_out_errors(before, task).mean() > 0.01
    assert held_out_errors(found, task).max() < 3e-4, "as far as relaxations go"
    for one in task.asked:
        key = system.name, one.name
        assert found.of[key].energy == pytest.approx(one.energy, abs=3e-4)
        assert found.of[key].area == before.of[key].area
        assert found.of[key].status == "converged"
        if one.end_member:
            assert found.of[key].formation == 0.0
    facts = found.facts[system.name]
    assert facts["cv_rmse_mev_per_site"] < 0.5


def test_what_the_potential_has_right_it_leaves(tmp_path, system) -> None:
    task = task_of(tmp_path, system)
    found = answer("readout", task)
    assert found.facts[system.name]["weight of the potential"] == pytest.approx(1.0, abs=0.01)
    assert held_out_errors(found, task).max() < 1e-4


def test_what_did_not_relax_is_neither_learnt_from_nor_answered(
    tmp_path, system, monkeypatch
) -> None:
    task = task_of(tmp_path, with_energies(system, weighted(layer_potential(STRENGTHS))))
    mixed = next(one for one in task.train if one.end_member is None)
    relax = readout.relax

    def without_one(*arguments):
        relaxed = relax(*arguments)
        for atoms in relaxed:
            if atoms.info["config"] == mixed.name:
                atoms.info |= {"met": False, "status": "detached", "reason": "it fell apart"}
        return relaxed

    monkeypatch.setattr(readout, "relax", without_one)
    found = answer("readout", task)
    said = found.of[system.name, mixed.name]
    assert np.isnan(said.formation)
    assert "fell apart" in said.reason
    assert held_out_errors(found, task).max() < 1e-3


def test_too_few_mixtures(tmp_path, system) -> None:
    task = task_of(tmp_path, system)
    ends = [one for one in task.train if one.end_member]
    found = answer("readout", replace(task, train=ends))
    for one in task.asked:
        said = found.of[system.name, one.name]
        assert np.isnan(said.formation)
        assert "needs 2 mixtures with DFT results" in said.reason
