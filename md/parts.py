"""One large structure, evaluated part after part where all of it at once needs too much memory.

The energy is the sum over atoms, and the energy of an atom depends on those that are a few edges
away: as many as a model passes messages (`EnergyModel.n_hops`). So the energy of the atoms of a
part, and its gradient, follow exactly from the part and its surroundings, and the sum of these
gradients over all parts is that of the whole. Memory is that of the largest part; surroundings
that several parts share are evaluated several times.

Axes: N atoms, E edges.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mlff2d.graph import Graph
from mlff2d.potential import Potential, Prediction
from mlff2d.slab import batched_complete_cell


def evaluate_in_parts(potential: Potential, graph: Graph, max_edges: int) -> Prediction:
    """Energy, forces and virial in float64 of one structure, at most so many edges at a time.

    Parts are not made smaller than an atom and its surroundings, whatever `max_edges`. Without
    `energies`. Raises ValueError for a model whose atoms feel all others.
    """
    n_hops = potential.model.n_hops
    if n_hops is None:
        raise ValueError(f"a {type(potential.model).__name__} cannot be evaluated in parts")
    energy = graph.pos.new_zeros(1, dtype=torch.float64)
    forces = graph.pos.new_zeros(graph.n_atoms, 3, dtype=torch.float64)
    virial = graph.pos.new_zeros(1, 3, 3, dtype=torch.float64)
    everything = torch.arange(graph.n_atoms, device=graph.pos.device)
    for own in _divide(graph, _in_cell(graph), everything, n_hops, max_edges):
        atoms, edges = _surroundings(graph, own, n_hops)
        part = _part(graph, atoms, edges)
        is_own = torch.zeros_like(atoms)
        is_own[own] = True
        found = potential(part, create_graph=False, own=is_own[atoms])
        assert found.forces is not None
        assert found.virial is not None
        energy += found.energy
        forces[atoms] += found.forces.to(forces)
        virial += found.virial.to(virial)
    return Prediction(energy, energy, forces, virial)


def _divide(
    graph: Graph, place: Tensor, own: Tensor, n_hops: int, max_edges: int
) -> Iterator[Tensor]:
    """Halves of halves of some atoms, across the longer side, with few enough edges around."""
    _, edges = _surroundings(graph, own, n_hops)
    if len(own) == 1 or int(edges.sum()) <= max_edges:
        yield own
        return
    sides = place[own].amax(0) - place[own].amin(0)
    order = own[torch.argsort(place[own, int(sides.argmax())], stable=True)]
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        yield from _divide(graph, place, half, n_hops, max_edges)


def _surroundings(graph: Graph, own: Tensor, n_hops: int) -> tuple[Tensor, Tensor]:
    """Masks (N,) and (E,) of the atoms and edges that the energies of some atoms depend on."""
    i, j = graph.edge_index
    inside = torch.zeros(graph.n_atoms, dtype=torch.bool, device=own.device)
    inside[own] = True
    edges = torch.zeros_like(i, dtype=torch.bool)
    for _ in range(n_hops):
        edges = inside.index_select(0, i)
        inside = inside.index_fill(0, j[edges], True)
    return inside, edges


def _part(graph: Graph, atoms: Tensor, edges: Tensor) -> Graph:
    number = torch.cumsum(atoms, 0) - 1
    return Graph(
        z=graph.z[atoms],
        pos=graph.pos[atoms],
        cell=graph.cell,
        pbc=graph.pbc,
        edge_index=number[graph.edge_index[:, edges]],
        edge_shift=graph.edge_shift[edges],
        batch=graph.batch[atoms],
        state=graph.state,
    )


def _in_cell(graph: Graph) -> Tensor:
    """(N, 3) places along the lattice vectors in Å, within the cell where it is periodic."""
    cell = batched_complete_cell(graph.cell, graph.pbc)[0]
    fraction = graph.pos @ torch.linalg.inv(cell)
    fraction = torch.where(graph.pbc[0], fraction - fraction.floor(), fraction)
    return fraction * cell.norm(dim=1)
