"""Steps of all weights of a potential on formation energies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlff2d.atoms import to_graph
from mlff2d.training.alloys import gauss_newton
from mlff2d.training.alloys.gauss_newton import learn_formation
from mlff2d.training.alloys.system import Configuration, System
from tests.alloy_potentials import STRENGTHS, layer_potential, toy_frames, toy_system

pytestmark = pytest.mark.usefixtures("layernet")


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> System:
    folder = tmp_path_factory.mktemp("toy")
    return toy_system(folder, toy_frames(folder))


def start():
    """The toy with other strengths of the metals, and another zero."""
    shifted = STRENGTHS | {"Mo": STRENGTHS["Mo"] + 0.02, "W": STRENGTHS["W"] - 0.02}
    return layer_potential(shifted, {"S": 1.0, "Mo": -1.0, "W": 2.0})


def errors(potential, system: System) -> np.ndarray:
    """eV per shared site, of formation energies of mixtures at DFT's geometries."""
    per_site = {}
    for one in system.with_dft:
        n = sum(list(one.relaxed.symbols).count(s) for s in one.shares)
        energy = potential(to_graph(one.relaxed, potential.cutoff), virial=False).energy
        per_site[one.name] = float(energy.detach()) / n - one.energy
    ends = {species: per_site[one.name] for species, one in system.ends.items()}
    return np.array(
        [
            per_site[one.name] - sum(x * ends[s] for s, x in one.shares.items() if x)
            for one in system.with_dft
            if one.end_member is None
        ]
    )


def forces(potential, configurations: list[Configuration]) -> np.ndarray:
    frames = [frame for one in configurations for frame in one.frames]
    graphs = [to_graph(frame, potential.cutoff) for frame in frames]
    return np.concatenate([potential(graph).forces.detach().numpy() for graph in graphs])


def test_formation_energies_become_those_of_dft(system, monkeypatch) -> None:
    monkeypatch.setattr(gauss_newton, "FORCE", 1e3)
    monkeypatch.setattr(gauss_newton, "STRESS", 1e3)
    potential = start()
    before = abs(errors(potential, system)).max()
    learn_formation(potential, system.configurations, 3, seed=0)
    assert abs(errors(potential, system)).max() < 0.05 * before
    assert not any(weight.requires_grad for weight in potential.parameters())
    for one in system.with_dft:  # not the start's zero, some eV away
        energy = float(potential(to_graph(one.relaxed, potential.cutoff)).energy.detach())
        assert energy == pytest.approx(one.relaxed.get_potential_energy(), abs=1e-3)


def test_a_step_is_the_least_squares_one(system) -> None:
    """Against the normal equations, which need no trick as the toy has few weights."""
    potential = start()
    weights = list(potential.parameters())
    rows, rng = [], np.random.default_rng(0)
    known = system.with_dft
    frames = [frame for one in system.configurations for frame in one.frames]
    assert len(frames) <= gauss_newton.FRAMES
    for one in known:
        rows.append(gauss_newton._energy(potential, one, weights)[1].numpy())
    rng.permutation(len(frames))
    kept = [
        row.numpy()
        for frame in frames
        for row in gauss_newton._sums(potential, frame, weights, rng)
    ]
    mixing = gauss_newton._mixing(known)
    A = np.concatenate([mixing @ np.array(rows) / gauss_newton.ENERGY, np.array(kept)])
    b = np.concatenate([-errors(potential, system) / gauss_newton.ENERGY, np.zeros(len(kept))])
    square = A.T @ A + np.eye(A.shape[1]) / gauss_newton.LENGTH**2
    wanted = np.linalg.solve(square, A.T @ b)
    before = np.concatenate([w.detach().numpy().ravel() for w in weights])
    learn_formation(potential, system.configurations, 1, seed=0)
    after = np.concatenate([w.detach().numpy().ravel() for w in weights])
    assert np.linalg.norm(wanted) > 1e-4
    assert after - before == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_what_is_known_of_forces_is_kept(system, monkeypatch) -> None:
    """The more, the more they weigh."""
    changes = []
    for weight in (1e-5, 1e3):
        monkeypatch.setattr(gauss_newton, "FORCE", weight)
        monkeypatch.setattr(gauss_newton, "STRESS", weight)
        potential = start()
        before = forces(potential, system.configurations)
        learn_formation(potential, system.configurations, 1, seed=0)
        changes.append(abs(forces(potential, system.configurations) - before).max())
    assert changes[0] < 1e-3 * changes[1]


def test_derivatives_of_random_sums_have_the_size_of_those_of_forces(system, monkeypatch) -> None:
    monkeypatch.setattr(gauss_newton, "SUMS", 4000)
    potential = start()
    weights = list(potential.parameters())
    frame = system.configurations[-1].frames[-1]
    rows = gauss_newton._sums(potential, frame, weights, np.random.default_rng(0))
    square = sum(float(row[74]) ** 2 for row in rows)  # by the strength of tungsten
    step, found = 1e-5, []
    for sign in (1, -1):
        moved = start()
        moved.model.strength.weight.data[74] += sign * step
        said = moved(to_graph(frame, moved.cutoff))
        stress = gauss_newton.batched_stress_2d(
            said.virial, to_graph(frame, moved.cutoff).cell, to_graph(frame, moved.cutoff).pbc
        )
        parts = [said.forces.flatten() / gauss_newton.FORCE, stress.flatten() / gauss_newton.STRESS]
        found.append(np.concatenate([part.detach().numpy() for part in parts]))
    slope = (found[0] - found[1]) / (2 * step)
    assert square == pytest.approx((slope**2).sum(), rel=0.1)


def test_nothing_without_an_end_member(system) -> None:
    potential = start()
    before = [weight.detach().clone() for weight in potential.parameters()]
    mixtures = [one for one in system.configurations if one.end_member != "W"]
    learn_formation(potential, mixtures, 2, seed=0)
    unrelaxed = [replace(one, relaxed=None) for one in system.configurations]
    learn_formation(potential, unrelaxed, 2, seed=0)
    assert all((a == b).all() for a, b in zip(before, potential.parameters(), strict=True))
