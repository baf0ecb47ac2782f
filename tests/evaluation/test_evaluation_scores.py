"""Figures of merit, groups, composition alone, figures and tables of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mlff2d.training.data.dataset import Dataset
from mlff2d.training.evaluation.baselines import composition_regression
from mlff2d.training.evaluation.groups import element_errors, group_errors, structure_errors
from mlff2d.training.evaluation.of_property import recall
from mlff2d.training.evaluation.plots import FEW, cumulative_errors, error_histograms, parity
from mlff2d.training.evaluation.population import Population
from mlff2d.training.evaluation.quantities import Quantity, directions, scores
from mlff2d.training.evaluation.tables import Table
from tests.judging import as_hdf5
from tests.training_helpers import write_monolayers


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Dataset:
    return Dataset(
        as_hdf5(write_monolayers(tmp_path_factory.mktemp("data") / "metals.extxyz")), 4.0
    )


def quantity(true: list[float], predicted: list[float], owner: list[int]) -> Quantity:
    values = {"model": np.array(predicted), "nothing": np.zeros(len(true))}
    return Quantity("e", "E", "eV", 2, np.array(true), values, ("nothing",), np.array(owner))


# Figures of merit


def test_scores_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=200)
    predicted = true + rng.normal(scale=0.3, size=200) + 0.1
    found = scores(true, predicted)
    assert found.mae == pytest.approx(np.mean(np.abs(predicted - true)))
    assert found.median == pytest.approx(np.median(np.abs(predicted - true)))
    assert found.rmse == pytest.approx(np.sqrt(np.mean((predicted - true) ** 2)))
    assert found.bias == pytest.approx(np.mean(predicted) - np.mean(true))
    residual, total = ((predicted - true) ** 2).sum(), ((true - true.mean()) ** 2).sum()
    assert found.r2 == pytest.approx(1 - residual / total)
    assert found.spearman == pytest.approx(stats.spearmanr(true, predicted).statistic)


def test_scores_of_float32_forces_are_summed_in_float64() -> None:
    true = np.zeros(3_000_000, dtype=np.float32)
    predicted = np.full_like(true, 0.1)
    assert scores(true, predicted).mae == pytest.approx(np.float32(0.1), rel=1e-9)


def test_directions_of_turned_and_shrunk_forces() -> None:
    rng = np.random.default_rng(0)
    true = 1000 * rng.normal(size=(500, 3))
    axis = np.cross(true, rng.normal(size=(500, 3)))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.radians(30)
    turned = true * np.cos(angle) + np.cross(axis, true) * np.sin(angle)
    found = directions(true, 0.8 * turned)
    assert found.mean_angle == pytest.approx(30)
    assert found.median_angle == pytest.approx(30)
    assert found.cosine == pytest.approx(np.cos(angle))
    assert found.ratio == pytest.approx(0.8)
    assert found.slope == pytest.approx(0.8 * np.cos(angle))


def test_small_forces_have_no_direction_and_large_ones_weigh_more() -> None:
    true = np.array([[1.0, 0, 0], [100.0, 0, 0], [300.0, 0, 0]])
    predicted = np.array([[-1.0, 0, 0], [0.0, 100.0, 0], [300.0, 0, 0]])
    found = directions(true, predicted)
    assert found.n == 2
    assert found.mean_angle == pytest.approx(90 * 100 / 400)
    assert found.median_angle == pytest.approx(45)


def test_recall_counts_the_found_among_the_highest() -> None:
    true = np.arange(20.0)
    predicted = true.copy()
    predicted[[19, 0]] = predicted[[0, 19]]
    assert recall(true, true, 0.1) == 1
    assert recall(true, predicted, 0.1) == 0.5


# Groups


def test_errors_are_attributed_to_elements_and_groups(whole) -> None:
    population = Population(whole, np.arange(0, len(whole), 2))
    n = len(population)
    rng = np.random.default_rng(1)
    energy = quantity([0.0] * n, rng.normal(size=n).tolist(), list(range(n)))
    found = element_errors(population, energy, "model")
    by_element: dict[int, list[float]] = {}
    for s, error in enumerate(np.abs(energy.predicted["model"])):
        for z in set(whole.atoms_of("z", [population.ids[s]]).tolist()):
            by_element.setdefault(z, []).append(error)
    assert found == pytest.approx({z: np.mean(errors) for z, errors in by_element.items()})
    materials = population.materials
    means = group_errors(materials, energy, "model")
    for g, name in enumerate(materials.names):
        mine = [s for s in range(n) if whole.material[int(population.ids[s])] == name]
        assert means[g] == pytest.approx(np.abs(energy.predicted["model"])[mine].mean())
    owner = [0, 0, 2]
    of_structure = structure_errors(3, quantity([0, 0, 0], [1, -3, 5], owner), "model")
    np.testing.assert_array_equal(of_structure, [2, np.nan, 5])


# Composition alone


def test_composition_regression_never_sees_the_material_it_predicts(whole) -> None:
    population = Population(whole, np.arange(72))
    values = np.random.default_rng(0).normal(size=72)
    before = composition_regression(population, values)
    changed = np.array([population.data.material[s] == "Cu-Pd" for s in range(72)])
    assert changed.any()
    after = composition_regression(population, np.where(changed, values + 50, values))
    np.testing.assert_allclose(after[changed], before[changed], rtol=1e-9)
    assert np.abs(after - before)[~changed].max() > 0.1


def test_composition_regression_finds_energies_of_elements_and_pairs(whole) -> None:
    population = Population(whole, np.arange(72))
    fractions = population.compositions.fractions[population.compositions.of]
    rng = np.random.default_rng(0)
    linear = fractions @ rng.normal(size=119)
    pairs = rng.normal(size=(119, 119))
    quadratic = np.einsum("si,ij,sj->s", fractions, pairs + pairs.T, fractions)
    new = [population.data.material[s] in ("Cu-Pd", "Pd-Cu") for s in range(72)]
    train, test = (population.subset(np.flatnonzero(x)) for x in (np.invert(new), new))
    predicted = composition_regression(test, linear[new], train, linear[np.invert(new)])
    assert np.abs(predicted - linear[new]).max() < 0.02 * linear.std()
    known = composition_regression(population, quadratic, population, quadratic)
    best_line = fractions @ np.linalg.lstsq(fractions, quadratic)[0]
    assert np.abs(known - quadratic).mean() < 0.3 * np.abs(best_line - quadratic).mean()


def test_composition_regression_needs_two_materials(whole) -> None:
    only = np.array([s for s in range(72) if whole.material[s] == "Cu-Pd"])
    assert np.isnan(composition_regression(Population(whole, only), np.ones(len(only)))).all()


# Figures and tables


@pytest.mark.parametrize("count", [3, 10, FEW + 500])
def test_figures_of_few_and_of_many_values(count) -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=count)
    q = quantity(true.tolist(), (true + 0.1).tolist(), list(range(count)))
    for plot in (
        parity([q], "model", "parity"),
        error_histograms([q], "histogram"),
        cumulative_errors([q], "cumulative"),
    ):
        plot.figure.canvas.draw()
    table = cumulative_errors([q], "cumulative").table
    assert table is not None
    shares = [row for row in table.rows if row[1] == "model"]
    assert shares[-1][3] == pytest.approx(0.1)
    assert sum(row[4] for row in error_histograms([q], "h").table.rows) <= 1 + 1e-9


def test_tables_keep_all_digits_in_csv_and_few_for_people(tmp_path) -> None:
    table = Table("t", "T", ["name", "x"], [["a, b", 1.23456789], ["c", float("nan")]], {"x": 1})
    assert table.write_csv(tmp_path).read_text() == 'name,x\n"a, b",1.2345679\nc,\n'
    assert [table.text(1, row[1]) for row in table.rows] == ["1.2", "–"]
