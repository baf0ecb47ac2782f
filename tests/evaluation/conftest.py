"""What several tests of `mlff2d evaluate` judge: a data file, the same as HDF5, and a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.judging import as_hdf5, potential_file
from tests.training_helpers import write_monolayers


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """Labelled monolayers as extxyz."""
    return write_monolayers(tmp_path_factory.mktemp("data") / "metals.extxyz")


@pytest.fixture(scope="session")
def data(source) -> Path:
    """The same as an HDF5 file."""
    return as_hdf5(source)


@pytest.fixture
def model(tmp_path, source) -> Path:
    """A potential with random weights that says it was trained on them."""
    return potential_file(tmp_path / "models" / "mine.pt", source)
