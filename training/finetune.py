"""Starting from a trained model: what it is, and its reference energies put right for new data.

Axis: S structures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlff2d import checkpoint
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor

from .data.batches import iter_batches
from .data.convert import file_digest
from .data.dataset import Dataset
from .data.references import compositions, elements_of, fit_shifts


@dataclass(frozen=True)
class Start:
    """A model that training starts from.

    Attributes
    ----------
    name : of the file, without its folder
    sha256 : of its content
    module : as it was; its reference energies become those of the new data
    training : what its file says of its own origin
    """

    name: str
    sha256: str
    module: Potential | PropertyPredictor
    training: dict[str, Any]


def load_start(model: str, device: torch.device, dtype: torch.dtype) -> Start:
    """Read the model to start from. Raises ModelFileError where it is no model."""
    path: Path = checkpoint.locate(model)
    module = checkpoint.load_any(model, device, dtype)
    return Start(path.name, file_digest(path), module, checkpoint.read(model)["training"])


@dataclass(frozen=True)
class Shift:
    """How reference energies of a start are moved, and what that does for its errors.

    Attributes
    ----------
    energies : eV by atomic number, of the elements in the new data
    before, after : mean |ΔE| / N of the start on the new training part, eV/atom
    """

    energies: dict[int, float]
    before: float
    after: float


@torch.no_grad()
def fit_shift(potential: Potential, data: Dataset, batches: list[list[int]]) -> Shift:
    """Least squares, on compositions, of the energies that a potential leaves unexplained.

    Elements that the batches lack, and combinations of elements that their compositions do not
    determine, keep their reference energies (the solution of least norm). Without energies nothing
    moves.
    """
    order = np.concatenate(batches)
    device = next(potential.parameters()).device
    was_training = potential.training
    potential.eval()
    loader = iter_batches(data, batches, potential.dtype, device)
    energy = torch.cat([potential(g, forces=False, virial=False).energy.cpu() for g, _ in loader])
    potential.train(was_training)
    residual = (data.energy[order] - energy.numpy()) / data.n_atoms[order]
    known = np.isfinite(residual)
    if not known.any():
        return Shift({}, np.nan, np.nan)
    order, residual = order[known], residual[known]
    elements = elements_of(data, order)
    shift = fit_shifts(data, order, elements, residual)
    left = residual - compositions(data, order, elements) @ np.array(list(shift.values()))
    return Shift(shift, float(np.abs(residual).mean()), float(np.abs(left).mean()))


def apply_shift(potential: Potential, shift: dict[int, float]) -> None:
    """Add energies in eV to the reference energies of some elements, in place."""
    for z, energy in shift.items():
        potential.references.energies[z] += energy
