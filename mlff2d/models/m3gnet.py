"""M3GNet: bonds that know their angles through sums over three bodies, and gated MLPs.

Chen and Ong, "A universal graph deep learning interatomic potential for the periodic table",
Nat. Comput. Sci. 2, 718 (2022); equation numbers below are the paper's.
Axes: N atoms, E edges, C channels, R radial functions, B three-body functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mlff2d.graph import Graph
from mlff2d.models.base import (
    EnergyModel,
    check_choice,
    check_counts,
    check_flags,
    check_positive,
)
from mlff2d.nn.bessel import SmoothRadialBasis, SphericalBesselBasis
from mlff2d.nn.elements import ElementIndex, check_elements
from mlff2d.nn.gated import GatedMLP, PairGatedMLP
from mlff2d.nn.scatter import segment_sum
from mlff2d.nn.threebody import MAX_DEGREES, Neighbourhoods, ThreeBodyBasis


@dataclass(frozen=True)
class M3GNetConfig:
    """Settings of M3GNet; the defaults are the paper's.

    Attributes
    ----------
    elements
        Atomic numbers known, ascending.
    cutoff
        Length of the longest edge in Å.
    threebody_cutoff
        Length of the longest edge that takes part in three-body terms, in Å.
    n_radial
        Radial functions: of an edge, and of each degree of the three-body terms.
    max_l
        Number of angular degrees, l = 0 .. max_l - 1; B = n_radial max_l.
    channels
        Features of an atom and of an edge, and the width of hidden layers.
    n_blocks
        Interaction blocks, that is how many edges away an atom is felt.
    depth
        Layers of the gated MLPs of a block; the readout has one more.
    hidden
        Width of the layers inside these gated MLPs; None for `channels`.
    smooth
        Whether the edges' radial functions end with zero slope and curvature at the cutoff. With
        False they are the n_radial max_l spherical Bessel functions, and forces jump when an edge
        crosses the cutoff: only for weights that were trained so elsewhere.
    smooth_threebody
        Whether such functions, n_radial max_l in number, take the place of the spherical Bessel
        functions in the three-body terms too. These end smoothly in any case.
    threebody_center
        "receiver": the three-body sums of an edge run over the neighbours of the atom that gets
        its message, as in the paper. "neighbour": of the atom that sends it, as in matgl before
        version 3: only for weights that were trained so elsewhere.
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 5.0
    threebody_cutoff: float = 4.0
    n_radial: int = 3
    max_l: int = 3
    channels: int = 64
    n_blocks: int = 3
    depth: int = 2
    hidden: int | None = None
    smooth: bool = True
    smooth_threebody: bool = False
    threebody_center: str = "receiver"

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_positive(self, cutoff="in Å, such as 5.0", threebody_cutoff="in Å, such as 4.0")
        if self.threebody_cutoff > self.cutoff:
            raise ValueError(
                f"threebody_cutoff ({self.threebody_cutoff} Å) must be at most the cutoff; "
                f"use {self.cutoff}"
            )
        check_counts(self, 1, "n_radial", "channels", "n_blocks", "depth")
        check_counts(self, 1, "max_l", most=MAX_DEGREES)
        if self.hidden is not None:
            check_counts(self, 1, "hidden")
        check_flags(self, "smooth", "smooth_threebody")
        check_choice(self, "threebody_center", ("receiver", "neighbour"))


class M3GNetBlock(nn.Module):
    """Three-body terms into edges, atoms into edges, edges into atoms."""

    def __init__(
        self, channels: int, n_radial: int, n_threebody: int, depth: int, hidden: int | None
    ) -> None:
        super().__init__()
        self.threebody_weight = nn.Linear(channels, n_threebody)
        self.threebody_update = GatedMLP([n_threebody, channels], bias=False)
        self.edge_update = PairGatedMLP(channels, depth, hidden)
        self.edge_weight = nn.Linear(n_radial, channels, bias=False)
        self.node_update = PairGatedMLP(channels, depth, hidden)
        self.node_weight = nn.Linear(n_radial, channels, bias=False)

    def forward(
        self,
        nodes: Tensor,
        edges: Tensor,
        radial: Tensor,
        edge_index: Tensor,
        near: Neighbourhoods,
    ) -> tuple[Tensor, Tensor]:
        """One step of message passing.

        Parameters
        ----------
        nodes : (N, C)
        edges : (E, C)
        radial : (E, R)
            The radial functions, which end every message at the cutoff.
        edge_index : (2, E)
        near
            The edges within the three-body cutoff.

        Returns
        -------
        nodes, edges
        """
        sums = near.sums(torch.sigmoid(self.threebody_weight(nodes)))  # eq. 2
        edges = edges.index_add(0, near.rows, self.threebody_update(sums))  # eq. 3
        update = self.edge_update(nodes, edges, edge_index)
        edges = edges + update * self.edge_weight(radial)  # eq. 4
        message = self.node_update(nodes, edges, edge_index) * self.node_weight(radial)
        return nodes + segment_sum(message, edge_index[0], nodes.shape[0]), edges  # eq. 5


class M3GNet(EnergyModel):
    """The energy model. See `M3GNetConfig` for the settings.

    Without global state; the energies per atom are of dimension one. Radial and three-body
    functions are those of the paper times sqrt(c^3 / 3) and sqrt(4 pi c^3 / 3), c the cutoff: the
    layers that take them in have weights smaller by as much.
    """

    Config: ClassVar[type[M3GNetConfig]] = M3GNetConfig
    allows_bf16 = True

    def __init__(self, config: M3GNetConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        # What a neighbour sends knows that neighbour's own neighbours.
        seen_from_receiver = config.threebody_center == "receiver"
        self.n_hops = config.n_blocks if seen_from_receiver else 2 * config.n_blocks + 1
        self.n_features = c = config.channels
        self.element_index = ElementIndex(config.elements)
        self.embedding = nn.Embedding(len(config.elements), c)
        self.radial: SmoothRadialBasis | SphericalBesselBasis
        if config.smooth:
            self.radial = SmoothRadialBasis(config.n_radial, self.cutoff)
            n_radial = config.n_radial
        else:
            self.radial = SphericalBesselBasis(config.n_radial, config.max_l, self.cutoff)
            n_radial = config.n_radial * config.max_l
        self.edge_embedding = nn.Linear(n_radial, c)
        self.threebody = ThreeBodyBasis(
            config.n_radial,
            config.max_l,
            self.cutoff,
            config.threebody_cutoff,
            config.smooth_threebody,
        )
        self.blocks = nn.ModuleList(
            M3GNetBlock(c, n_radial, self.threebody.n_functions, config.depth, config.hidden)
            for _ in range(config.n_blocks)
        )
        between = [c if config.hidden is None else config.hidden] * (config.depth - 1)
        self.readout = GatedMLP([c, c, *between, 1], activate_last=False)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Features of the atoms after the last block: (E, 3) in Å -> (N, channels)."""
        r = edge_vec.norm(dim=-1)
        # From its other end every edge points the other way, between which the angles are the same.
        seen_from_receiver = self.config.threebody_center == "receiver"
        ends = graph.edge_index if seen_from_receiver else graph.edge_index.flip(0)
        near = self.threebody(edge_vec, r, ends, graph.n_atoms)
        # Orthonormal in the sphere; so scaled, of mean square 1, as the layers after it expect.
        radial = self.radial(r) * math.sqrt(self.cutoff**3 / 3.0)
        nodes = self.embedding(self.element_index(graph.z))
        edges = silu(self.edge_embedding(radial))
        for block in self.blocks:
            nodes, edges = block(nodes, edges, radial, graph.edge_index, near)
        return nodes
