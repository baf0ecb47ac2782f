"""Models that see the composition alone: what must not matter to them does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from mlff2d.training.alloys import stoichiometry
from mlff2d.training.alloys.config import AlloyConfig
from mlff2d.training.alloys.expansion import fit
from mlff2d.training.alloys.formation import dft_formation
from mlff2d.training.alloys.method import Task
from mlff2d.training.alloys.roost import Roost
from mlff2d.training.alloys.stoichiometry import METHODS, composition
from mlff2d.training.alloys.system import Configuration, System, build_system
from tests.alloy_potentials import formation, make_task, with_nonsense
from tests.alloys import ENDS, frames, system_config
from tests.shared import needs_data
from tests.test_alloy_expansion import CONFIG, leave_one_out, tmd_alloy

NETWORKS = ("fractions", "roost")
SULFUR, NIOBIUM, MOLYBDENUM, TUNGSTEN = 16, 41, 42, 74


def regular(first: str, second: str, omega: float):
    """Energy of a regular solution, omega x (1 - x) in eV per site, over that of its ends."""

    def energy(atoms: Atoms) -> float:
        symbols = list(atoms.symbols)
        counts = {one: symbols.count(one) for one in (first, second)}
        n = sum(counts.values())
        ideal = sum(k / n * ENDS[one] for one, k in counts.items())
        return ideal + omega * counts[first] * counts[second] / n**2

    return energy


def alloy_of(folder: Path, second: str, omega: float, max_sites: int) -> System:
    species = ("Mo", second)
    made = frames(folder, regular("Mo", second, omega), species, max_sites)
    return build_system(system_config(folder, species), made, 0.1, 0.5)


@pytest.fixture(scope="module")
def alloys(tmp_path_factory) -> list[System]:
    folder = tmp_path_factory.mktemp("regular")
    return [alloy_of(folder, "W", -0.05, 4), alloy_of(folder, "Nb", 0.08, 3)]


def task_of(alloys: list[System], folder: Path) -> Task:
    config = AlloyConfig(run_dir=folder, systems=(system_config(folder),))
    return make_task(config, alloys)


@pytest.fixture(scope="module")
def task(alloys, tmp_path_factory) -> Task:
    """No configuration with as much W as Mo is learnt from."""
    drawn = task_of(alloys, tmp_path_factory.mktemp("task"))
    return replace(drawn, train=[one for one in drawn.train if not half(one)])


def half(one: Configuration) -> bool:
    return one.system == "MoWS2" and one.x == 0.5


@pytest.fixture(scope="module", params=NETWORKS)
def answered(request, task) -> tuple[str, dict[tuple[str, str], float]]:
    return request.param, formation(METHODS[request.param](task))


def test_the_size_of_the_formula_does_not_matter() -> None:
    assert composition(Atoms("Mo2W2S8")) == composition(Atoms("MoWS4"))
    assert composition(Atoms("SWSMoS2")) == composition(Atoms("MoWS4"))
    assert composition(Atoms("MoWS4")) != composition(Atoms("MoW2S6"))
    assert dict(composition(Atoms("MoS2"))) == {"Mo": 1 / 3, "S": 2 / 3}


def shares(n: int, n_elements: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(n_elements), n))


def network(elements: tuple[int, ...]) -> Roost:
    torch.manual_seed(0)
    return Roost(elements).double()


def test_the_order_of_the_elements_does_not_matter() -> None:
    numbers = (SULFUR, NIOBIUM, MOLYBDENUM, TUNGSTEN)
    model, x = network(numbers), shares(6, 4)
    order = [2, 0, 3, 1]
    expected = model(x)
    model.numbers = model.numbers[order]
    assert torch.allclose(model(x[:, order]), expected, atol=1e-12)
    assert not torch.allclose(model(x), expected, atol=1e-3)


def test_an_element_without_a_share_is_as_if_not_there() -> None:
    model = network((SULFUR, MOLYBDENUM, TUNGSTEN))
    x = shares(6, 3)
    more = network((SULFUR, NIOBIUM, MOLYBDENUM, TUNGSTEN))
    more.load_state_dict(model.state_dict())
    none = torch.zeros(6, 1, dtype=x.dtype)
    absent = torch.cat([x[:, :1], none, x[:, 1:]], dim=1)
    assert torch.allclose(more(absent), model(x), atol=1e-12)
    # ... and nothing jumps when it appears
    assert torch.allclose(more(absent + 1e-9), model(x), atol=1e-6)


def test_gradients_are_finite_where_elements_are_absent() -> None:
    model = network((SULFUR, MOLYBDENUM, TUNGSTEN))
    x = torch.tensor([[2 / 3, 1 / 3, 0.0], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]], dtype=torch.float64)
    model(x).square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0


@pytest.mark.slow
def test_it_can_learn_twenty_compositions_by_heart() -> None:
    model = network((SULFUR, NIOBIUM, MOLYBDENUM, TUNGSTEN))
    x = shares(20, 4)
    target = torch.from_numpy(np.random.default_rng(1).normal(size=20))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for _ in range(500):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert float(loss.detach()) < 0.01 * float(target.var())


def test_a_regular_solution_is_learnt(answered, task) -> None:
    """A composition that is held out too; all arrangements of it get the same."""
    _, said = answered
    for one in task.train:
        x, omega = one.x, -0.05 if one.system == "MoWS2" else 0.08
        assert said[one.system, one.name] == pytest.approx(omega * x * (1 - x), abs=0.001)
    halves = [said[one.system, one.name] for one in task.asked if half(one)]
    assert len(halves) > 2
    assert len(set(halves)) == 1
    assert halves[0] == pytest.approx(-0.05 / 4, abs=0.003)


def test_end_members_have_no_formation_energy(answered, task) -> None:
    _, said = answered
    ends = [said[one.system, one.name] for one in task.asked if one.end_member]
    assert ends == [0.0] * 4
    assert len(said) == len(task.asked)


def test_what_is_held_out_is_not_looked_at(answered, task) -> None:
    name, said = answered
    assert len(set(said.values())) > 3
    assert said == formation(METHODS[name](with_nonsense(task)))


def test_the_ideal_mixture_is_zero(task) -> None:
    said = formation(METHODS["ideal"](task))
    assert len(said) == len(task.asked)
    assert set(said.values()) == {0.0}


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_to_learn_from_is_said(name, task) -> None:
    ends = [one for one in task.train if one.end_member]
    with pytest.raises(ValueError, match="needs the DFT energies of mixtures"):
        METHODS[name](replace(task, train=ends))


def test_divergence_is_said(task, monkeypatch) -> None:
    monkeypatch.setattr(stoichiometry, "LR", 1e30)
    with pytest.raises(ValueError, match="diverged"):
        METHODS["fractions"](task)


@pytest.mark.slow
@needs_data
def test_arrangements_matter_in_an_alloy_from_the_literature(tmp_path) -> None:
    """A cluster expansion beats what sees the composition alone, and that beats nothing."""
    alloy, known = tmd_alloy(tmp_path)
    task = replace(task_of([alloy], tmp_path), train=known)

    def network(train: list[Configuration], one: Configuration) -> float:
        said = METHODS["fractions"](replace(task, train=train, asked=[one]))
        return said.of[one.system, one.name].formation

    def expansion(train: list[Configuration], one: Configuration) -> float:
        return fit(alloy, train, CONFIG, "ols", 0).predict(one.ideal)

    truth = dft_formation(known)
    mixtures = np.array([e for e, o in zip(truth, known, strict=True) if not o.end_member])
    assert leave_one_out(known, expansion) < leave_one_out(known, network) / 3
    assert leave_one_out(known, network) < np.sqrt((mixtures**2).mean()) / 3
