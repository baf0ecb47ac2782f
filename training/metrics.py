"""Mean absolute errors over a part of the data, and the baselines beside them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from mlff2d.potential import Potential, Prediction

from .data.batches import iter_batches
from .data.dataset import Dataset
from .distributed import deal, sum_tensor
from .loss import Errors, combine, error_counts, errors_of, loss_sums
from .sections import LossConfig


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures over a part of the data; NaN where there is nothing to judge.

    Attributes
    ----------
    loss : as in training, its means over the whole part
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
    """Sums of absolute errors and of the loss over batches.

    Attributes
    ----------
    totals : (4, 3) float64, of energies, forces and stresses: absolute errors and their number,
        penalties of the loss and what they weigh; those of several parts of the data may be added
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.totals = torch.zeros(4, 3, dtype=torch.float64)

    def add(self, errors: Errors) -> None:
        """Count the errors of one batch."""
        parts = (errors.energy, errors.forces, errors.stress)
        absolute = torch.stack([p.detach().double().abs().sum() for p in parts])
        # Four of the nine components of a stress in the plane are not zero by definition.
        numbers = absolute.new_tensor([len(p) * n for p, n in zip(parts, (1, 3, 4), strict=True)])
        sums = loss_sums(errors, self.config).detach()
        counts = error_counts(errors, self.config)
        self.totals += torch.stack([absolute, numbers, sums, counts]).cpu()

    def result(self) -> EnergyMetrics:
        """The means, over what all processes have counted."""
        absolute, numbers, sums, counts = sum_tensor(self.totals.clone())
        energy, forces, stress = (absolute / numbers).tolist()
        loss = float(combine(sums, counts, self.config))
        return EnergyMetrics(energy=energy, forces=forces, stress=stress, loss=loss)


@torch.no_grad()
def evaluate(
    potential: Potential, data: Dataset, batches: list[list[int]], loss: LossConfig
) -> EnergyMetrics:
    """Errors of a potential, in its own precision and on its own device.

    Forces and stress are only computed where the loss has one of them. The batches are shared out
    among the processes.
    """
    mean = MeanErrors(loss)
    was_training = potential.training
    potential.eval()
    wanted = {"forces": loss.derivatives, "virial": loss.derivatives, "create_graph": False}
    for graph, labels in iter_batches(data, deal(batches), potential.dtype, _device(potential)):
        mean.add(errors_of(potential(graph, **wanted), labels, graph))
    potential.train(was_training)
    return mean.result()


def baselines(
    potential: Potential, data: Dataset, batches: list[list[int]], loss: LossConfig
) -> EnergyMetrics:
    """Errors of knowing only the reference energies: the model gives zero, so do forces, stress.

    Those of forces and stress only where the loss has one of them.
    """
    mean = MeanErrors(loss)
    references = potential.references.energies.cpu()
    for graph, labels in iter_batches(data, deal(batches), torch.float64, torch.device("cpu")):
        energies = references[graph.z]
        energy = torch.zeros(graph.n_structures, dtype=torch.float64)
        prediction = Prediction(
            energy=energy.index_add(0, graph.batch, energies),
            energies=energies,
            forces=torch.zeros_like(labels.forces) if loss.derivatives else None,
            virial=torch.zeros_like(labels.virial) if loss.derivatives else None,
        )
        mean.add(errors_of(prediction, labels, graph))
    return mean.result()


def _device(potential: Potential) -> torch.device:
    return next(potential.parameters()).device
