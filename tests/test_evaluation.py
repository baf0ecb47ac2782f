"""Judging a model: figures of merit, groups, baselines, the part that is judged, and the report."""

from __future__ import annotations

import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from scipy import stats

from mlff2d import checkpoint, cli
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.models import REGISTRY
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor
from mlff2d.slab import stress_2d
from mlff2d.training.data.choice import split_data
from mlff2d.training.data.convert import file_digest, open_sources
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.splits import part_of
from mlff2d.training.evaluation import command
from mlff2d.training.evaluation import evaluate as evaluate_module
from mlff2d.training.evaluation.baselines import composition_regression
from mlff2d.training.evaluation.evaluate import Options, evaluate
from mlff2d.training.evaluation.groups import element_errors, group_errors, structure_errors
from mlff2d.training.evaluation.of_property import recall
from mlff2d.training.evaluation.part import judged_part
from mlff2d.training.evaluation.plots import FEW, cumulative_errors, error_histograms, parity
from mlff2d.training.evaluation.population import Population
from mlff2d.training.evaluation.quantities import Quantity, directions, scores
from mlff2d.training.evaluation.report import metrics
from mlff2d.training.evaluation.tables import Table
from mlff2d.training.lineage import trained_on
from mlff2d.training.sections import Config
from tests.training_helpers import METALS, PairNet, PairNetConfig, monolayers

ELEMENTS = [atomic_numbers[symbol] for symbol in METALS]
SPLIT = {"by": "material", "val": 0.2, "test": 0.3, "seed": 0}


pytestmark = pytest.mark.usefixtures("pairnet")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Two frames of each of 36 materials."""
    path = tmp_path_factory.mktemp("data") / "metals.extxyz"
    ase.io.write(path, monolayers())
    return path


@pytest.fixture(scope="module")
def data(source) -> Path:
    """The same as HDF5."""
    (path,), _ = open_sources([source], source.parent, "material")
    return path


@pytest.fixture(scope="module")
def whole(data) -> Dataset:
    return Dataset(data, 4.0)


def potential_file(
    path: Path, trained_on: Path | None = None, seed: int = 0, offset: float = 0.0
) -> Path:
    """An untrained potential whose file says that it was trained on a data file."""
    torch.manual_seed(seed)
    references = {z: -3.0 - 0.01 * z + offset * z for z in ELEMENTS}
    return save(path, Potential(PairNet(PairNetConfig()), references, 0.3), trained_on)


def save(path: Path, module: Potential | PropertyPredictor, trained_on: Path | None) -> Path:
    training = {}
    if trained_on is not None:
        training = {
            "data": [{"name": trained_on.name, "sha256": file_digest(trained_on)}],
            "settings": {
                "data": {"material_key": "material"},
                "filters": {"max_force": 20.0},
                "split": SPLIT,
                "priors": {},
            },
        }
    path.parent.mkdir(exist_ok=True)
    REGISTRY["pairnet"] = PairNet
    checkpoint.save(module, path, training)
    return path


@pytest.fixture
def model(tmp_path, source) -> Path:
    return potential_file(tmp_path / "models" / "mine.pt", source)


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


# The whole


def judge(folder: Path, model: Path, *data: Path, draw: bool = False, **options):
    """The report; its files only where they are asked for, as drawing takes a while."""
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(evaluate_module, "write_report", lambda report, folder: folder)
        return evaluate(Options(model=str(model), data=list(data), output=folder, **options))


def by_calculator(model: Path, frames: list[Atoms]) -> dict[str, float]:
    """Mean absolute errors one structure after another, by ASE."""
    calculator = MLFF2DCalculator(model, device="cpu")
    errors: dict[str, list[np.ndarray]] = {"energy": [], "forces": [], "stress": []}
    for atoms in frames:
        calculator.calculate(atoms)
        found = calculator.results
        energy = found["energy"] - atoms.get_potential_energy()
        errors["energy"].append(np.array([1000 * energy / len(atoms)]))
        errors["forces"].append(1000 * (found["forces"] - atoms.get_forces()).ravel())
        virial = atoms.get_stress(voigt=False) * atoms.get_volume()
        stress = found["stress_2d"] - stress_2d(virial, atoms.cell.array, atoms.pbc)
        errors["stress"].append(stress[[0, 1, 2, 2]])
    return {name: float(np.abs(np.concatenate(e)).mean()) for name, e in errors.items()}


def test_the_test_part_is_judged_as_a_calculator_would(model, source, data, tmp_path) -> None:
    frames = ase.io.read(source, ":")
    test = [a for a in frames if part_of(a.info["material"], 0, 0.2, 0.3) == "test"]
    assert 0 < len(test) < len(frames)
    report = judge(tmp_path / "report", model, data)
    (section,) = report.sections
    assert len(section.population) == len(test)
    expected = by_calculator(model, test)
    for q in section.quantities:
        assert scores(q.true, q.predicted["mine"]).mae == pytest.approx(expected[q.key], rel=1e-4)
    forces = np.concatenate([a.get_forces() for a in test])
    nothing = next(q for q in section.quantities if q.key == "forces")
    assert scores(nothing.true, nothing.predicted["no force"]).mae == pytest.approx(
        1000 * np.abs(forces).mean(), rel=1e-5
    )


class _Links(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


def test_report_is_complete_and_needs_nothing_else(model, source, data, tmp_path) -> None:
    other = potential_file(tmp_path / "models" / "other.pt", source, seed=1)
    folder = tmp_path / "report"
    report = judge(folder, model, data, against=[str(other)], draw=True)
    page = (folder / "index.html").read_text()
    links = _Links()
    links.feed(page)
    pictures = [link for link in links.found if link.startswith("data:image/png;base64,")]
    others = [link for link in links.found if link not in pictures]
    assert others
    assert all(link.startswith("#") for link in others)
    assert "@import" not in page
    assert not re.search(r"url\(", page)
    files = sorted(folder.glob("*.png"))
    decoded = {base64.b64decode(p.partition(",")[2]) for p in pictures}
    assert {f.read_bytes() for f in files} == decoded
    names = {f.stem for f in files}
    assert {"direct-parity", "direct-parity-1", "direct-histogram", "direct-cumulative"} <= names
    assert {"direct-size", "direct-directions", "direct-elements-energy"} <= names
    numbers = json.loads((folder / "metrics.json").read_text())
    methods = numbers["direct"]["energy"].keys()
    assert {"mine", "other", "reference energies", "composition alone"} <= methods
    assert set(numbers["direct"]["force_directions"]) == {"mine", "other"}
    with (folder / "direct-structures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.sections[0].population)
    key = "Energy (meV/atom) "
    errors = [abs(float(r[f"{key}mine"]) - float(r[f"{key}true"])) for r in rows]
    assert np.mean(errors) == pytest.approx(numbers["direct"]["energy"]["mine"]["mae"], rel=1e-5)
    with (folder / "direct-worst_energy.csv").open() as file:
        worst = list(csv.DictReader(file))
    assert float(worst[0]["error (meV/atom)"]) == pytest.approx(max(errors), rel=1e-5)


def test_the_same_command_writes_the_same_numbers_again(model, data, tmp_path) -> None:
    first = metrics(judge(tmp_path / "report", model, data))
    assert json.dumps(metrics(judge(tmp_path / "report", model, data))) == json.dumps(first)


def test_training_part_is_said_to_be_no_test(model, data, tmp_path) -> None:
    report = judge(tmp_path / "a", model, data, part="all")
    assert any("were in the training part of mine" in note for note in report.notes)
    assert len(report.sections[0].population) == 72
    assert not judge(tmp_path / "b", model, data, part="test").notes


def test_training_structures_among_new_ones_are_told(model, source, tmp_path) -> None:
    other = tmp_path / "other.extxyz"
    ase.io.write(other, monolayers(1, seed=5))
    report = judge(tmp_path / "a", model, source, other)
    (alone,) = judge(tmp_path / "b", model, source, part="all").notes
    assert len(report.sections[0].population) == 72 + 36
    (note,) = report.notes
    assert note.split(" of these ")[0] == alone.split(" of these ")[0]
    assert "of these 108 structures were in the training part of mine" in note


def test_few_training_frames_are_found_again(whole, source) -> None:
    settings = {"filters": {}, "priors": {}, "seed": 3, "split": SPLIT | {"train_frames": 9}}
    training = {"data": [{"sha256": file_digest(source)}], "settings": settings}
    everything = np.arange(len(whole))
    config = {"run_dir": "run", "data": {"files": [source]}, "model": {"name": "pairnet"}}
    parts, _ = split_data(Config.model_validate(config | settings), whole)
    assert len(parts.train) == 9
    judged = judged_part(whole, "train", training, "material")
    assert judged.ids.tolist() == parts.train.tolist()
    assert trained_on(whole, everything, training, "material") == 9


def test_parts_are_not_looked_for_under_other_names(model, source, tmp_path) -> None:
    """Nor is data of a start read with the material key of the fine-tuning."""
    with pytest.raises(ValueError, match="material key 'material', but they are read with 'run'"):
        judge(tmp_path / "a", model, source, material_key="run")
    *_, note = judge(tmp_path / "b", model, source, material_key="run", part="all").notes
    assert "cannot be told which" in note
    start = checkpoint.read(model)["training"]
    tuned = {
        "data": [],
        "settings": {"data": {"material_key": "run"}},
        "start": {"training": start},
    }
    checkpoint.save(checkpoint.load(model), tmp_path / "models" / "tuned.pt", tuned)
    ours = judge(tmp_path / "c", tmp_path / "models" / "tuned.pt", source)
    theirs = judge(tmp_path / "d", model, source)
    assert ours.sections[0].population.ids.tolist() == theirs.sections[0].population.ids.tolist()


def test_a_piece_of_the_training_data_has_another_digest(model, source, tmp_path) -> None:
    ase.io.write(tmp_path / "piece.extxyz", ase.io.read(source, ":20"))
    report = judge(tmp_path / "report", model, tmp_path / "piece.extxyz")
    assert len(report.sections[0].population) == 20
    with pytest.raises(ValueError, match=r"was not trained on piece\.extxyz \(metals\.extxyz\)"):
        judge(tmp_path / "report", model, tmp_path / "piece.extxyz", part="test")


def test_another_zero_of_energy_is_fitted_and_said(data, tmp_path) -> None:
    """Errors on data of another zero do not depend on the reference energies of the model."""
    near = potential_file(tmp_path / "models" / "near.pt")
    far = potential_file(tmp_path / "models" / "far.pt", offset=0.7)
    report = judge(tmp_path / "report", near, data, against=[str(far)])
    (energy,) = (q for q in report.sections[0].quantities if q.key == "energy")
    np.testing.assert_allclose(energy.predicted["near"], energy.predicted["far"], atol=1e-3)
    moved = [line for line in report.sections[0].lines if line.startswith("ENERGIES MOVED")]
    assert len(moved) == 2
    given = judge(tmp_path / "given", near, data, against=[str(far)], energies="given")
    (energy,) = (q for q in given.sections[0].quantities if q.key == "energy")
    assert np.abs(energy.predicted["near"] - energy.predicted["far"]).min() > 1000 * 0.69 * 28
    assert not any(line.startswith("ENERGIES MOVED") for line in given.sections[0].lines)


def test_structures_with_unknown_elements_are_skipped_and_named(data, tmp_path) -> None:
    torch.manual_seed(0)
    few = Potential(PairNet(PairNetConfig()), dict.fromkeys(ELEMENTS[:4], -3.0), 0.3)
    model = save(tmp_path / "models" / "few.pt", few, None)
    report = judge(tmp_path / "report", model, data)
    assert len(report.sections[0].population) == 2 * 4 * 4
    (note,) = report.notes
    assert note.startswith("40 structures were skipped, such as metals.extxyz frame ")
    assert note.endswith("few does not know Pd Pt.")
    ase.io.write(tmp_path / "pt.extxyz", [a for a in monolayers() if "Pt" in a.symbols])
    with pytest.raises(ValueError, match=r"none of the 22 structures can be judged: few does not"):
        judge(tmp_path / "report", model, tmp_path / "pt.extxyz")


def test_structures_with_forces_alone_are_judged_by_forces(model, tmp_path) -> None:
    frames = monolayers(1)
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, forces=atoms.get_forces())
    ase.io.write(tmp_path / "forces.extxyz", frames)
    report = judge(tmp_path / "report", model, tmp_path / "forces.extxyz")
    assert [q.key for q in report.sections[0].quantities] == ["forces"]


def test_a_model_that_returns_nan_is_told_apart(model, data, tmp_path, monkeypatch) -> None:
    plain = PairNet.features

    def features(self, graph, edge_vec):
        broken = plain(self, graph, edge_vec)
        gold = torch.zeros(graph.n_structures, dtype=torch.bool)
        gold[graph.batch[graph.z == 79]] = True
        return broken + torch.where(gold[graph.batch], torch.nan, 0.0).unsqueeze(1)

    monkeypatch.setattr(PairNet, "features", features)
    report = judge(tmp_path / "report", model, data, part="all")
    (section,) = report.sections
    assert len(section.population) == 50
    assert section.lines[0].startswith("mine returns NaN or infinity for 22 structures, such as")
    assert all(np.isfinite(q.predicted["mine"]).all() for q in section.quantities)


def test_a_fine_tuned_model_knows_the_split_of_its_start(source, data, tmp_path) -> None:
    """Data of the start are split as the start was, but its zero of energy is not the start's."""
    start = checkpoint.read(potential_file(tmp_path / "models" / "start.pt", source))["training"]
    module = checkpoint.load(tmp_path / "models" / "start.pt")
    tuned = {"data": [{"name": "x", "sha256": "0"}], "start": {"training": start}}
    checkpoint.save(module, tmp_path / "models" / "tuned.pt", tuned)
    report = judge(tmp_path / "report", tmp_path / "models" / "tuned.pt", data)
    assert "test part" in report.facts["judged"]
    assert any(line.startswith("ENERGIES MOVED: tuned") for line in report.sections[0].lines)


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


# Models of a property


def property_file(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    shifts = dict.fromkeys(ELEMENTS, 1.0)
    return save(
        path, PropertyPredictor(PairNet(PairNetConfig()), shifts, name="gap", unit="eV"), None
    )


def test_a_model_of_a_property_is_judged(tmp_path) -> None:
    model = property_file(tmp_path / "models" / "gap.pt")
    frames = monolayers()
    predictor = checkpoint.load_property(model)
    for atoms in frames:
        atoms.info["gap"] = predictor.predict(atoms) + 0.25
        atoms.calc = None
    ase.io.write(tmp_path / "gaps.extxyz", frames)
    report = judge(tmp_path / "report", model, tmp_path / "gaps.extxyz", draw=True)
    (section,) = report.sections
    (q,) = section.quantities
    found = scores(q.true, q.predicted["gap"])
    assert found.mae == pytest.approx(0.25, abs=1e-4)
    assert found.spearman == pytest.approx(1)
    assert {"the mean", "composition alone"} <= set(q.predicted)
    (table,) = section.tables
    assert table.rows[0][1:] == [1.0] * 6
    assert (tmp_path / "report" / "property-recall.csv").exists()


def test_a_potential_and_a_property_do_not_compare(model, data, tmp_path) -> None:
    gap = property_file(tmp_path / "models" / "gap.pt")
    with pytest.raises(ValueError, match="has no energies or forces"):
        judge(tmp_path / "report", model, data, against=[str(gap)])


# What users get wrong


def complaint(capsys, *argv: object) -> str:
    try:
        status: object = cli.main(["evaluate", *map(str, argv)])
    except SystemExit as stop:  # of an argument that the parser refuses
        status = stop.code
    assert status == 2
    text = capsys.readouterr().err.strip()
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def test_mistakes_get_one_sentence(model, source, data, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is a model, not data" in complaint(capsys, model, model)
    assert "is not a model file" in complaint(capsys, source, data)
    assert "there is no" in complaint(capsys, model, "nothing.extxyz")
    assert "add --relax" in complaint(capsys, model, data, "--reference", model)
    assert "not a whole number from 1 on" in complaint(capsys, model, data, "--limit", "0")
    assert "is a file" in complaint(capsys, model, data, "-o", source)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "holds other files" in complaint(capsys, model, data, "-o", "mine")
    bare = [Atoms(a.symbols, a.positions, cell=a.cell, pbc=a.pbc) for a in monolayers(1)]
    ase.io.write("bare.extxyz", bare)
    assert "no energy, forces or stress" in complaint(capsys, model, "bare.extxyz")
    assert not list(tmp_path.glob("evaluation-*"))  # nothing begun is left behind


def test_an_empty_part_is_one_sentence(source, tmp_path, capsys) -> None:
    one = [a for a in ase.io.read(source, ":") if a.info["material"] == "Cu-Pd"]
    part = part_of("Cu-Pd", 0, 0.2, 0.3)
    ase.io.write(tmp_path / "one.extxyz", one)
    model = potential_file(tmp_path / "models" / "mine.pt", tmp_path / "one.extxyz")
    other = "val" if part != "val" else "test"
    text = complaint(
        capsys, model, tmp_path / "one.extxyz", "--part", other, "-o", tmp_path / "report"
    )
    assert f"the {other} part is empty: of 2 frames" in text


def test_defaults_are_those_of_relax() -> None:
    from mlff2d.md.relaxation.settings import DEFAULTS

    parser = cli._Parser("mlff2d evaluate")
    command.add_arguments(parser)
    args = parser.parse_args(["model", "data"])
    options = Options(model="", data=[])
    assert (args.fmax, args.smax, args.steps) == (DEFAULTS.fmax, DEFAULTS.smax, DEFAULTS.steps)
    assert (options.fmax, options.smax, options.steps) == (
        DEFAULTS.fmax,
        DEFAULTS.smax,
        DEFAULTS.steps,
    )
    assert options.reference_fmax == args.reference_fmax
