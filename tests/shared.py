"""Real data that lie beside a checkout where it is developed; tests that need them else skip."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.exists(), reason="the shared data are not here")
