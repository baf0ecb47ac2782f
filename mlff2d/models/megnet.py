"""MEGNet: atoms, bonds and the state of the whole, updated in turn.

Chen, Ye, Zuo, Zheng, Ong, "Graph networks as a universal machine learning framework for molecules
and crystals", Chem. Mater. 31, 3564 (2019); equation numbers below are the paper's.
Axes: N atoms, E edges, S structures, C channels, G Gaussians, K entries of the external state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mlff2d.graph import Graph
from mlff2d.models.base import (
    EnergyModel,
    check_choice,
    check_counts,
    check_flags,
    check_positive,
    check_sizes,
)
from mlff2d.nn.elements import ElementIndex, check_elements
from mlff2d.nn.filters import Dense, shifted_softplus
from mlff2d.nn.radial import GaussianBasis, PolynomialEnvelope
from mlff2d.nn.scatter import segment_sum
from mlff2d.nn.set2set import Set2Set


@dataclass(frozen=True)
class MEGNetConfig:
    """Settings of MEGNet; sizes by default are the paper's.

    Attributes
    ----------
    elements
        Atomic numbers known, ascending.
    cutoff
        Length of the longest edge in Å. The paper takes 4 Å for crystals; edges that fade out need
        a little more.
    state
        Entries of `atoms.info` that act on a structure as a whole, such as ("temperature",). Best
        given in units that make them of order 1.
    n_gaussians, gamma
        Functions exp(-gamma (r - mu_k)^2) of an edge's length, mu_k from 0 to cutoff + 1 Å, gamma
        in Å^-2.
    embedding
        Numbers that stand for an element.
    input_sizes
        Sizes of the dense layers before the first block and between blocks; the last is C.
    block_sizes
        Sizes of the layers of each update of a block; the last is C.
    n_blocks
        Blocks, that is how many edges away an atom is felt, not counting the state.
    readout
        "atoms": the energy of an atom is read from its features and the state, so that the energy
        of a structure is extensive. "set2set": a number is read from the whole structure, as in
        the paper, by Set2Set over atoms and over edges, and each atom is given it.
    readout_sizes
        Sizes of the hidden layers that read the energy.
    set2set_turns, set2set_layers
        Of Set2Set, where the readout is that.
    smooth
        Whether edges fade out towards the cutoff, and count in means by how much is left of them,
        as though each atom had one more edge with nothing in it. With False means are over all
        edges alike and energies jump when an edge crosses the cutoff, as in the paper: only for
        weights that were trained so elsewhere.
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 5.0
    state: tuple[str, ...] = ()
    n_gaussians: int = 100
    gamma: float = 4.0
    embedding: int = 16
    input_sizes: tuple[int, ...] = (64, 32)
    block_sizes: tuple[int, ...] = (64, 64, 32)
    n_blocks: int = 3
    readout: str = "atoms"
    readout_sizes: tuple[int, ...] = (32, 16)
    set2set_turns: int = 3
    set2set_layers: int = 1
    smooth: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_positive(self, cutoff="in Å, such as 5.0", gamma="in Å^-2, such as 4.0")
        if not isinstance(self.state, list | tuple) or not all(
            isinstance(k, str) and k for k in self.state
        ):
            raise ValueError(
                f"state must be names of info entries such as ('temperature',), not {self.state!r}"
            )
        object.__setattr__(self, "state", tuple(self.state))
        if len(set(self.state)) < len(self.state):
            raise ValueError(f"state names an entry twice; use {tuple(dict.fromkeys(self.state))}")
        check_counts(self, 2, "n_gaussians")
        check_counts(self, 1, "embedding", "n_blocks", "set2set_turns", "set2set_layers")
        check_sizes(self, "input_sizes", "block_sizes", "readout_sizes")
        for name in ("input_sizes", "block_sizes"):
            if not getattr(self, name):
                raise ValueError(f"{name} must have at least one size, such as (64, 32)")
        if self.input_sizes[-1] != self.block_sizes[-1]:
            raise ValueError(
                f"input_sizes and block_sizes must end in the same size, which is that of all "
                f"features; let input_sizes end in {self.block_sizes[-1]}"
            )
        check_choice(self, "readout", ("atoms", "set2set"))
        check_flags(self, "smooth")


class DenseLayers(nn.Module):
    """Dense layers with a shifted softplus after each, or between them.

    Parameters
    ----------
    sizes
        Channels from input to output, at least two numbers.
    activate_last
        Whether the last layer is followed by it too.
    """

    def __init__(self, sizes: Sequence[int], activate_last: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Dense(a, b) for a, b in pairwise(sizes))
        self.activate_last = activate_last

    @property
    def first(self) -> nn.Linear:
        """The first layer."""
        return cast(nn.Linear, self.layers[0])

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) -> (..., sizes[-1])."""
        return self.after_first(self.first(x))

    def after_first(self, x: Tensor) -> Tensor:
        """What comes after the first layer's product: (..., sizes[1]) -> (..., sizes[-1])."""
        for layer in self.layers[1:]:
            x = layer(shifted_softplus(x))
        return shifted_softplus(x) if self.activate_last else x


@dataclass(frozen=True)
class Features:
    """(N, C) of atoms, (E, C) of edges and (S, C) of structures."""

    atoms: Tensor
    edges: Tensor
    state: Tensor


@dataclass(frozen=True)
class Weights:
    """How much each edge counts in means.

    Attributes
    ----------
    edges : (E, 1)
    of_atoms : (N, 1)
        Divisors of the sums over an atom's edges.
    of_structures : (S, 1)
        Divisors of the sums over a structure's edges.
    n_atoms : (S, 1)
        Atoms of each structure.
    """

    edges: Tensor
    of_atoms: Tensor
    of_structures: Tensor
    n_atoms: Tensor


class MEGNetBlock(nn.Module):
    """Dense layers, then edges from atoms, atoms from edges, the state from both; and what was.

    Parameters
    ----------
    dense_sizes
        Sizes of the dense layers; empty for the first block, which has its own before it.
    sizes
        Sizes of the layers of each update, the last C.
    """

    def __init__(self, dense_sizes: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        c = sizes[-1]

        def dense() -> nn.Module:
            return DenseLayers([c, *dense_sizes]) if dense_sizes else nn.Identity()

        self.atom_dense, self.edge_dense, self.state_dense = dense(), dense(), dense()
        self.edge_update = DenseLayers([4 * c, *sizes])
        self.atom_update = DenseLayers([3 * c, *sizes])
        self.state_update = DenseLayers([3 * c, *sizes])

    def forward(self, old: Features, weights: Weights, graph: Graph) -> Features:
        """One round of updates."""
        atoms = self.atom_dense(old.atoms)
        edges = self.edge_dense(old.edges)
        state = self.state_dense(old.state)
        edges = self._update_edges(atoms, edges, state, graph)
        sums = segment_sum(edges * weights.edges, graph.edge_index[0], graph.n_atoms)
        around = sums / weights.of_atoms  # eq. 2
        spread = state.index_select(0, graph.batch)
        atoms = self.atom_update(torch.cat([atoms, around, spread], -1))  # eq. 3
        over_edges = segment_sum(sums, graph.batch, graph.n_structures) / weights.of_structures
        over_atoms = segment_sum(atoms, graph.batch, graph.n_structures) / weights.n_atoms
        state = self.state_update(torch.cat([state, over_edges, over_atoms], -1))  # eqs. 4 to 6
        return Features(atoms + old.atoms, edges + old.edges, state + old.state)

    def _update_edges(self, atoms: Tensor, edges: Tensor, state: Tensor, graph: Graph) -> Tensor:
        """Eq. 1, the first layer acting on atoms and states before they are spread over edges."""
        first, c = self.edge_update.first, edges.shape[-1]
        receivers, neighbours, own, whole = first.weight.split(c, dim=1)
        at_receiver = linear(atoms, receivers) + linear(state, whole).index_select(0, graph.batch)
        joined = (
            linear(edges, own, first.bias)
            + at_receiver.index_select(0, graph.edge_index[0])
            + linear(atoms, neighbours).index_select(0, graph.edge_index[1])
        )
        return self.edge_update.after_first(joined)


class MEGNet(EnergyModel):
    """The energy model. See `MEGNetConfig` for the settings."""

    Config: ClassVar[type[MEGNetConfig]] = MEGNetConfig
    is_local: ClassVar[bool] = False

    def __init__(self, config: MEGNetConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        self.state = config.state
        c = config.block_sizes[-1]
        self.element_index = ElementIndex(config.elements)
        self.gaussians = GaussianBasis(
            config.n_gaussians, 0.0, self.cutoff + 1.0, gamma=config.gamma
        )
        self.envelope = PolynomialEnvelope()
        self.embedding = nn.Embedding(len(config.elements), config.embedding)
        self.atom_encoder = DenseLayers([config.embedding, *config.input_sizes])
        self.edge_encoder = DenseLayers([config.n_gaussians, *config.input_sizes])
        # Without an external state the paper starts from zeros, which make some constant.
        self.state_encoder: DenseLayers | None = None
        if config.state:
            self.state_encoder = DenseLayers([len(config.state), *config.input_sizes])
        else:
            self.first_state = nn.Parameter(torch.zeros(c))
        self.blocks = nn.ModuleList(
            MEGNetBlock(config.input_sizes if k else (), config.block_sizes)
            for k in range(config.n_blocks)
        )
        self.n_features = 2 * c
        if config.readout == "set2set":
            self.n_features = 5 * c
            turns, layers = config.set2set_turns, config.set2set_layers
            self.read_atoms = Set2Set(c, turns, layers)
            self.read_edges = Set2Set(c, turns, layers)
        sizes = [self.n_features, *config.readout_sizes, 1]
        self.readout = DenseLayers(sizes, activate_last=False)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """What the energies are read from, each part after the last block.

        (E, 3) in Å -> (N, 2 C) of the atom and its structure's state; with "set2set" (N, 5 C) of
        its structure's atoms, edges and state, the same for all of its atoms.
        """
        r = edge_vec.norm(dim=-1)
        weights = self._weights(r, graph)
        features = Features(
            atoms=self.atom_encoder(self.embedding(self.element_index(graph.z))),
            edges=self.edge_encoder(self.gaussians(r)),
            state=self._first_state(graph, r.dtype),
        )
        for block in self.blocks:
            features = block(features, weights, graph)
        if self.config.readout == "atoms":
            return torch.cat([features.atoms, features.state.index_select(0, graph.batch)], -1)
        return self._read(features, weights, graph).index_select(0, graph.batch)

    def _first_state(self, graph: Graph, dtype: torch.dtype) -> Tensor:
        if self.state_encoder is None:
            return self.first_state.expand(graph.n_structures, -1)
        return self.state_encoder(graph.state.to(dtype))

    def _weights(self, r: Tensor, graph: Graph) -> Weights:
        n_atoms = graph.atoms_per_structure().unsqueeze(-1).to(r.dtype)
        x = r.unsqueeze(-1) / self.cutoff
        edges = self.envelope(x) if self.config.smooth else (x <= 1.0).to(r.dtype)
        of_atoms = segment_sum(edges, graph.edge_index[0], graph.n_atoms)
        of_structures = segment_sum(of_atoms, graph.batch, graph.n_structures)
        if self.config.smooth:
            return Weights(edges, of_atoms + 1.0, of_structures + n_atoms, n_atoms)
        return Weights(edges, of_atoms.clamp(min=1.0), of_structures.clamp(min=1.0), n_atoms)

    def _read(self, features: Features, weights: Weights, graph: Graph) -> Tensor:
        """(S, 5 C) of each structure as a whole."""
        none = torch.zeros_like(weights.n_atoms)
        atoms = self.read_atoms(
            features.atoms, graph.batch, torch.ones_like(features.atoms[:, :1]), none
        )
        nothing = weights.n_atoms if self.config.smooth else none
        edges = self.read_edges(features.edges, graph.edge_batch(), weights.edges, nothing)
        return torch.cat([atoms, edges, features.state], -1)
