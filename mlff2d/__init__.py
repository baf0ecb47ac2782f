"""Machine-learned interatomic potentials for two-dimensional materials."""

from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

# In a checkout, training/ and md/ lie beside this folder; installed, inside it.
if (_Path(__file__).resolve().parent.parent / "pyproject.toml").exists():
    __path__.append(str(_Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from mlff2d.calculator import MLFF2DCalculator

__all__ = ["MLFF2DCalculator", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded on first use: `mlff2d --help` need not wait for torch.
    if name == "MLFF2DCalculator":
        from mlff2d.calculator import MLFF2DCalculator

        return MLFF2DCalculator
    raise AttributeError(f"module 'mlff2d' has no attribute {name!r}")
