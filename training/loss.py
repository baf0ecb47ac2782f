"""The loss λE |ΔE| + λF |ΔF| + λσ |Δσ|, with the stress in N/m and in the plane only.

Axes: N atoms, S structures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlff2d.graph import Graph, Labels
from mlff2d.potential import Prediction
from mlff2d.slab import batched_stress_2d

from .config import LossConfig


@dataclass(frozen=True)
class Errors:
    """Prediction minus label, of what is predicted and labelled; a NaN in here is the prediction's.

    Attributes
    ----------
    energy : (labelled S,) eV/atom, float64
    forces : (labelled N, 3) eV/Å
    stress : (labelled slabs, 3, 3) N/m, zero in every component along the normal
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor


def errors_of(prediction: Prediction, labels: Labels, graph: Graph) -> Errors:
    """Errors of a prediction; those in forces and stress are empty where it has none."""
    has_energy, has_forces, has_stress = labelled(labels, graph)
    energy = (prediction.energy - labels.energy) / graph.atoms_per_structure()
    forces, stress = labels.forces[:0], labels.virial[:0]
    if prediction.forces is not None:
        forces = (prediction.forces - labels.forces)[has_forces]
    if prediction.virial is not None:
        virial = (prediction.virial - labels.virial)[has_stress]
        stress = batched_stress_2d(virial, graph.cell[has_stress], graph.pbc[has_stress])
    return Errors(energy[has_energy], forces, stress)


def labelled(labels: Labels, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (S,), (N,), (S,) of the structures, atoms and slabs with energy, forces and stress."""
    has_virial = ~torch.isnan(labels.virial).any(2).any(1)
    return (
        ~torch.isnan(labels.energy),
        ~torch.isnan(labels.forces).any(1),
        has_virial & (graph.pbc.sum(1) == 2),  # only a slab has a stress in N/m
    )


def loss_of(errors: Errors, config: LossConfig) -> Tensor:
    """The weighted loss, a float64 scalar.

    Each part is the mean over what is labelled: structures for the energy and the stress, atoms
    for the forces; a part without labels in the batch is zero. The penalty acts on the length of
    an error (of the vector ΔF, of the tensor Δσ), so that it does not depend on the frame.
    """
    parts = (
        (config.energy, errors.energy.abs(), config.delta_energy),
        (config.forces, torch.linalg.vector_norm(errors.forces, dim=1), config.delta_forces),
        (
            config.stress,
            torch.linalg.vector_norm(errors.stress, dim=(1, 2)),
            config.delta_stress,
        ),
    )
    total = errors.energy.new_zeros(())
    for weight, length, delta in parts:
        if weight and len(length):
            total = total + weight * penalty(length, config.kind, delta).double().mean()
    return total


def penalty(length: Tensor, kind: str, delta: float) -> Tensor:
    """What errors of these lengths cost, for a `kind` of `LossConfig`."""
    if kind == "mae":
        return length
    if kind == "mse":
        return length.square()
    return torch.nn.functional.huber_loss(
        length, torch.zeros_like(length), reduction="none", delta=delta
    )
