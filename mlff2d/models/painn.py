"""PaiNN: scalar and vector features of atoms, rotated as vectors are, without tensor products.

Schütt, Unke, Gastegger, "Equivariant message passing for the prediction of tensorial properties and
molecular spectra", ICML 2021 (figures below are this paper's).
Axes: N atoms, E edges, C channels, R radial functions. Vectors are (3, N, C), so that each
component is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from mlff2d.graph import Graph
from mlff2d.models.base import (
    EnergyModel,
    check_choice,
    check_counts,
    check_flags,
    check_positive,
)
from mlff2d.nn.elements import ElementIndex, check_elements
from mlff2d.nn.filters import (
    ENVELOPES,
    RADIAL,
    AtomwiseReadout,
    Dense,
    RadialFilterBasis,
    joined,
)
from mlff2d.nn.kernels.filters import CompiledFilters, FilterFunctions, Filters
from mlff2d.nn.kernels.painn import CompiledPaiNN
from mlff2d.nn.scatter import segment_sum


@dataclass(frozen=True)
class PaiNNConfig:
    """Settings of PaiNN; the sizes and the radial functions are the paper's.

    Attributes
    ----------
    elements
        Atomic numbers known, ascending.
    cutoff
        Length of the longest edge in Å.
    radial
        Functions of the distance: "bessel", or "gaussian".
    n_radial
        R, their number; at least 2 Gaussians.
    envelope
        What ends the filters at the cutoff. With "polynomial" energies have two continuous
        derivatives, with "cosine", as in the paper, only one: force constants then jump when an
        edge crosses the cutoff.
    channels
        C, scalar and vector features of an atom.
    n_blocks
        Message and update blocks, that is how many edges away an atom is felt.
    shared_blocks
        Whether all blocks have the same weights, apart from filters.
    shared_filters
        Whether all blocks have the same filters.
    epsilon
        Added to the squared length of vectors before the root, which has no slope at zero. Where
        symmetry makes the vectors vanish, as at the atoms of most perfect crystals, the energy
        curves like 1 / sqrt(epsilon): with the 1e-8 of schnetpack there is a kink instead of a
        force constant.
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 5.0
    radial: str = "bessel"
    n_radial: int = 20
    envelope: str = "polynomial"
    channels: int = 128
    n_blocks: int = 3
    shared_blocks: bool = False
    shared_filters: bool = False
    epsilon: float = 1e-2

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_positive(self, cutoff="in Å, such as 5.0", epsilon="such as 0.01")
        check_choice(self, "radial", RADIAL)
        check_choice(self, "envelope", ENVELOPES)
        check_counts(self, 2 if self.radial == "gaussian" else 1, "n_radial")
        check_counts(self, 1, "channels", "n_blocks")
        check_flags(self, "shared_blocks", "shared_filters")


@dataclass(frozen=True)
class Surroundings:
    """What the first block sees, where all atoms of an element are alike.

    Filters are linear in the radial functions, so these are summed over the neighbours of each
    element before they are filtered: G sums, one for each atom and element around it, instead of E
    messages.

    Attributes
    ----------
    receivers, elements : (G,) int64
        Atom, and row of the element around it.
    sums : (4, G, R + 1)
        Radial functions, envelope included, and the same times the directions' components.
    """

    receivers: Tensor
    elements: Tensor
    sums: Tensor

    @classmethod
    def of(cls, edge_index: Tensor, element: Tensor, radial: Tensor, unit: Tensor) -> Surroundings:
        """Sum (E, R + 1) functions and (3, E, 1) directions of (2, E) edges by (N,) elements."""
        i, j = edge_index
        n_atoms = element.shape[0]
        groups, group = torch.unique(element[j] * n_atoms + i, return_inverse=True)
        parts = [radial, *(radial * u for u in unit)]
        sums = torch.stack([segment_sum(part, group, groups.shape[0]) for part in parts])
        return cls(groups % n_atoms, groups // n_atoms, sums)


class MessageBlock(nn.Module):
    """Messages of neighbours, scalar and vector; figure 2 b."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.hidden = Dense(channels, channels)
        self.out = Dense(channels, 3 * channels)

    def forward(
        self,
        scalars: Tensor,
        vectors: Tensor,
        radial: Tensor,
        unit: Tensor,
        filters: tuple[Tensor, ...],
        edge_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Scalars and vectors with the messages added.

        Parameters
        ----------
        scalars : (N, C)
        vectors : (3, N, C)
        radial : (E, R + 1)
            Radial functions and 1, times the envelope.
        unit : (3, E, 1)
            Directions to the neighbours.
        filters : of scalars, of directions and of vectors, each (C, R + 1)
        edge_index : (2, E)
        """
        i, j = edge_index
        n_atoms = scalars.shape[0]
        for_scalars, for_units, for_vectors = [linear(radial, part) for part in filters]
        parts = _first_parts(self.out, silu(self.hidden(scalars)), 3, self.channels)
        update = segment_sum(for_scalars * parts[0].index_select(0, j), i, n_atoms)
        along = for_units * parts[1].index_select(0, j)
        # Component by component, so that no (E, 3, C) tensor is ever made.
        steps = [
            segment_sum((along * u).add_(for_vectors * v.index_select(0, j)), i, n_atoms)
            for u, v in zip(unit, vectors * parts[2], strict=True)
        ]
        return scalars + update, vectors + torch.stack(steps)

    def first(
        self,
        embedding: nn.Embedding,
        element: Tensor,
        near: Surroundings,
        filters: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        """The same where scalars are the (N,) elements' embedding and vectors are zero."""
        n_atoms = element.shape[0]
        hidden = silu(self.hidden(embedding(near.elements)))
        parts = _first_parts(self.out, hidden, 2, self.channels)
        update = linear(near.sums[0], filters[0]) * parts[0]
        along = linear(near.sums[1:], filters[1]) * parts[1]
        steps = [segment_sum(part, near.receivers, n_atoms) for part in (update, *along)]
        return embedding(element) + steps[0], torch.stack(steps[1:])


class UpdateBlock(nn.Module):
    """Scalars and vectors of an atom act on each other; figure 2 c."""

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.channels = channels
        self.epsilon = epsilon
        self.mix = Dense(channels, 2 * channels, bias=False)
        self.hidden = Dense(2 * channels, channels)
        # For scalars: what is added, and what the scalar products are multiplied by; for vectors.
        self.out = Dense(channels, 3 * channels)

    def forward(self, scalars: Tensor, vectors: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """(N, C) scalars and (3, N, C) vectors -> the same; the last vectors serve no one."""
        left, right = self.mix(vectors).split(self.channels, dim=-1)
        length = torch.sqrt(left.square().sum(0) + self.epsilon)
        hidden = silu(self.hidden(torch.cat([scalars, length], dim=1)))
        parts = _first_parts(self.out, hidden, 2 if last else 3, self.channels)
        scalars = scalars + parts[0] + parts[1] * (left * right).sum(0)
        return scalars, vectors if last else vectors + parts[2] * right


class PaiNN(EnergyModel):
    """The energy model. See `PaiNNConfig` for the settings.

    With the "cosine" envelope and epsilon 1e-8 it is schnetpack's `PaiNN` with an `Atomwise`
    readout of two layers and SiLU; the names of weights and the order of an update's parts differ.
    """

    Config: ClassVar[type[PaiNNConfig]] = PaiNNConfig
    allows_bf16 = True

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        self.n_hops = config.n_blocks
        self.n_features = c = config.channels
        self.element_index = ElementIndex(config.elements)
        self.embedding = nn.Embedding(len(config.elements), c)
        self.radial = RadialFilterBasis(
            config.radial, config.n_radial, self.cutoff, config.envelope
        )
        n_filters = 1 if config.shared_filters else config.n_blocks
        self.filters = nn.ModuleList(Dense(config.n_radial, 3 * c) for _ in range(n_filters))
        n_blocks = 1 if config.shared_blocks else config.n_blocks
        self.messages = nn.ModuleList(MessageBlock(c) for _ in range(n_blocks))
        self.updates = nn.ModuleList(UpdateBlock(c, config.epsilon) for _ in range(n_blocks))
        self.readout = AtomwiseReadout(c, silu)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Scalars of the atoms after the last block: (E, 3) in Å -> (N, channels)."""
        bound = None if self.compiled is None else self.compiled.bind(graph, edge_vec)
        if bound is None:
            return self._by_torch(graph, edge_vec)
        assert isinstance(self.compiled, CompiledFilters)
        element = self.element_index(graph.z)
        x = self.embedding(element)
        return self.compiled.features(bound, x, element, partial(self._by_torch, graph))

    def compile_sums(self) -> None:
        """See `EnergyModel`."""
        blocks = range(self.config.n_blocks)
        messages = [cast(MessageBlock, self.messages[k % len(self.messages)]) for k in blocks]
        updates = [cast(UpdateBlock, self.updates[k % len(self.updates)]) for k in blocks]
        filters = [cast(nn.Linear, self.filters[k % len(self.filters)]) for k in blocks]
        functions = FilterFunctions(self.radial)
        self.compiled = CompiledPaiNN(
            [Filters(functions, joined(layer).detach()) for layer in filters],
            [(block.hidden, block.out) for block in messages],
            [(block.mix, block.hidden, block.out) for block in updates],
            self.embedding.weight,
            self.config.epsilon,
            self.cutoff,
            list(self.parameters()),
        )

    def _by_torch(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        unit = (edge_vec / r.unsqueeze(1)).T.contiguous().unsqueeze(2)
        radial, envelope = self.radial(r)
        # The filters are linear, so their envelope can be in what they are made of, bias included.
        radial = torch.cat([radial * envelope, envelope], dim=1)
        element = self.element_index(graph.z)
        near = Surroundings.of(graph.edge_index, element, radial, unit)
        filters = [joined(cast(nn.Linear, layer)).split(self.n_features) for layer in self.filters]
        first = cast(MessageBlock, self.messages[0])
        scalars, vectors = first.first(self.embedding, element, near, filters[0])
        n_blocks = self.config.n_blocks
        for k in range(n_blocks):
            own = k % len(self.messages)
            if k > 0:
                scalars, vectors = self.messages[own](
                    scalars, vectors, radial, unit, filters[k % len(filters)], graph.edge_index
                )
            scalars, vectors = self.updates[own](scalars, vectors, last=k == n_blocks - 1)
        return scalars


def _first_parts(layer: nn.Linear, x: Tensor, n: int, channels: int) -> tuple[Tensor, ...]:
    """The first n parts of a layer's output, each (N, C)."""
    m = n * channels
    return linear(x, layer.weight[:m], layer.bias[:m]).split(channels, dim=1)
