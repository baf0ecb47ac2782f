"""What is learnt: energies with their derivatives, or a property. Loss, figures, and baselines.

Axes: N atoms, S structures.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlff2d.graph import Graph, Labels
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor

from .config import ConfigError
from .data.batches import iter_batches
from .data.dataset import Dataset
from .data.filters import missing
from .data.references import elements_of, fit_references, fit_spread
from .data.splits import Split
from .distributed import deal, undeal
from .loss import combine, errors_of, label_counts, loss_sums, penalty
from .metrics import Metrics, baselines, evaluate
from .property_metrics import PropertyMetrics, property_metrics
from .sections import LossConfig, PropertyConfig, StageTwoConfig

_LABELS = {"energy": "an energy", "forces": "forces", "stress": "a stress in its plane"}

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
    n_parts : K, the means that the loss is made of
    config : weights and kind of the loss, as they are at present
    columns : the figures to show
    title : of the table of results
    baseline : what the rows of the baseline mean
    """

    n_parts: int
    config: LossConfig
    columns: tuple[Column, ...]
    title: str
    baseline: str

    @abstractmethod
    def label_notes(self, split: Split) -> list[str]:
        """What weights of the loss act on nothing, for lack of labels.

        Raises ConfigError where a part of the data has nothing to learn or to judge.
        """

    @abstractmethod
    def counts(self, graph: Graph, labels: Labels) -> Tensor:
        """(K,) float64: what the labels of a batch weigh in the K means of the loss."""

    @abstractmethod
    def loss(
        self, module: Trained, graph: Graph, labels: Labels, ids: list[int], counts: Tensor
    ) -> Tensor:
        """What one batch adds to the loss of all batches that `counts` is the sum of."""

    @abstractmethod
    def largest_errors(
        self, module: Trained, graph: Graph, labels: Labels, ids: list[int]
    ) -> dict[str, float]:
        """Largest absolute errors in a batch, by what they are and their unit; NaN for none."""

    @abstractmethod
    def evaluate(self, module: Trained, batches: list[list[int]]) -> Metrics:
        """Figures over some batches, in the module's own precision and on its own device."""

    @abstractmethod
    def baselines(self, module: Trained, batches: list[list[int]]) -> Metrics:
        """The same figures for knowing nothing but the composition."""


class PotentialTask(Task):
    """Energies, and forces and stress where the loss has one of them.

    Attributes
    ----------
    references : fitted to the data alone, eV by atomic number, for the baseline where those of the
        potential only move what a model has learnt elsewhere; else None
    """

    n_parts = 3
    title = "Mean absolute errors"

    def __init__(
        self, data: Dataset, loss: LossConfig, references: dict[int, float] | None = None
    ) -> None:
        self.data, self.config, self.references = data, loss, references
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

    def label_notes(self, split: Split) -> list[str]:
        """Looks at the weights of both stages."""
        parts = {"training": split.train, "validation": split.val}
        absent = {
            (part, label): bool(missing(self.data, label)[ids].all())
            for part, ids in parts.items()
            for label in _LABELS
        }
        notes = []
        stages: dict[str, LossConfig | StageTwoConfig | None]
        stages = {"loss": self.config, "loss.stage_two": self.config.stage_two}
        for name, stage in stages.items():
            weights = {label: getattr(stage, label) for label in _LABELS if stage is not None}
            learnt = [label for label, weight in weights.items() if weight]
            for part in parts:
                lacking = [label for label in learnt if absent[part, label]]
                if learnt and lacking == learnt:
                    raise ConfigError(
                        f"no frame of the {part} part has a label that {name} gives a weight "
                        f"({', '.join(learnt)}); give other data, other weights or another split."
                    )
                notes += [
                    f"{name}.{label} is {weights[label]:g}, but no {part} frame has "
                    f"{_LABELS[label]}: there it acts on nothing."
                    for label in lacking
                ]
        level = self.data.level
        levels = [level.names[code] for code in np.unique(level.codes[split.train])]
        if len(levels) > 1 and any(stage and stage.energy for stage in stages.values()):
            notes.append(
                f"training frames are of {len(levels)} levels of theory "
                f"({', '.join(name or 'not known' for name in levels)}) and share reference "
                "energies: learn their energies together only where these have one zero."
            )
        return notes

    def counts(self, graph: Graph, labels: Labels) -> Tensor:
        """(3,) of energies, forces and stresses."""
        return label_counts(labels, graph, self.config)

    def loss(
        self, module: Trained, graph: Graph, labels: Labels, ids: list[int], counts: Tensor
    ) -> Tensor:
        """Derivatives without a weight are not computed."""
        config = self.config
        prediction = module(graph, forces=bool(config.forces), virial=bool(config.stress))
        return combine(loss_sums(errors_of(prediction, labels, graph), config), counts, config)

    def largest_errors(
        self, module: Trained, graph: Graph, labels: Labels, ids: list[int]
    ) -> dict[str, float]:
        """Energies, and the components of forces and stresses where the loss has one of them."""
        wanted = self.config.derivatives
        prediction = module(graph, forces=wanted, virial=wanted, create_graph=False)
        errors = errors_of(prediction, labels, graph)
        largest = {"|ΔE|/N eV": errors.energy}
        if wanted:
            largest |= {"|ΔF| eV/Å": errors.forces, "|Δσ| N/m": errors.stress}
        return {
            name: float(error.detach().abs().max()) if error.numel() else math.nan
            for name, error in largest.items()
        }

    def evaluate(self, module: Trained, batches: list[list[int]]) -> Metrics:
        """See `metrics.evaluate`."""
        assert isinstance(module, Potential)
        return evaluate(module, self.data, batches, self.config)

    def baselines(self, module: Trained, batches: list[list[int]]) -> Metrics:
        """See `metrics.baselines`."""
        assert isinstance(module, Potential)
        if self.references is not None:
            module = Potential(module.model, self.references)
        return baselines(module, self.data, batches, self.config)


class PropertyTask(Task):
    """A scalar property; its error counts in units of the scale, for a sum per atom."""

    n_parts = 1

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

    def label_notes(self, split: Split) -> list[str]:
        """None: every structure has its value."""
        return []

    def counts(self, graph: Graph, labels: Labels) -> Tensor:
        """(1,) of structures, each of which has a value."""
        return graph.pos.new_tensor([graph.n_structures], dtype=torch.float64)

    def loss(
        self, module: Trained, graph: Graph, labels: Labels, ids: list[int], counts: Tensor
    ) -> Tensor:
        """Builds no forces."""
        target = torch.from_numpy(self.data.target[ids]).to(graph.pos.device)
        penalties = self._penalty(module(graph) - target, graph.atoms_per_structure(), module)
        return penalties.sum() / counts[0]

    def largest_errors(
        self, module: Trained, graph: Graph, labels: Labels, ids: list[int]
    ) -> dict[str, float]:
        """Of the property itself."""
        target = torch.from_numpy(self.data.target[ids]).to(graph.pos.device)
        error = (module(graph) - target).detach().abs().max()
        return {f"|Δ| {self.property.unit}".rstrip(): float(error)}

    def _penalty(self, error: Tensor, n_atoms: Tensor, module: Trained) -> Tensor:
        error = error / module.scale
        if self.property.pooling == "sum":
            error = error / n_atoms
        return penalty(error.abs(), self.config.kind, self.config.delta_property)

    @torch.no_grad()
    def evaluate(self, module: Trained, batches: list[list[int]]) -> PropertyMetrics:
        """Errors and correlations over all batches, which the processes share out among them."""
        assert isinstance(module, PropertyPredictor)
        was_training = module.training
        module.eval()
        device = next(module.parameters()).device
        loader = iter_batches(self.data, deal(batches), module.dtype, device)
        predicted = np.concatenate(undeal([module(graph).cpu().numpy() for graph, _ in loader]))
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
