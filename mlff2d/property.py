"""A scalar property of a structure from an energy model: mean, attention or sum over its atoms.

Axes: N atoms, S structures, F features.
"""

from __future__ import annotations

import torch
from ase import Atoms
from torch import Tensor, nn

from mlff2d.atoms import refuse_unknown, to_graph
from mlff2d.errors import StructureError
from mlff2d.graph import Graph
from mlff2d.models.base import EnergyModel
from mlff2d.nn.scatter import segment_sum
from mlff2d.priors import ReferenceEnergies

POOLINGS = ("mean", "attention", "sum")


class PropertyPredictor(nn.Module):
    """A property of a structure, pooled from what a model says of its atoms.

    Per atom, value = scale * model + shift of its element. A structure has their sum (an extensive
    property) or their mean (an intensive one; mean pooling is that of Xie and Grossman, PRL 120,
    145301 (2018)). With attention the mean is weighted: an atom's weight is the softmax, over the
    structure, of a learnt linear score of its features; at the start all weights are equal. No
    forces are ever built.

    Parameters
    ----------
    model : of the atoms
    shifts : by atomic number, in the property's unit; its keys are the elements the model knows
    scale : the property's unit for one unit of the model's output
    pooling : "mean", "attention" or "sum"
    name, unit : of the property, for tables and messages

    Raises ValueError for another pooling.
    """

    def __init__(
        self,
        model: EnergyModel,
        shifts: dict[int, float],
        scale: float = 1.0,
        pooling: str = "mean",
        name: str = "property",
        unit: str = "",
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, not {pooling!r}")
        self.model = model
        self.shifts = ReferenceEnergies(shifts)
        self.scale = float(scale)
        self.pooling = pooling
        self.name, self.unit = name, unit
        self.score: nn.Linear | None = None
        if pooling == "attention":
            # Without bias: a softmax does not see it.
            self.score = nn.Linear(model.n_features, 1, bias=False)
            nn.init.zeros_(self.score.weight)

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.model.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the model knows, ascending."""
        return tuple(sorted(self.shifts.as_dict()))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model."""
        return next(self.parameters()).dtype

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def forward(self, graph: Graph) -> Tensor:
        """(S,) float64 values of a batch. The elements are not checked here: see `predict`."""
        edge_vec = graph.edge_vectors()
        if self.score is None:
            values = self._values(self.model(graph, edge_vec), graph)
            total = segment_sum(values, graph.batch, graph.n_structures)
            return total if self.pooling == "sum" else total / graph.atoms_per_structure()
        features = self.model.mixed_features(graph, edge_vec)
        values = self._values(self.model.readout(features).squeeze(-1), graph)
        score = self.score(features).squeeze(-1).double()
        weights = segment_softmax(score, graph.batch, graph.n_structures)
        return segment_sum(weights * values, graph.batch, graph.n_structures)

    def _values(self, output: Tensor, graph: Graph) -> Tensor:
        """(N,) float64 contributions of the atoms."""
        return (output * self.scale).double() + self.shifts(graph.z)

    @torch.no_grad()
    def predict(self, atoms: Atoms) -> float:
        """The property of one structure, in its unit.

        Raises StructureError for what `mlff2d.atoms.to_graph` refuses, an element the model never
        saw, or a value that is NaN or infinite.
        """
        graph = to_graph(atoms, self.cutoff, self.model.state)
        refuse_unknown(atoms.numbers, self.elements)
        value = float(self(graph.to(next(self.parameters()).device, self.dtype)))
        if not abs(value) < torch.inf:
            raise StructureError(
                f"the model returned NaN or infinity for {atoms.get_chemical_formula()}; "
                "the geometry is far from anything it was trained on"
            )
        return value


def segment_softmax(score: Tensor, index: Tensor, n: int) -> Tensor:
    """Softmax of scores (N,) among the rows that share an index in 0..n-1.

    The largest of each group is taken off first, so that no exponential overflows.
    """
    largest = score.new_full((n,), -torch.inf)
    largest = largest.scatter_reduce(0, index, score.detach(), "amax")
    weights = torch.exp(score - largest[index])
    return weights / segment_sum(weights, index, n)[index]
