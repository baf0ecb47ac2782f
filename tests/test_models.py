"""Every registered model goes through the contract."""

import pytest

from mlff2d.models import REGISTRY
from tests.model_contract import ModelContract


@pytest.mark.parametrize("name", sorted(REGISTRY))
class TestModels(ModelContract):
    """See `ModelContract`."""
