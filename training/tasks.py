"""What is learnt: energies with their derivatives, or a property. Loss, figures, and baselines.

Axes: N atoms, S structures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlff2d.graph import Graph, Labels
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor

from .config import LossConfig, PropertyConfig
from .data.batches import iter_batches
from .data.dataset import Dataset
from .data.references import elements_of, fit_references, fit_spread
from .loss import errors_of, loss_of, penalty
from .metrics import Metrics, baselines, evaluate
from .property_metrics import PropertyMetrics, property_metrics

Trained = Potential | PropertyPredictor


@dataclass(frozen=True)
class Column:
    """A figure in the tables of a run: short title and width for epochs, long title for results."""

    key: str
    short: str
    width: int
    long: str
    digits: int
    factor: float = 1.0


class Task(ABC):
    """What a run learns.

    Attributes
    ----------
    columns : the figures to show
    title : of the table of results
    baseline : what the rows of the baseline mean
    """

    columns: tuple[Column, ...]
    title: str
    baseline: str

    @abstractmethod
    def loss(self, module: Trained, graph: Graph, labels: Labels, ids: list[int]) -> Tensor:
        """The loss of one batch, with what its gradient needs."""

    @abstractmethod
    def evaluate(self, module: Trained, batches: list[list[int]]) -> Metrics:
        """Figures over some batches, in the module's own precision and on its own device."""

    @abstractmethod
    def baselines(self, module: Trained, batches: list[list[int]]) -> Metrics:
        """The same figures for knowing nothing but the composition."""


class PotentialTask(Task):
    """Energies, and forces and stress where the loss has one of them."""

    title = "Mean absolute errors"

    def __init__(self, data: Dataset, loss: LossConfig) -> None:
        self.data, self.config = data, loss
        columns = [Column("energy", "E meV/atom", 13, "energy (meV/atom)", 2, 1000.0)]
        nothing = "reference energies alone"
        if loss.derivatives:
            columns += [
                Column("forces", "F meV/Å", 11, "forces (meV/Å)", 1, 1000.0),
                Column("stress", "σ N/m", 9, "stress (N/m)", 4),
            ]
            nothing += ", no forces, no stress"
        self.columns = tuple(columns)
        self.baseline = f"Baseline: {nothing}."

    def loss(self, module: Trained, graph: Graph, labels: Labels, ids: list[int]) -> Tensor:
        """Derivatives without a weight are not computed."""
        config = self.config
        prediction = module(graph, forces=bool(config.forces), virial=bool(config.stress))
        return loss_of(errors_of(prediction, labels, graph), config)

    def evaluate(self, module: Trained, batches: list[list[int]]) -> Metrics:
        """See `metrics.evaluate`."""
        assert isinstance(module, Potential)
        return evaluate(module, self.data, batches, self.config)

    def baselines(self, module: Trained, batches: list[list[int]]) -> Metrics:
        """See `metrics.baselines`."""
        assert isinstance(module, Potential)
        return baselines(module, self.data, batches, self.config)


class PropertyTask(Task):
    """A scalar property; its error counts in units of the scale, for a sum per atom."""

    def __init__(self, data: Dataset, loss: LossConfig, config: PropertyConfig) -> None:
        self.data, self.config, self.property = data, loss, config
        unit = f" ({config.unit})" if config.unit else ""
        short = f" {config.unit}" if config.unit else ""
        self.columns = (
            Column("mae", f"MAE{short}", 12, f"MAE{unit}", 4),
            Column("rmse", f"RMSE{short}", 12, f"RMSE{unit}", 4),
            Column("r2", "R²", 8, "R²", 3),
            Column("spearman", "Spearman", 10, "Spearman", 3),
        )
        self.title = f"Errors in {config.key}"
        per_element = "a value for each element, summed over the atoms"
        what = per_element if config.pooling == "sum" else "the mean of the training part"
        self.baseline = f"Baseline: {what}."

    def fit(self, ids: NDArray[np.int64]) -> tuple[dict[int, float], float]:
        """Shifts of the elements, and scale, from some structures.

        Mean and standard deviation, the mean the shift of each element; for a sum the least squares
        of the values on the composition, and the standard deviation per atom around them.
        """
        values = self.data.target
        if self.property.pooling == "sum":
            shifts = fit_references(self.data, ids, values)
            return shifts, fit_spread(self.data, ids, shifts, values)
        mean, spread = float(values[ids].mean()), float(values[ids].std())
        shifts = dict.fromkeys(elements_of(self.data, ids), mean)
        return shifts, spread if spread > 1e-6 * np.abs(values[ids]).max() else 1.0

    def loss(self, module: Trained, graph: Graph, labels: Labels, ids: list[int]) -> Tensor:
        """Builds no forces."""
        target = torch.from_numpy(self.data.target[ids]).to(graph.pos.device)
        return self._penalty(module(graph) - target, graph.atoms_per_structure(), module).mean()

    def _penalty(self, error: Tensor, n_atoms: Tensor, module: Trained) -> Tensor:
        error = error / module.scale
        if self.property.pooling == "sum":
            error = error / n_atoms
        return penalty(error.abs(), self.config.kind, self.config.delta_property)

    @torch.no_grad()
    def evaluate(self, module: Trained, batches: list[list[int]]) -> PropertyMetrics:
        """Errors and correlations over the structures of all batches."""
        assert isinstance(module, PropertyPredictor)
        was_training = module.training
        module.eval()
        device = next(module.parameters()).device
        loader = iter_batches(self.data, batches, module.dtype, device)
        predicted = np.concatenate([module(graph).cpu().numpy() for graph, _ in loader])
        module.train(was_training)
        return self._metrics(predicted, np.concatenate(batches), module)

    def baselines(self, module: Trained, batches: list[list[int]]) -> PropertyMetrics:
        """Errors of the shifts alone."""
        assert isinstance(module, PropertyPredictor)
        ids = np.concatenate(batches)
        shifts = module.shifts.energies.cpu().numpy()[self.data.atoms_of("z", ids)]
        counts = self.data.n_atoms[ids]
        first = np.cumsum(counts) - counts
        # Of a mean all elements have the same shift; so taken, it is the same to the bit.
        predicted = (
            np.add.reduceat(shifts, first) if self.property.pooling == "sum" else shifts[first]
        )
        return self._metrics(predicted, ids, module)

    def _metrics(
        self, predicted: NDArray[np.float64], ids: NDArray[np.int64], module: Trained
    ) -> PropertyMetrics:
        error = torch.from_numpy(predicted - self.data.target[ids])
        n_atoms = torch.from_numpy(self.data.n_atoms[ids])
        loss = float(self._penalty(error, n_atoms, module).mean())
        return property_metrics(predicted, self.data.target[ids], loss)
