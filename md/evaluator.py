"""Energy, forces and virial of many slabs at once, within a bound on memory.

Axes: S structures, N atoms, E edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from mlff2d.atoms import MIN_DISTANCE, not_finite, overlap, refuse_unknown
from mlff2d.compiled import use_compiled_code
from mlff2d.errors import StructureError
from mlff2d.graph import Graph
from mlff2d.potential import Potential, Prediction

from .memory import edges_that_fit
from .parts import evaluate_in_parts
from .skin import Neighbours, SkinLists
from .slabs import Slabs

_WHOLE = 20_000
"""Edges; up to so many a structure is tried as a whole without finding out first what fits."""

_LEAST_PART = 1000
"""Edges; where memory does not suffice for these there is something else wrong."""


@dataclass(frozen=True)
class Evaluation:
    """What a potential says of slabs, float64 on their device.

    Numbers of structures in trouble are NaN; those of all others do not depend on them.

    Attributes
    ----------
    energy : (S,) eV
    forces : (N, 3) eV/Å, on held atoms too
    virial : (S, 3, 3) dE/dstrain in eV, tension positive, in the plane
    n_edges : (S,) int64 edges within the cutoff
    troubles : key -> a sentence on why there are no numbers
    """

    energy: Tensor
    forces: Tensor
    virial: Tensor
    n_edges: Tensor
    troubles: dict[int, str]


class Evaluator:
    """A potential for slabs that move and change places in a batch.

    Neighbour lists are kept by the structures' keys while they are right. What comes out does not
    depend on when they were made, so a run that goes on from a snapshot repeats the same numbers;
    `max_edges` and `part_edges` have to be the same then.

    Parameters
    ----------
    potential : a copy is kept, so that one in training keeps its mode
    max_edges : edges evaluated at once; more are evaluated in pieces, in the order of the
        structures, one that has more alone, and in parts where memory does not suffice for that
    skin : Å by which neighbour lists reach beyond the cutoff
    compile : "auto", "yes" or "no"; see `mlff2d.compiled`

    Attributes
    ----------
    max_edges : as given, halved whenever memory ran out
    notes : a sentence for each time that it did
    part_edges : edges of one structure evaluated at once; None until one is large enough to ask
    """

    def __init__(
        self, potential: Potential, max_edges: int, skin: float = 0.5, compile: str = "auto"
    ) -> None:
        if max_edges < 1:
            raise ValueError(f"max_edges must be positive, not {max_edges}")
        self.potential = deepcopy(potential).eval().requires_grad_(False)
        use_compiled_code(self.potential, compile)
        self.max_edges = max_edges
        self.notes: list[str] = []
        self.part_edges: int | None = None
        self._lists = SkinLists(self.potential.cutoff, skin)

    def n_edges(self, slabs: Slabs) -> Tensor:
        """(S,) int64 edges within the cutoff, of structures that need not be in the batch yet.

        Makes lists anew; of structures just evaluated `Evaluation` knows them.
        """
        return SkinLists(self._lists.cutoff, 0.0).get(slabs).count

    def __call__(self, slabs: Slabs) -> Evaluation:
        """Energy, forces and virial. Raises ValueError where two have the same key."""
        neighbours = self._lists.get(slabs)
        troubles = dict(neighbours.troubles)
        troubles.update(self._unknown(slabs))
        troubles.update(_overlaps(slabs, neighbours))
        out = Evaluation(
            energy=slabs.pos.new_full((slabs.n_structures,), torch.nan),
            forces=torch.full_like(slabs.pos, torch.nan),
            virial=torch.full_like(slabs.cell, torch.nan),
            n_edges=neighbours.count,
            troubles=troubles,
        )
        count = neighbours.count.tolist()
        todo = [s for s, key in enumerate(slabs.key.tolist()) if key not in troubles]
        pieces = _pack(todo, count, self.max_edges)
        while pieces:
            piece = pieces.pop(0)
            if self._evaluate(slabs, neighbours, piece, out):
                continue
            edges = sum(count[s] for s in piece)
            if len(piece) > 1:
                self.max_edges = max(1, min(self.max_edges, edges) // 2)
                what, now = f"{len(piece)} structures", self.max_edges
                piece += [s for later in pieces for s in later]
                pieces = _pack(piece, count, self.max_edges)
            elif self._can_part(edges):
                self.part_edges = min(self.part_edges or edges, edges) // 2
                what, now = f"{int(slabs.n_atoms[piece[0]])} atoms", self.part_edges
                pieces.insert(0, piece)
            else:
                troubles[int(slabs.key[piece[0]])] = (
                    f"{int(slabs.n_atoms[piece[0]])} atoms with {edges} edges need more memory "
                    "than there is; take a smaller cell or a machine with more"
                )
                continue
            self.notes.append(
                f"memory ran out for {what} with {edges} edges; from here on at most {now} edges "
                f"{'' if len(piece) > 1 else 'of one structure '}are evaluated at once"
            )
        _mark_not_finite(slabs, out)
        return out

    def _evaluate(
        self, slabs: Slabs, neighbours: Neighbours, piece: list[int], out: Evaluation
    ) -> bool:
        """Fill in the numbers of some structures; False where memory did not suffice."""
        kept = torch.zeros(slabs.n_structures, dtype=torch.bool, device=slabs.pos.device)
        kept[piece] = True
        try:
            graph = _graph(slabs, neighbours, kept)
            graph = graph.to(next(self.potential.parameters()).device)
            prediction = self._predict(graph)
        except (MemoryError, RuntimeError) as error:
            if not _ran_out(error):
                raise
            prediction = None
        if prediction is None:  # outside of `except`, where the error still holds on to tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return False
        assert prediction.forces is not None
        assert prediction.virial is not None
        out.energy[kept] = prediction.energy.to(out.energy)
        out.forces[kept[slabs.batch]] = prediction.forces.to(out.forces)
        out.virial[kept] = prediction.virial.to(out.virial)
        return True

    def _predict(self, graph: Graph) -> Prediction:
        if graph.n_structures == 1 and self.potential.model.n_hops is not None:
            if self.part_edges is None and graph.n_edges > max(self.max_edges, _WHOLE):
                self.part_edges = edges_that_fit(self.potential)
            if self.part_edges is not None and graph.n_edges > self.part_edges:
                return evaluate_in_parts(self.potential, graph, self.part_edges)
        prediction: Prediction = self.potential(graph, create_graph=False)
        return prediction

    def _can_part(self, n_edges: int) -> bool:
        """Whether parts smaller than those that memory did not suffice for may be tried."""
        least = min(n_edges, self.part_edges or n_edges)
        return self.potential.model.n_hops is not None and least >= _LEAST_PART

    def _unknown(self, slabs: Slabs) -> dict[int, str]:
        known = torch.tensor(self.potential.elements, device=slabs.z.device)
        strange = ~torch.isin(slabs.z, known)
        troubles = {}
        for s in torch.unique(slabs.batch[strange]).tolist() if strange.any() else []:
            try:
                refuse_unknown(slabs.z[slabs.atoms_of(s)].tolist(), self.potential.elements)
            except StructureError as error:
                troubles[int(slabs.key[s])] = str(error)
        return troubles


def _pack(numbers: Sequence[int], count: Sequence[int], max_edges: int) -> list[list[int]]:
    """Structures in pieces of at most so many edges, or of one."""
    pieces: list[list[int]] = []
    edges = 0
    for s in numbers:
        edges += count[s]
        if not pieces or edges > max_edges:
            pieces.append([])
            edges = count[s]
        pieces[-1].append(s)
    return pieces


def _graph(slabs: Slabs, neighbours: Neighbours, kept: Tensor) -> Graph:
    """The graph of some of the structures, its geometry in float64."""
    index, shift = neighbours.index, neighbours.shift
    if not kept.all():
        atoms = kept[slabs.batch]
        edges = atoms[index[0]]
        index = (torch.cumsum(atoms, 0) - 1)[index[:, edges]]
        slabs, shift = slabs.select(kept), shift[edges]
    return Graph(
        z=slabs.z,
        pos=slabs.pos,
        cell=slabs.cell,
        pbc=slabs.pbc,
        edge_index=index,
        edge_shift=shift,
        batch=slabs.batch,
        state=slabs.state,
    )


def _overlaps(slabs: Slabs, neighbours: Neighbours) -> dict[int, str]:
    close = torch.nonzero(neighbours.distance < MIN_DISTANCE).squeeze(1)
    troubles: dict[int, str] = {}
    for e in close.tolist():
        i, j = neighbours.index[:, e].tolist()
        s = int(slabs.batch[i])
        rows, key = slabs.atoms_of(s), int(slabs.key[s])
        if key not in troubles:
            numbers = slabs.z[rows].tolist()
            distance = float(neighbours.distance[e])
            troubles[key] = overlap(numbers, i - rows.start, j - rows.start, distance)
    return troubles


def _mark_not_finite(slabs: Slabs, out: Evaluation) -> None:
    """Give structures with NaN or infinity their sentence, and nothing but NaN."""
    of_atoms = (~out.forces.isfinite()).any(1).to(slabs.batch)
    bad = torch.zeros_like(out.n_edges).index_add(0, slabs.batch, of_atoms) > 0
    bad |= ~out.energy.isfinite() | ~out.virial.isfinite().flatten(1).all(1)
    if not bad.any():
        return
    for s in torch.nonzero(bad).squeeze(1).tolist():
        numbers = slabs.z[slabs.atoms_of(s)].tolist()
        out.troubles.setdefault(int(slabs.key[s]), not_finite(numbers))
    out.energy[bad] = torch.nan
    out.forces[bad[slabs.batch]] = torch.nan
    out.virial[bad] = torch.nan


def _ran_out(error: Exception) -> bool:
    """Whether an error is for want of memory, on whatever device."""
    words = ("you tried to allocate", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        word in str(error) for word in words
    )
