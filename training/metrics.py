"""Mean absolute errors over a part of the data, and the baselines beside them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from mlff2d.potential import Potential, Prediction

from .config import LossConfig
from .data.batches import iter_batches
from .data.dataset import Dataset
from .loss import Errors, errors_of, loss_of


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures over a part of the data; NaN where there is nothing to judge.

    Attributes
    ----------
    loss : the training loss, the mean over batches weighted by their numbers of structures
    """

    loss: float

    def as_dict(self) -> dict[str, float | None]:
        """The numbers by name; None instead of NaN, which JSON does not know."""
        return {name: None if math.isnan(x) else x for name, x in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class EnergyMetrics(Metrics):
    """Errors of a potential; NaN where nothing is labelled, or nothing learnt.

    Attributes
    ----------
    energy : mean |ΔE| / N in eV/atom over structures
    forces : mean absolute force component in eV/Å over all atoms
    stress : mean absolute in-plane component in N/m over slabs (xx, yy and twice xy, over 4)
    """

    energy: float
    forces: float
    stress: float


class MeanErrors:
    """Sums of absolute errors over batches."""

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)
        self._counts = torch.zeros(3, dtype=torch.float64)
        self._loss = 0.0
        self._structures = 0

    def add(self, errors: Errors, loss: float, n_structures: int) -> None:
        """Count the errors of one batch of structures, and the loss of the batch."""
        parts = (errors.energy, errors.forces, errors.stress)
        # Four of the nine components of a stress in the plane are not zero by definition.
        sizes = (len(errors.energy), 3 * len(errors.forces), 4 * len(errors.stress))
        self._sums += torch.tensor([float(p.detach().double().abs().sum()) for p in parts])
        self._counts += torch.tensor(sizes)
        self._loss += loss * n_structures
        self._structures += n_structures

    def result(self) -> EnergyMetrics:
        """The means."""
        energy, forces, stress = (self._sums / self._counts).tolist()
        loss = self._loss / self._structures
        return EnergyMetrics(energy=energy, forces=forces, stress=stress, loss=loss)


@torch.no_grad()
def evaluate(
    potential: Potential, data: Dataset, batches: list[list[int]], loss: LossConfig
) -> EnergyMetrics:
    """Errors of a potential, in its own precision and on its own device.

    Forces and stress are only computed where the loss has one of them.
    """
    mean = MeanErrors()
    was_training = potential.training
    potential.eval()
    wanted = {"forces": loss.derivatives, "virial": loss.derivatives, "create_graph": False}
    for graph, labels in iter_batches(data, batches, potential.dtype, _device(potential)):
        errors = errors_of(potential(graph, **wanted), labels, graph)
        mean.add(errors, float(loss_of(errors, loss)), graph.n_structures)
    potential.train(was_training)
    return mean.result()


def baselines(
    potential: Potential, data: Dataset, batches: list[list[int]], loss: LossConfig
) -> EnergyMetrics:
    """Errors of knowing only the reference energies: the model gives zero, so do forces, stress.

    Those of forces and stress only where the loss has one of them.
    """
    mean = MeanErrors()
    references = potential.references.energies.cpu()
    for graph, labels in iter_batches(data, batches, torch.float64, torch.device("cpu")):
        energies = references[graph.z]
        energy = torch.zeros(graph.n_structures, dtype=torch.float64)
        prediction = Prediction(
            energy=energy.index_add(0, graph.batch, energies),
            energies=energies,
            forces=torch.zeros_like(labels.forces) if loss.derivatives else None,
            virial=torch.zeros_like(labels.virial) if loss.derivatives else None,
        )
        errors = errors_of(prediction, labels, graph)
        mean.add(errors, float(loss_of(errors, loss)), graph.n_structures)
    return mean.result()


def _device(potential: Potential) -> torch.device:
    return next(potential.parameters()).device
