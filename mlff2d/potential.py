"""An energy model with its priors, and the derivatives of its energy.

Axes: N atoms, E edges, S structures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlff2d.atoms import refuse_unknown
from mlff2d.domain import Domain
from mlff2d.graph import Graph
from mlff2d.models.base import EnergyModel
from mlff2d.nn.scatter import segment_sum
from mlff2d.priors import ZBL, ReferenceEnergies
from mlff2d.slab import batched_projector


@dataclass(frozen=True)
class Prediction:
    """What a potential says of a batch.

    Attributes
    ----------
    energy : (S,) float64, eV
    energies : (N,) float64, eV, with the reference energies of the elements
    forces : (N, 3) eV/Å, or None where not asked for
    virial : (S, 3, 3) dE/dstrain in eV, tension positive, P W P with P the projector on the span
        of the periodic lattice vectors; None where not asked for
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor | None = None
    virial: Tensor | None = None


class Potential(nn.Module):
    """Energy, forces and virial from a model of per-atom energies and priors around it.

    Per atom, energy = scale * model + reference energy of its element + ZBL. Reference energies
    are added in float64: they are large beside the differences that matter.

    Parameters
    ----------
    model : of the energies of atoms
    references : energies in eV by atomic number; its keys are the elements the potential knows
    scale : eV for one unit of the model's output
    zbl : add the repulsion of nuclei at short range

    Attributes
    ----------
    domain : where the environments of the training set are; None where that is not known
    """

    domain: Domain | None

    def __init__(
        self,
        model: EnergyModel,
        references: dict[int, float],
        scale: float = 1.0,
        zbl: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.references = ReferenceEnergies(references)
        self.scale = float(scale)
        self.zbl = ZBL() if zbl else None
        self.domain = None

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.model.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the potential knows, ascending."""
        return tuple(sorted(self.references.as_dict()))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model."""
        return next(self.parameters()).dtype

    def fingerprint(self) -> str:
        """SHA-256 of all that the energies depend on, whatever file the potential came from."""
        digest = hashlib.sha256(repr(self.model.config).encode())
        digest.update(f"{self.scale} {self.zbl is not None}".encode())
        digest.update(repr(self.references.as_dict()).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().double().numpy().tobytes())
        return digest.hexdigest()

    def check_elements(self, numbers: Iterable[int]) -> None:
        """Raise StructureError where the model never saw an element."""
        refuse_unknown(numbers, self.elements)

    def forward(
        self,
        graph: Graph,
        forces: bool = True,
        virial: bool = True,
        create_graph: bool | None = None,
        own: Tensor | None = None,
    ) -> Prediction:
        """Predict for a batch.

        `create_graph` keeps what a second derivative needs (for a loss on forces); by default in
        training mode only. With a mask `own` (N,) only the energies of these atoms count, the rest
        being their surroundings. The elements are not checked here: see `check_elements`.
        """
        if create_graph is None:
            create_graph = self.training
        # Where a large structure is given in float64, its vectors do not lose what float32 would.
        edge_vec = graph.edge_vectors().to(self.dtype)
        if not (forces or virial):
            energies = self._energies(graph, edge_vec, own)
            return Prediction(_per_structure(energies, graph), energies)
        with torch.enable_grad():
            if not edge_vec.requires_grad:  # it does where positions do, for a Hessian
                edge_vec.requires_grad_(True)
            energies = self._energies(graph, edge_vec, own)
            total = energies.sum()
            # A lone atom has no edges, and a model may then not touch edge_vec at all.
            (gradient,) = torch.autograd.grad(
                total, edge_vec, create_graph=create_graph, materialize_grads=True
            )
        if not create_graph:
            energies, edge_vec = energies.detach(), edge_vec.detach()
        return Prediction(
            energy=_per_structure(energies, graph),
            energies=energies,
            forces=_forces(gradient, graph) if forces else None,
            virial=_virial(gradient, edge_vec, graph) if virial else None,
        )

    @torch.no_grad()
    def novelty(self, graph: Graph) -> Tensor:
        """(N,) float64: how far environments are from those of the training set.

        99.9 % of the training atoms are below 1; see `mlff2d.domain`. Raises ValueError where the
        potential has no domain.
        """
        if self.domain is None:
            raise ValueError(
                "the model's file does not say where its training set is; "
                "`mlff2d domain MODEL DATA -o FILE` adds that"
            )
        edge_vec = graph.edge_vectors().to(self.dtype)
        return self.domain(self.model.mixed_features(graph, edge_vec), graph.z)

    def _energies(self, graph: Graph, edge_vec: Tensor, own: Tensor | None) -> Tensor:
        energies = self.model(graph, edge_vec) * self.scale
        if self.zbl is not None:
            energies = energies + self.zbl(graph, edge_vec)
        energies = energies.double() + self.references(graph.z)
        return energies if own is None else torch.where(own, energies, 0.0)


def _per_structure(energies: Tensor, graph: Graph) -> Tensor:
    return segment_sum(energies, graph.batch, graph.n_structures)


def _forces(gradient: Tensor, graph: Graph) -> Tensor:
    """(N, 3) from dE/d(edge vector): an edge pulls its receiver and pushes its neighbour."""
    i, j = graph.edge_index
    return segment_sum(gradient, i, graph.n_atoms) - segment_sum(gradient, j, graph.n_atoms)


def _virial(gradient: Tensor, edge_vec: Tensor, graph: Graph) -> Tensor:
    """(S, 3, 3) dE/dstrain: a strain ε maps every edge vector r to (1 + ε) r."""
    if graph.n_structures == 1:
        virial = (gradient.T @ edge_vec).unsqueeze(0)
    else:
        outer = gradient.unsqueeze(2) * edge_vec.unsqueeze(1)
        virial = segment_sum(outer, graph.edge_batch(), graph.n_structures)
    virial = (virial + virial.transpose(1, 2)) / 2
    projector = batched_projector(graph.cell, graph.pbc).to(virial.dtype)
    return projector @ virial @ projector
