"""Cluster expansions: exact where the truth is one, honest where there is little to fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import mx2

from mlff2d.training.alloys.config import AlloyConfig, ExpansionConfig, SystemConfig
from mlff2d.training.alloys.expansion import FITS, clusters, fit, folds_of, method
from mlff2d.training.alloys.formation import dft_formation
from mlff2d.training.alloys.frames import read_frames
from mlff2d.training.alloys.method import Task
from mlff2d.training.alloys.system import Configuration, System, build_system
from tests.alloy_potentials import formation, make_task, with_nonsense
from tests.alloys import ENDS, frames, ising_system, pairs, system_config
from tests.shared import DATA, needs_data

CONFIG = ExpansionConfig()


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> System:
    return ising_system(tmp_path_factory.mktemp("ising"))


def task_of(system: System, folder: Path) -> Task:
    return make_task(AlloyConfig(run_dir=folder, systems=(system_config(folder),)), [system])


def shaken(system: System, sigma: float) -> list[Configuration]:
    """The configurations of the alloy with noise on the energies of mixtures, in eV per site."""
    rng = np.random.default_rng(1)
    return [
        one if one.end_member else replace(one, energy=one.energy + sigma * rng.normal())
        for one in system.configurations
    ]


def assert_predicts(system: System, train: list[Configuration], kind: str, within: float) -> None:
    fitted = fit(system, train, CONFIG, kind, 0)
    truth = dft_formation(system.configurations)
    said = [fitted.predict(one.ideal) for one in system.configurations]
    assert abs(truth).max() > 0.01
    assert np.allclose(said, truth, atol=within)


@pytest.mark.parametrize(("kind", "within"), [("ols", 1e-9), ("ridge", 1e-6), ("ardr", 1e-6)])
def test_pairs_are_found_from_a_few(kind, within, system) -> None:
    assert_predicts(system, system.configurations[:7], kind, within)


def test_lasso_shrinks_what_it_finds_a_little(system) -> None:
    assert_predicts(system, system.configurations[:7], "lasso", 5e-4)


def test_three_species(tmp_path) -> None:
    strengths = {"Mo": 0.003, "W": -0.002, "Nb": 0.004}
    species = tuple(strengths)

    def energy(atoms: Atoms) -> float:
        shares = [list(atoms.symbols).count(one) / (len(atoms) / 3) for one in species]
        ends = sum(x * ENDS[one] for x, one in zip(shares, species, strict=True))
        return ends + sum(j * pairs(atoms, one) for one, j in strengths.items())

    made = frames(tmp_path, energy, species, max_sites=3)
    alloy = build_system(system_config(tmp_path, species), made, 0.1, 0.5)
    assert [one.end_member for one in alloy.configurations[:4]].count(None) == 1
    assert_predicts(alloy, alloy.configurations[::2] + alloy.configurations[:3], "ols", 1e-9)


@pytest.mark.parametrize("kind", FITS)
def test_end_members_have_no_formation_energy(kind, system) -> None:
    fitted = fit(system, shaken(system, 0.01)[:10], CONFIG, kind, 0)
    ends = [one for one in system.configurations if one.end_member]
    assert len(ends) == 2
    assert np.allclose([fitted.predict(one.ideal) for one in ends], 0, atol=1e-14)


def test_the_property_is_energy_per_atom_as_mchammer_wants(system) -> None:
    from mchammer.calculators import ClusterExpansionCalculator

    fitted = fit(system, system.configurations, CONFIG, "ols", 0)
    cell = system.lattice.bulk.repeat((4, 4, 1))
    metals = np.flatnonzero(cell.symbols == "Mo")
    cell.symbols[metals[[0, 1, 3, 7, 8, 12]]] = "W"
    calculator = ClusterExpansionCalculator(cell, fitted.expansion)
    total = calculator.calculate_total(occupations=list(cell.numbers))
    assert total == pytest.approx(len(metals) * fitted.predict(cell), abs=1e-9)
    ideal = pairs(cell, "W") - 6
    assert fitted.predict(cell) == pytest.approx(0.004 * ideal, abs=1e-9)


@pytest.mark.parametrize("kind", ["ols", "lasso", "ardr"])
def test_what_is_held_out_is_not_looked_at(kind, system, tmp_path) -> None:
    task = task_of(system, tmp_path)
    assert len(task.train) < len(task.asked)
    assert formation(method(kind)(task)) == formation(method(kind)(with_nonsense(task)))


def test_the_fit_to_everything_looks_at_all(system, tmp_path) -> None:
    configurations = shaken(system, 0.005)
    told = replace(system, configurations=configurations)
    task = task_of(told, tmp_path)
    key = {(one.system, one.name) for one in task.asked} - {("MoWS2", c.name) for c in task.train}
    truth = {(one.system, one.name): e for one, e in _formation(configurations)}

    def error(kind: str) -> float:
        said = formation(method(kind)(task))
        return float(np.sqrt(np.mean([(said[one] - truth[one]) ** 2 for one in key])))

    assert error("all") < error("ols")
    assert formation(method("all")(task)) != formation(method("all")(with_nonsense(task)))


def _formation(configurations: list[Configuration]) -> list[tuple[Configuration, float]]:
    return list(zip(configurations, dft_formation(configurations), strict=True))


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_few_configurations_give_an_answer_or_a_sentence(kind, n, system, tmp_path) -> None:
    task = replace(task_of(system, tmp_path), train=system.configurations[:n])
    found = method(kind)(task)
    answers = list(found.of.values())
    assert len(answers) == len(task.asked)
    if n >= (5 if kind in ("lasso", "ardr") else 3):
        assert all(np.isfinite(one.formation) and not one.reason for one in answers)
        assert found.facts["MoWS2"]["cutoffs"] == [1.1]
    else:
        assert all(np.isnan(one.formation) for one in answers)
        assert f"{n - 2} in number; give more" in answers[0].reason


def test_end_members_are_needed(system) -> None:
    with pytest.raises(ValueError, match="MoWS2: a cluster expansion needs the DFT energy of all"):
        fit(system, system.configurations[1:], CONFIG, "ols", 0)


def test_the_cutoffs_have_the_least_error_of_cross_validation(system) -> None:
    train = [
        replace(one, energy=one.energy + 0.003 * pairs(one.ideal, "W", 1.8))
        for one in shaken(system, 0.0005)
    ]
    fitted = fit(system, train, CONFIG, "ols", 3)
    assert len(fitted.tried) > 2
    assert fitted.cutoffs not in (CONFIG.cutoffs[0], list(fitted.tried)[-1])
    assert fitted.cutoffs == min(fitted.tried, key=lambda one: fitted.tried[one])
    assert fitted.cv_rmse == fitted.tried[fitted.cutoffs]
    # The same error by other means
    mixtures = [one for one in train if one.end_member is None]
    target = dft_formation(train)[2:]
    for cutoffs, error in fitted.tried.items():
        rows = clusters(system.lattice, cutoffs).rows(mixtures)
        squares = [
            (rows[held] @ np.linalg.pinv(rows[kept]) @ target[kept] - target[held]) ** 2
            for kept, held in folds_of(len(rows), 5, seed=3)
        ]
        assert error == pytest.approx(np.sqrt(np.concatenate(squares).mean()), rel=1e-6)


def test_folds_judge_each_once() -> None:
    for n, expected in [(1, 0), (2, 2), (4, 4), (13, 5)]:
        made = folds_of(n, 5, 0)
        assert len(made) == expected
        assert sorted(k for _, held in made for k in held) == list(range(n)) * (n > 1)
        assert all(sorted([*kept, *held]) == list(range(n)) for kept, held in made)


def test_least_squares_leaves_what_the_mixtures_do_not_determine(system) -> None:
    """More parameters than mixtures, or as many that no cell of this size tells apart."""
    fitted = fit(system, system.configurations, CONFIG, "ols", 0)
    assert (3.1, 2.1, 1.1) not in fitted.tried
    few = fit(system, system.configurations[:6], CONFIG, "ols", 0)
    assert all(len(clusters(system.lattice, one).basis.T) <= 3 for one in few.tried)


def tmd_alloy(folder: Path) -> tuple[System, list[Configuration]]:
    """Mo(1-x)W(x)Se2 from the literature, and what of it is known site by site."""
    parent = folder / "MoSe2.extxyz"
    ase.io.write(parent, mx2("MoSe2", "2H", 3.29, 3.34, vacuum=8.0))
    config = SystemConfig(parent=parent, sublattice="Mo", species=("Mo", "W"), phase="1H")
    read, notes = read_frames([DATA / "mowse2_28_classes.extxyz"])
    assert not notes
    alloy = build_system(config, read, 0.1, 0.5)
    assert not alloy.notes
    known = [one for one in alloy.with_dft if not one.frames[0].info["class_ambiguous"]]
    return alloy, known


def leave_one_out(known: list[Configuration], fitted: Callable[..., float]) -> float:
    """RMSE in eV per site over the mixtures, each predicted from all the others."""
    truth = dft_formation(known)
    missed = [
        fitted([two for two in known if two is not one], one) - e
        for one, e in zip(known, truth, strict=True)
        if not one.end_member
    ]
    return float(np.sqrt(np.mean(np.square(missed))))


@needs_data
def test_an_alloy_from_the_literature(tmp_path) -> None:
    alloy, known = tmd_alloy(tmp_path)
    assert len(alloy.configurations) == 28
    assert len(known) == 14
    published = [1e-3 * one.frames[0].info["formation_energy_meV_per_fu"] for one in known]
    assert np.allclose(dft_formation(known), published, atol=1e-6)
    assert min(published) < -0.012
    ideal = leave_one_out(known, lambda train, one: 0.0)
    expansion = leave_one_out(
        known, lambda train, one: fit(alloy, train, CONFIG, "ols", 0).predict(one.ideal)
    )
    assert expansion < ideal / 5
