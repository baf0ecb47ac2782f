"""Studies of alloys that are shipped can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlff2d.training.alloys.config import load_alloy
from mlff2d.training.config import read_yaml

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "training/configs/alloy.yaml"
STUDIES = [
    path for path in sorted(ROOT.glob("datasets/tmd_pbe/*.yaml")) if "systems" in read_yaml(path)
]


def test_studies_are_found() -> None:
    assert {"alloys.yaml", "mows2.yaml"} <= {path.name for path in STUDIES}


@pytest.mark.parametrize("path", [TEMPLATE, *STUDIES], ids=lambda path: path.name)
def test_a_study_is_read(path) -> None:
    config = load_alloy(path)
    assert config.frames
    for system in config.systems:
        assert system.sublattice in system.parent.stem
        assert path is TEMPLATE or (path.parent / system.parent).exists()
