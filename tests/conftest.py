"""Fixtures of the tests of training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from rich.console import Console

from mlff2d.models import REGISTRY
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
def quiet() -> Console:
    """Prints nothing."""
    return Console(quiet=True)
