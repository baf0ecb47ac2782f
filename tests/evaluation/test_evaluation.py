"""Judging a potential: the part that is judged, what is told of it, and the report."""

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

from mlff2d import checkpoint
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.potential import Potential
from mlff2d.slab import stress_2d
from mlff2d.training.data.choice import split_data
from mlff2d.training.data.convert import file_digest
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.splits import part_of
from mlff2d.training.evaluation.part import judged_part
from mlff2d.training.evaluation.quantities import scores
from mlff2d.training.evaluation.report import metrics
from mlff2d.training.lineage import trained_on
from mlff2d.training.sections import Config
from tests.judging import ELEMENTS, SPLIT, judge, potential_file, save
from tests.training_helpers import PairNet, PairNetConfig, monolayers

pytestmark = pytest.mark.usefixtures("pairnet")


@pytest.fixture(scope="module")
def whole(data) -> Dataset:
    return Dataset(data, 4.0)


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
