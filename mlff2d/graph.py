"""A batch of atomic structures as tensors, and the labels that go with it.

Axes: N atoms, E edges, S structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """One batch of structures with their directed neighbour pairs.

    Attributes
    ----------
    z : (N,) int64
        Atomic numbers.
    pos : (N, 3)
        Positions in Å.
    cell : (S, 3, 3)
        Lattice vectors as rows, in Å; a row that is not periodic may be anything, also zero.
    pbc : (S, 3) bool
        Periodicity along each lattice vector.
    edge_index : (2, E) int64
        Row 0 the receiver i, row 1 the neighbour j. Both directions are present, and one pair
        appears once for each periodic image. Sorted by receiver.
    edge_shift : (E, 3) int64
        Cell shift of the neighbour: edge vector = pos[j] + shift @ cell - pos[i].
    batch : (N,) int64
        Structure of each atom, ascending from 0.
    state : (S, K)
        What is imposed on a structure as a whole (a temperature, a pressure, ...), for models that
        take it in; K is 0 for all others, and where it is left out.
    """

    z: Tensor
    pos: Tensor
    cell: Tensor
    pbc: Tensor
    edge_index: Tensor
    edge_shift: Tensor
    batch: Tensor
    state: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.state is None:
            object.__setattr__(self, "state", self.pos.new_zeros(self.cell.shape[0], 0))

    @property
    def n_atoms(self) -> int:
        """N."""
        return self.z.shape[0]

    @property
    def n_edges(self) -> int:
        """E."""
        return self.edge_index.shape[1]

    @property
    def n_structures(self) -> int:
        """S."""
        return self.cell.shape[0]

    def atoms_per_structure(self) -> Tensor:
        """(S,) int64 number of atoms in each structure."""
        return torch.bincount(self.batch, minlength=self.n_structures)

    def edge_batch(self) -> Tensor:
        """(E,) int64 structure of each edge."""
        return self.batch[self.edge_index[0]]

    def edge_vectors(self) -> Tensor:
        """(E, 3) vectors from receiver to neighbour in Å."""
        i, j = self.edge_index
        if self.n_structures == 1:
            shift = self.edge_shift.to(self.pos.dtype) @ self.cell[0]
        else:
            cell = self.cell[self.batch[i]]
            shift = (self.edge_shift.to(self.pos.dtype).unsqueeze(-1) * cell).sum(-2)
        return self.pos[j] + shift - self.pos[i]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Graph:
        """The same graph on a device, its positions and cells in a floating dtype."""
        return Graph(**_moved(self, device, dtype))


@dataclass(frozen=True)
class Labels:
    """What a reference calculation says of a batch; NaN where it says nothing.

    Attributes
    ----------
    energy : (S,) float64
        Total energies in eV.
    forces : (N, 3)
        Forces in eV/Å.
    virial : (S, 3, 3)
        dE/dstrain in eV, which is stress times cell volume, tension positive. Unlike a stress in
        eV/Å³ it does not depend on the vacuum.
    """

    energy: Tensor
    forces: Tensor
    virial: Tensor

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Labels:
        """The same labels on a device; energies stay float64."""
        moved = _moved(self, device, dtype)
        moved["energy"] = self.energy.to(device=device)
        return Labels(**moved)


def _moved(
    item: Graph | Labels, device: torch.device | str | None, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    moved = {}
    for field in fields(item):
        value: Tensor = getattr(item, field.name)
        moved[field.name] = value.to(
            device=device, dtype=dtype if value.is_floating_point() else None
        )
    return moved


def collate(graphs: Sequence[Graph]) -> Graph:
    """Join graphs into one batch, structures in the order given.

    Raises ValueError on an empty sequence.
    """
    if not graphs:
        raise ValueError("cannot collate an empty list of graphs")
    if len(graphs) == 1:
        return graphs[0]
    n_atoms = n_structures = 0
    edge_index, batch = [], []
    for graph in graphs:
        edge_index.append(graph.edge_index + n_atoms)
        batch.append(graph.batch + n_structures)
        n_atoms += graph.n_atoms
        n_structures += graph.n_structures
    return Graph(
        z=torch.cat([g.z for g in graphs]),
        pos=torch.cat([g.pos for g in graphs]),
        cell=torch.cat([g.cell for g in graphs]),
        pbc=torch.cat([g.pbc for g in graphs]),
        edge_index=torch.cat(edge_index, dim=1),
        edge_shift=torch.cat([g.edge_shift for g in graphs]),
        batch=torch.cat(batch),
        state=torch.cat([g.state for g in graphs]),
    )


def collate_labels(labels: Sequence[Labels]) -> Labels:
    """Join labels in the same order as `collate` joins graphs."""
    if not labels:
        raise ValueError("cannot collate an empty list of labels")
    return Labels(
        energy=torch.cat([x.energy for x in labels]),
        forces=torch.cat([x.forces for x in labels]),
        virial=torch.cat([x.virial for x in labels]),
    )


def split(graph: Graph) -> list[Graph]:
    """Undo `collate`: one graph a structure, in order."""
    parts = []
    edge_batch = graph.edge_batch()
    first = 0
    for s, n in enumerate(graph.atoms_per_structure().tolist()):
        edges = edge_batch == s
        atoms = slice(first, first + n)
        parts.append(
            Graph(
                z=graph.z[atoms],
                pos=graph.pos[atoms],
                cell=graph.cell[s : s + 1],
                pbc=graph.pbc[s : s + 1],
                edge_index=graph.edge_index[:, edges] - first,
                edge_shift=graph.edge_shift[edges],
                batch=torch.zeros_like(graph.batch[atoms]),
                state=graph.state[s : s + 1],
            )
        )
        first += n
    return parts
