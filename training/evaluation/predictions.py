"""Predictions of potentials and of models of a property over many structures, and their labels.

Axes: N atoms of all structures, S structures. Of an atom only its forces stay in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.graph import Graph
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor
from mlff2d.slab import batched_stress_2d

from ..console import watched
from ..data.batches import iter_batches, pack
from ..data.dataset import Dataset

BATCH_EDGES = 10_000
"""Edges in a batch; a large potential keeps some 100 kB for each until its forces are known."""

_BATCH_SIZE = 256
_BLOCK = 4096  # structures whose forces are read at a time


@dataclass(frozen=True)
class Predictions:
    """Energies, forces and stresses of some structures; NaN where there are none.

    Attributes
    ----------
    energy : (S,) eV
    forces : (N, 3) eV/Å, float32, the atoms of one structure after those of another
    stress : (S, 3) in-plane stress xx, yy, xy in N/m in the axes of `mlff2d.slab.plane_axes`
    """

    energy: NDArray[np.float64]
    forces: NDArray[np.float32]
    stress: NDArray[np.float64]


def labels_of(data: Dataset, ids: NDArray[np.int64]) -> Predictions:
    """The labels of some structures in the same form."""
    forces = np.empty((int(data.n_atoms[ids].sum()), 3), dtype=np.float32)
    end = np.cumsum(data.n_atoms[ids])
    for k in range(0, len(ids), _BLOCK):
        block = ids[k : k + _BLOCK]
        last = end[k + len(block) - 1]
        first = last - data.n_atoms[block].sum()
        forces[first:last] = data.atoms_of("forces", block)
    return Predictions(data.energy[ids], forces, data.stress_2d[ids].astype(np.float64))


def predict(potential: Potential, data: Dataset, ids: NDArray[np.int64], name: str) -> Predictions:
    """What a potential says of some structures. `data` has the edges of its cutoff."""
    energy = np.empty(len(ids))
    stress = np.empty((len(ids), 3))
    forces = np.empty((int(data.n_atoms[ids].sum()), 3), dtype=np.float32)
    done = atoms_done = 0
    batches = pack(ids, data.n_edges, _BATCH_SIZE, BATCH_EDGES)
    device = next(potential.parameters()).device
    loader = iter_batches(data, batches, potential.dtype, device)
    for graph, _ in watched(loader, name, len(batches)):
        prediction = potential(graph, create_graph=False)
        assert prediction.forces is not None
        assert prediction.virial is not None
        here = slice(done, done + graph.n_structures)
        there = slice(atoms_done, atoms_done + graph.n_atoms)
        energy[here] = prediction.energy.cpu().numpy()
        forces[there] = prediction.forces.cpu().numpy()
        stress[here] = in_plane(prediction.virial.double(), graph)
        done, atoms_done = here.stop, there.stop
    return Predictions(energy, forces, stress)


def in_plane(virial: torch.Tensor, graph: Graph) -> NDArray[np.float64]:
    """(S, 3) stress xx, yy, xy in N/m of virials (S, 3, 3) in eV; NaN for what is no slab."""
    cell, pbc = graph.cell.double().cpu(), graph.pbc.cpu()
    tensors = batched_stress_2d(virial.cpu(), cell, pbc).numpy()
    for s in np.flatnonzero(pbc.sum(1).numpy() == 2):
        axes = slab.plane_axes(cell[s].numpy(), pbc[s].numpy())
        tensors[s, :2, :2] = axes @ tensors[s] @ axes.T
    return np.stack([tensors[:, 0, 0], tensors[:, 1, 1], tensors[:, 0, 1]], axis=1)


@torch.no_grad()
def predict_property(
    predictor: PropertyPredictor, data: Dataset, ids: NDArray[np.int64], name: str
) -> NDArray[np.float64]:
    """(S,) values that a model of a property gives some structures, in its unit."""
    batches = pack(ids, data.n_edges, _BATCH_SIZE, BATCH_EDGES)
    device = next(predictor.parameters()).device
    loader = iter_batches(data, batches, predictor.dtype, device)
    return np.concatenate(
        [predictor(graph).cpu().numpy() for graph, _ in watched(loader, name, len(batches))]
    )
