"""Starting from a trained model: what it is, and its reference energies put right for new data.

Axis: S structures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mlff2d import checkpoint
from mlff2d.atoms import symbols
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor

from ..data.batches import iter_batches
from ..data.compositions import compositions_of
from ..data.convert import file_digest
from ..data.dataset import Dataset
from ..data.references import By, explained, fit_shifts, undetermined
from .adapters import adapters


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
    energies : what is added, eV by atomic number, of the elements in the new data
    before, after : mean |ΔE| / N of the start on the new training part, eV/atom
    frames : structures of the training part that hold each element
    undetermined : elements whose energies the compositions do not tell apart
    """

    energies: dict[int, float]
    before: float
    after: float
    frames: dict[int, int]
    undetermined: tuple[int, ...] = ()


@torch.no_grad()
def fit_shift(
    potential: Potential, data: Dataset, batches: list[list[int]], by: By = "frame"
) -> Shift:
    """Least squares, on compositions, of the energies that a potential leaves unexplained.

    Elements that the batches lack, and combinations of elements that their compositions do not
    determine, keep their reference energies (the solution of least norm). Without energies nothing
    moves. `by` says what counts once, a frame or a composition.
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
        return Shift({}, np.nan, np.nan, {})
    order, residual = order[known], residual[known]
    found = compositions_of(data, order)
    energies = fit_shifts(data, order, found.elements, residual, by)
    left = residual - explained(data, order, energies)
    frames = (found.counts[found.of] > 0).sum(0)
    return Shift(
        energies=energies,
        before=float(np.abs(residual).mean()),
        after=float(np.abs(left).mean()),
        frames={z: int(frames[z]) for z in found.elements},
        undetermined=tuple(sorted(z for group in undetermined(found) for z in group)),
    )


def apply_shift(potential: Potential, shift: dict[int, float]) -> None:
    """Add energies in eV to the reference energies of some elements, in place."""
    for z, energy in shift.items():
        potential.references.energies[z] += energy


def print_shift(shift: Shift, start: Start, console: Console) -> None:
    """What the reference energies of a start were, what they are now, and what that does."""
    if not shift.energies:
        console.print(f"Reference energies are those of {start.name}: the data have no energies.")
        return
    assert isinstance(start.module, Potential)
    references = start.module.references.as_dict()
    columns = ("element", f"{start.name} (eV)", "new (eV)", "shift (eV)", "frames that hold it")
    table = Table(*columns, title="Reference energies")
    for z, energy in shift.energies.items():
        name = symbols([z]) + " *" * (z in shift.undetermined)
        row = (references[z] - energy, references[z])
        table.add_row(name, *(f"{x:.4f}" for x in row), f"{energy:+.4f}", str(shift.frames[z]))
    console.print(table)
    if shift.undetermined:
        console.print(
            f"* Warning: the compositions do not tell {symbols(shift.undetermined)} apart, so only "
            "sums of their shifts mean something: energies of other compositions of these elements "
            "may be wrong by the same amount for each atom. Frames of other compositions help."
        )
    console.print(
        f"All other elements keep theirs. Mean |ΔE| of {start.name} on the training part: "
        f"{1000 * shift.before:.1f} meV/atom before, {1000 * shift.after:.1f} after."
    )


class Anchor:
    """What keeps trained weights near those of the start: half their squared distance, weighted.

    Li, Grandvalet and Davoine, *Explicit Inductive Bias for Transfer Learning with Convolutional
    Networks*, ICML 2018 (there L2-SP). Of a matrix with an adapter it is the change that counts.
    """

    def __init__(self, module: nn.Module, weight: float) -> None:
        self.weight = weight
        self._adapters = adapters(module)
        factors = {id(p) for adapter in self._adapters for p in adapter.parameters()}
        trained = [p for p in module.parameters() if p.requires_grad and id(p) not in factors]
        self._start = [(p, p.detach().clone()) for p in trained]

    def penalty(self) -> Tensor:
        """A float64 scalar, to be added to the loss."""
        squares = [(p - start).square().sum().double() for p, start in self._start]
        squares += [adapter.change().square().sum().double() for adapter in self._adapters]
        return 0.5 * self.weight * torch.stack(squares).sum()
