"""SchNet: convolutions whose filters are continuous functions of the distance.

Schütt, Kindermans, Sauceda, Chmiela, Tkatchenko, Müller, "SchNet: A continuous-filter convolutional
neural network for modeling quantum interactions", NeurIPS 2017 (sections below are this paper's);
Schütt, Sauceda, Kindermans, Tkatchenko, Müller, J. Chem. Phys. 148, 241722 (2018).
Axes: N atoms, E edges, C channels, F filters, R radial functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

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
    shifted_softplus,
)
from mlff2d.nn.kernels.compiler import CompilerError
from mlff2d.nn.kernels.filters import CompiledFilters, FilterFunctions, Filters
from mlff2d.nn.kernels.schnet import CompiledSchNet
from mlff2d.nn.scatter import segment_sum


@dataclass(frozen=True)
class SchNetConfig:
    """Settings of SchNet; the sizes are schnetpack's.

    Attributes
    ----------
    elements
        Atomic numbers known, ascending.
    cutoff
        Length of the longest edge in Å.
    radial
        Functions of the distance: "gaussian", or "bessel".
    n_radial
        R, their number; at least 2 Gaussians.
    envelope
        What ends the filters at the cutoff. With "polynomial" energies have two continuous
        derivatives, with "cosine", as in schnetpack, only one: force constants then jump when an
        edge crosses the cutoff.
    channels
        C, features of an atom.
    n_filters
        F, features that are convolved; 0 for as many as channels.
    n_blocks
        Interaction blocks, that is how many edges away an atom is felt.
    shared_blocks
        Whether all blocks have the same weights.
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 5.0
    radial: str = "gaussian"
    n_radial: int = 20
    envelope: str = "polynomial"
    channels: int = 128
    n_filters: int = 0
    n_blocks: int = 6
    shared_blocks: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_positive(self, cutoff="in Å, such as 5.0")
        check_choice(self, "radial", RADIAL)
        check_choice(self, "envelope", ENVELOPES)
        check_counts(self, 2 if self.radial == "gaussian" else 1, "n_radial")
        check_counts(self, 1, "channels", "n_blocks")
        check_counts(self, 0, "n_filters")
        check_flags(self, "shared_blocks")


class FilterNetwork(nn.Module):
    """Two dense layers from radial functions to a filter for each edge; section 4.1."""

    def __init__(self, n_radial: int, n_filters: int) -> None:
        super().__init__()
        self.hidden = Dense(n_radial, n_filters)
        self.out = Dense(n_filters, n_filters)

    def forward(self, radial: Tensor, envelope: Tensor) -> Tensor:
        """(E, R) radial functions, (E, 1) envelope -> (E, F)."""
        return self.out(shifted_softplus(self.hidden(radial))) * envelope


class SchNetBlock(nn.Module):
    """Atoms into filters' channels, a continuous-filter convolution, two dense layers."""

    def __init__(self, channels: int, n_filters: int) -> None:
        super().__init__()
        self.embed = Dense(channels, n_filters, bias=False)
        self.hidden = Dense(n_filters, channels)
        self.out = Dense(channels, channels)

    def forward(self, x: Tensor, filters: Tensor, edge_index: Tensor) -> Tensor:
        """(N, C) features, (E, F) filters, (2, E) receivers and neighbours -> (N, C) change."""
        neighbours = self.embed(x).index_select(0, edge_index[1])
        convolved = segment_sum(neighbours * filters, edge_index[0], x.shape[0])
        return self.out(shifted_softplus(self.hidden(convolved)))


class SchNet(EnergyModel):
    """The energy model. See `SchNetConfig` for the settings.

    With the "cosine" envelope it is schnetpack's `SchNet` with an `Atomwise` readout of two layers
    and shifted softplus; the names of weights differ.
    """

    Config: ClassVar[type[SchNetConfig]] = SchNetConfig
    allows_bf16 = True

    def __init__(self, config: SchNetConfig) -> None:
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
        n_filters = config.n_filters or c
        n_blocks = 1 if config.shared_blocks else config.n_blocks
        self.filters = nn.ModuleList(
            FilterNetwork(config.n_radial, n_filters) for _ in range(n_blocks)
        )
        self.blocks = nn.ModuleList(SchNetBlock(c, n_filters) for _ in range(n_blocks))
        self.readout = AtomwiseReadout(c, shifted_softplus)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Features of the atoms after the last block: (E, 3) in Å -> (N, channels)."""
        bound = None if self.compiled is None else self.compiled.bind(graph, edge_vec)
        if bound is None:
            return self._by_torch(graph, edge_vec)
        assert isinstance(self.compiled, CompiledFilters)
        element = self.element_index(graph.z)
        x = self.embedding(element)
        return self.compiled.features(bound, x, element, partial(self._by_torch, graph))

    def compile_sums(self) -> None:
        """See `EnergyModel`."""
        # Networks of every edge cost so much that the rest is no matter.
        compiled = self._compiled() if self.embedding.weight.dtype == torch.float32 else None
        if compiled is None or not compiled.tabulated:
            raise CompilerError(
                "a SchNet whose filters are not tabulated, as they are in float32, has no sums "
                "that are compiled"
            )
        self.compiled = compiled

    def _compiled(self) -> CompiledSchNet:
        owners = [k % len(self.blocks) for k in range(self.config.n_blocks)]
        networks = [cast(FilterNetwork, network) for network in self.filters]
        filters = [
            Filters(FilterFunctions(self.radial, own.hidden), joined(own.out).detach())
            for own in networks
        ]
        blocks = [cast(SchNetBlock, self.blocks[k]) for k in owners]
        return CompiledSchNet(
            [filters[k] for k in owners],
            [(block.embed, block.hidden, block.out) for block in blocks],
            self.embedding.weight,
            self.cutoff,
            list(self.parameters()),
        )

    def _by_torch(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        radial, envelope = self.radial(torch.linalg.vector_norm(edge_vec, dim=1))
        x = self.embedding(self.element_index(graph.z))
        filters = [network(radial, envelope) for network in self.filters]
        for k in range(self.config.n_blocks):
            own = k % len(self.blocks)
            x = x + self.blocks[own](x, filters[own], graph.edge_index)
        return x
