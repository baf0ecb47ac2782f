"""Judging models of a property."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
import torch

from mlff2d import checkpoint
from mlff2d.property import PropertyPredictor
from mlff2d.training.evaluation.quantities import scores
from tests.judging import ELEMENTS, judge, save
from tests.training_helpers import PairNet, PairNetConfig, monolayers

pytestmark = pytest.mark.usefixtures("pairnet")


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
