"""The loss λE |ΔE| + λF |ΔF| + λσ |Δσ|, with the stress in N/m and in the plane only.

Each part is a mean over what is labelled. It is made of sums and counts, so that the mean may go
over more than one batch: `loss_sums` and `label_counts` give them, `combine` makes the loss.

Axes: N atoms, S structures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlff2d.graph import Graph, Labels
from mlff2d.potential import Prediction
from mlff2d.slab import batched_stress_2d

from .sections import LossConfig


@dataclass(frozen=True)
class Errors:
    """Prediction minus label, of what is predicted and labelled; a NaN in here is the prediction's.

    Attributes
    ----------
    energy : (labelled S,) eV/atom, float64
    forces : (labelled N, 3) eV/Å
    stress : (labelled slabs, 3, 3) N/m, zero in every component along the normal
    sizes : numbers of atoms of the structure that each row of the three belongs to
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    sizes: tuple[Tensor, Tensor, Tensor]


def errors_of(prediction: Prediction, labels: Labels, graph: Graph) -> Errors:
    """Errors of a prediction; those in forces and stress are empty where it has none."""
    has_energy, has_forces, has_stress = labelled(labels, graph)
    of_structures, of_atoms, of_slabs = _sizes(labels, graph)
    energy = (prediction.energy - labels.energy) / graph.atoms_per_structure()
    forces, stress = labels.forces[:0], labels.virial[:0]
    if prediction.forces is not None:
        forces = (prediction.forces - labels.forces)[has_forces]
    if prediction.virial is not None:
        virial = (prediction.virial - labels.virial)[has_stress]
        stress = batched_stress_2d(virial, graph.cell[has_stress], graph.pbc[has_stress])
    sizes = (of_structures, of_atoms[: len(forces)], of_slabs[: len(stress)])
    return Errors(energy[has_energy], forces, stress, sizes)


def labelled(labels: Labels, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (S,), (N,), (S,) of the structures, atoms and slabs with energy, forces and stress."""
    has_virial = ~torch.isnan(labels.virial).any(2).any(1)
    return (
        ~torch.isnan(labels.energy),
        ~torch.isnan(labels.forces).any(1),
        has_virial & (graph.pbc.sum(1) == 2),  # only a slab has a stress in N/m
    )


def _sizes(labels: Labels, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of atoms behind each energy, each force and each stress that is labelled."""
    has_energy, has_forces, has_stress = labelled(labels, graph)
    n_atoms = graph.atoms_per_structure()
    return n_atoms[has_energy], n_atoms[graph.batch][has_forces], n_atoms[has_stress]


def label_counts(labels: Labels, graph: Graph, config: LossConfig) -> Tensor:
    """(3,) float64: what the energies, forces and stresses of a batch weigh in their means."""
    return _weigh(_sizes(labels, graph), config)


def error_counts(errors: Errors, config: LossConfig) -> Tensor:
    """(3,) float64: the same of what is also predicted."""
    return _weigh(errors.sizes, config)


def _weigh(sizes: tuple[Tensor, Tensor, Tensor], config: LossConfig) -> Tensor:
    return torch.stack([n.double().pow(config.atoms_power).sum() for n in sizes])


def loss_sums(errors: Errors, config: LossConfig) -> Tensor:
    """(3,) float64: the penalties of energies, forces and stresses, each times N^atoms_power.

    The penalty acts on the length of an error (of the vector ΔF, of the tensor Δσ), so that it
    does not depend on the frame.
    """
    parts = (
        (errors.energy.abs(), config.delta_energy),
        (torch.linalg.vector_norm(errors.forces, dim=1), config.delta_forces),
        (torch.linalg.vector_norm(errors.stress, dim=(1, 2)), config.delta_stress),
    )
    sums = []
    for (length, delta), n_atoms in zip(parts, errors.sizes, strict=True):
        weights = n_atoms.double().pow(config.atoms_power)
        sums.append((penalty(length, config.kind, delta).double() * weights).sum())
    return torch.stack(sums)


def combine(sums: Tensor, counts: Tensor, config: LossConfig) -> Tensor:
    """The loss, a float64 scalar, from the (3,) sums of a batch and the (3,) counts.

    With counts of several batches it is that batch's share of their common loss, and the shares
    add up to it. A part that nothing labels, or that has no weight, is zero.
    """
    total = sums.new_zeros(())
    weights = (config.energy, config.forces, config.stress)
    for weight, value, count in zip(weights, sums, counts, strict=True):
        if weight:
            total = total + weight * value / torch.where(count > 0, count, 1.0)
    return total


def loss_of(errors: Errors, config: LossConfig) -> Tensor:
    """The loss of one batch by itself, a float64 scalar."""
    return combine(loss_sums(errors, config), error_counts(errors, config), config)


def penalty(length: Tensor, kind: str, delta: float) -> Tensor:
    """What errors of these lengths cost, for a `kind` of `LossConfig`."""
    if kind == "mae":
        return length
    if kind == "mse":
        return length.square()
    return torch.nn.functional.huber_loss(
        length, torch.zeros_like(length), reduction="none", delta=delta
    )
