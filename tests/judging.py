"""Untrained models that say what they were trained on, and their judgement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase.data import atomic_numbers

from mlff2d import checkpoint
from mlff2d.models import REGISTRY
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor
from mlff2d.training.data.convert import file_digest, open_sources
from mlff2d.training.evaluation import evaluate as evaluate_module
from mlff2d.training.evaluation.evaluate import Options, evaluate
from tests.training_helpers import METALS, PairNet, PairNetConfig

ELEMENTS = [atomic_numbers[symbol] for symbol in METALS]
SPLIT = {"by": "material", "val": 0.2, "test": 0.3, "seed": 0}


def as_hdf5(source: Path) -> Path:
    """The same data beside it."""
    (path,), _ = open_sources([source], source.parent, "material")
    return path


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


def judge(folder: Path, model: Path, *data: Path, draw: bool = False, **options):
    """The report; its files only where they are asked for, as drawing takes a while."""
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(evaluate_module, "write_report", lambda report, folder: folder)
        return evaluate(Options(model=str(model), data=list(data), output=folder, **options))
