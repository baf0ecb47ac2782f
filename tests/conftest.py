"""Fixtures of the tests of training, and a thread for each of several processes that test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Code that tests compile is kept beside what else pytest keeps.
os.environ.setdefault(
    "MLFF2D_CACHE", str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "compiled")
)

# Workers of pytest-xdist share the cores; what is imported below, or started by a test, reads this.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from rich.console import Console

from mlff2d.models import REGISTRY
from tests.labelling import PoolHere
from tests.training_helpers import PairNet


@pytest.fixture
def pairnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model under the name `pairnet`."""
    monkeypatch.setitem(REGISTRY, "pairnet", PairNet)


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of torch's threads, which a training may set, is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def layernet(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    """The small model of alloys under the name `layernet`, and what relaxes with it."""
    from mlff2d.training.alloys import potentials  # no other test waits for it
    from tests.alloy_potentials import LayerNet, relax

    monkeypatch.setitem(REGISTRY, "layernet", LayerNet)
    monkeypatch.setattr(potentials, "relaxer", relax)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlff2d label` labels in this process."""
    monkeypatch.setattr("mlff2d.training.labelling.compute.Pool", PoolHere)


@pytest.fixture
def quiet() -> Console:
    """Prints nothing."""
    return Console(quiet=True)
