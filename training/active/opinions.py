"""What several models say of structures: where they disagree, and how far from training it is.

The disagreement is the standard deviation of the forces over the models, as in Y. Zhang et al.,
Comput. Phys. Commun. 253, 107206 (2020), where frames are chosen by the largest of an atom.
Axes: M models, N atoms of one structure, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.atoms import not_finite, to_graph
from mlff2d.errors import StructureError
from mlff2d.graph import Graph, collate
from mlff2d.potential import Potential

BATCH_EDGES = 10_000
"""Edges in a batch; a large potential keeps some 100 kB for each until its forces are known."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Opinion:
    """What the models say of one structure.

    Attributes
    ----------
    energy : (M,) eV
    forces : (M, N, 3) eV/Å
    features : (N, F) of the first model
    novelty : (N,) of the first model, see `Potential.novelty`; None where it has no domain
    """

    energy: Array
    forces: Array
    features: Array
    novelty: Array | None

    @property
    def mean_forces(self) -> Array:
        """(N, 3) eV/Å."""
        return np.asarray(self.forces.mean(0))

    @property
    def disagreement(self) -> Array:
        """(N,) eV/Å: sqrt(<|F - <F>|²>) over the models; zero for a single one."""
        spread = self.forces - self.mean_forces
        return np.asarray(np.sqrt((spread**2).sum(2).mean(0)))


Told = Opinion | StructureError
"""An opinion, or why there is none."""


def opinions(models: Sequence[Potential], structures: Iterable[Atoms]) -> Iterator[Told]:
    """What models say of structures, in order, many in a batch.

    Models with the same cutoff share the graph. A structure that is none, that has an element which
    a model does not know, or for which one gives no finite numbers, comes as the error that says
    why. Raises ValueError without models.
    """
    if not models:
        raise ValueError("there is no model to ask")
    batch: list[Graphs | StructureError] = []
    edges = 0
    for atoms in structures:
        graphs = _graphs(models, atoms)
        if isinstance(graphs, dict):
            more = max(graph.n_edges for graph in graphs.values())
            if edges + more > BATCH_EDGES:
                yield from _told(models, batch)
                batch, edges = [], 0
            edges += more
        batch.append(graphs)
    yield from _told(models, batch)


Graphs = dict[float, Graph]
"""The graph of one structure by cutoff."""


def _graphs(models: Sequence[Potential], atoms: Atoms) -> Graphs | StructureError:
    try:
        for model in models:
            model.check_elements(atoms.numbers)
        state = models[0].model.state
        return {model.cutoff: to_graph(atoms, model.cutoff, state) for model in models}
    except StructureError as error:
        return error


def _told(models: Sequence[Potential], batch: Sequence[Graphs | StructureError]) -> Iterator[Told]:
    """Opinions on the graphs of a batch, the errors in it in their places."""
    graphs = [found for found in batch if isinstance(found, dict)]
    told = iter(_ask(models, graphs) if graphs else [])
    for found in batch:
        yield found if isinstance(found, StructureError) else next(told)


def _ask(models: Sequence[Potential], graphs: Sequence[Graphs]) -> list[Told]:
    first = models[0]
    device = next(first.parameters()).device
    joined = {cutoff: collate([g[cutoff] for g in graphs]).to(device) for cutoff in graphs[0]}
    energy, forces = [], []
    for model in models:
        prediction = model(joined[model.cutoff], virial=False, create_graph=False)
        energy.append(prediction.energy.double().cpu().numpy())
        forces.append(prediction.forces.double().cpu().numpy())
    graph = joined[first.cutoff]
    with torch.no_grad():
        features = first.model.mixed_features(graph, graph.edge_vectors().to(first.dtype))
        novelty = None if first.domain is None else first.domain(features, graph.z).cpu().numpy()
    energies, all_forces = np.stack(energy), np.stack(forces)
    rows = features.double().cpu().numpy()
    ends = np.cumsum(graph.atoms_per_structure().cpu().numpy())
    told: list[Told] = []
    for s, end in enumerate(ends.tolist()):
        atoms = slice(0 if s == 0 else int(ends[s - 1]), end)
        opinion = Opinion(
            energy=energies[:, s],
            forces=all_forces[:, atoms],
            features=rows[atoms],
            novelty=None if novelty is None else novelty[atoms],
        )
        finite = (opinion.energy, opinion.forces, opinion.features)
        if all(np.isfinite(values).all() for values in finite):
            told.append(opinion)
        else:
            told.append(StructureError(not_finite(graph.z[atoms].tolist())))
    return told
