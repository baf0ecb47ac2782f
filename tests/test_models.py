"""Every registered model goes through the contract."""

import pytest
import torch

from mlff2d.atoms import to_graph
from mlff2d.models import REGISTRY, build_model
from tests.model_contract import ModelContract
from tests.structures import mos2


@pytest.mark.parametrize("name", sorted(REGISTRY))
class TestModels(ModelContract):
    """See `ModelContract`."""


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_fresh_model_starts_near_zero(name: str) -> None:
    """At its default settings; the reference energies are the better guess at first."""
    torch.manual_seed(0)
    model = build_model(name, {})
    graph = to_graph(mos2(), model.cutoff).to(dtype=torch.float32)
    with torch.no_grad():
        energies = model(graph, graph.edge_vectors())
    assert 1e-3 < float(energies.abs().max()) < 3.0
