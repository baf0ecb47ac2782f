"""Public checkpoints of other packages, read into our own models.

An importer is a module with `recognises(path) -> bool`, which looks at a file or folder without
running anything in it, and `convert(path) -> Imported`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `mlff2d import --help` need not wait for torch
    from mlff2d.potential import Potential


@dataclass(frozen=True)
class Imported:
    """A potential made from another package's checkpoint.

    Attributes
    ----------
    potential : ours, in evaluation mode
    card : what the model file shall say of its origin: at least `source` (package and model),
        `origin` (where the weights are published), `licence`, `trained_on` and `cite`, as far as
        the checkpoint or its importer knows; "unknown" where neither does
    """

    potential: Potential
    card: dict[str, Any]
