"""ALIGNN: messages on the graph of atoms and bonds, and on the graph of bonds and angles.

Choudhary and DeCost, "Atomistic line graph neural network for improved materials property
predictions", npj Comput. Mater. 7, 185 (2021). For forces: Choudhary et al., "Unified graph neural
network force-field for the periodic table", Digital Discovery 2, 346 (2023). As in their program
for forces (alignn_atomwise) features are normalised over the channels of one atom, bond or angle,
not over the batch, and each layer brings the bonds to the atoms first and then the angles to the
bonds, which the paper has the other way round.
Axes: N atoms, E edges (bonds), T pairs of bonds that share an atom, C channels.
"""

from __future__ import annotations

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
from mlff2d.nn.atom_features import ATOM_EMBEDDINGS, AtomEmbedding, check_features_known
from mlff2d.nn.elements import check_elements
from mlff2d.nn.lines import line_graph
from mlff2d.nn.radial import GaussianBasis, PolynomialEnvelope
from mlff2d.nn.scatter import segment_sum


@dataclass(frozen=True)
class ALIGNNConfig:
    """Settings of ALIGNN; the defaults are those of its authors' program for forces.

    The paper, on properties of crystals, has 4 layers of either kind and 256 channels.

    Attributes
    ----------
    elements
        Atomic numbers known, ascending.
    cutoff
        Length of the longest edge in Å. The paper takes the 12 nearest neighbours within 8 Å: a
        number of neighbours makes forces jump, and within 5 Å there are more of them than 12.
    angle_cutoff
        Length of the longest edge that takes part in an angle, in Å. The number of angles grows
        with its sixth power. In the program it is 3.5, up to which all count alike; where they fall
        to zero it is to be an Å more than the bonds whose angles matter.
    n_radial
        Gaussians of an edge's length, from 0 to the cutoff.
    n_angular
        Gaussians of the cosine of an angle.
    embedding
        Width of the hidden layer between Gaussians and features.
    channels
        C, features of an atom, of an edge and of an angle.
    alignn_layers
        Layers that pass messages on both graphs.
    gcn_layers
        Layers after them that pass messages on the graph of the atoms only.
    atom_features
        What an atom is at first: "cgcnn92", a layer on the 92 numbers of `nn.atom_features`, so
        that similar elements begin similarly; or "learnt", C free numbers for each element.
    smooth
        Whether messages fall to zero at the cutoffs. With False an atom's energy jumps when an
        edge crosses one of them, as in the paper: only for weights that were trained so elsewhere.
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 5.0
    angle_cutoff: float = 4.0
    n_radial: int = 80
    n_angular: int = 40
    embedding: int = 64
    channels: int = 64
    alignn_layers: int = 2
    gcn_layers: int = 2
    atom_features: str = "cgcnn92"
    smooth: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_positive(self, cutoff="in Å, such as 5.0", angle_cutoff="in Å, such as 4.0")
        if self.angle_cutoff > self.cutoff:
            raise ValueError(
                f"angle_cutoff ({self.angle_cutoff} Å) must be at most the cutoff; use "
                f"{self.cutoff}"
            )
        # A layer norm of a single channel forgets what it was given.
        check_counts(self, 2, "n_radial", "n_angular", "embedding", "channels")
        check_counts(self, 1, "alignn_layers", "gcn_layers")
        check_choice(self, "atom_features", ATOM_EMBEDDINGS)
        check_features_known(self.atom_features, self.elements)
        check_flags(self, "smooth")


@dataclass(frozen=True)
class Links:
    """The edges of either graph.

    Attributes
    ----------
    receivers, neighbours : (E,) int64
        The nodes that an edge leads to and comes from.
    weights : (E, 1)
        Of the messages that take it; zero from the cutoff on.
    """

    receivers: Tensor
    neighbours: Tensor
    weights: Tensor


def norm_layer(n_in: int, n_out: int) -> nn.Sequential:
    """A linear layer, normalised over its channels, and SiLU."""
    return nn.Sequential(nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.SiLU())


class EdgeGatedConvolution(nn.Module):
    """Messages through gates that add up to at most one, on the atoms or on their bonds.

    With m_ij = A x_i + B x_j + C y_ij of the receiver i, its neighbour j and the edge between,
    x_i + SiLU(LN(W x_i + sum_j w_ij s(m_ij) V x_j / (floor + sum_j w_ij s(m_ij)))) and
    y_ij + SiLU(LN(m_ij)), s the sigmoid: Bresson and Laurent, arXiv:1711.07553, as Choudhary and
    DeCost have it in their Methods, where the weights w_ij are 1 and the floor all but 0. An only
    neighbour then counts fully until it is gone. With weights that end at the cutoff and a floor
    of 1, as if every node had one more neighbour with an open gate and nothing to say, it goes
    smoothly.

    Parameters
    ----------
    channels
        C, of nodes and of edges.
    floor
        In the denominator.
    update_edges
        Whether there are new edges at all; not where nobody asks for them.
    """

    def __init__(self, channels: int, floor: float, update_edges: bool = True) -> None:
        super().__init__()
        self.floor = floor
        self.receiver_gate = nn.Linear(channels, channels)
        self.neighbour_gate = nn.Linear(channels, channels)
        self.edge_gate = nn.Linear(channels, channels)
        self.receiver = nn.Linear(channels, channels)
        self.neighbour = nn.Linear(channels, channels)
        self.node_norm = nn.LayerNorm(channels)
        self.edge_norm = nn.LayerNorm(channels) if update_edges else None

    def forward(self, nodes: Tensor, edges: Tensor, links: Links) -> tuple[Tensor, Tensor]:
        """(N, C) nodes and (E, C) edges -> the same after one step of message passing."""
        i, j, n = links.receivers, links.neighbours, nodes.shape[0]
        gate = (
            self.edge_gate(edges)
            + self.receiver_gate(nodes).index_select(0, i)
            + self.neighbour_gate(nodes).index_select(0, j)
        )
        share = torch.sigmoid(gate) * links.weights
        message = share * self.neighbour(nodes).index_select(0, j)
        mean = segment_sum(message, i, n) / (segment_sum(share, i, n) + self.floor)
        nodes = nodes + silu(self.node_norm(self.receiver(nodes) + mean))
        if self.edge_norm is not None:
            edges = edges + silu(self.edge_norm(gate))
        return nodes, edges


class ALIGNNLayer(nn.Module):
    """One convolution on the atoms and one on their bonds.

    Parameters
    ----------
    channels, floor
        See `EdgeGatedConvolution`.
    update_angles
        Whether there are new angles; not in the last layer.
    """

    def __init__(self, channels: int, floor: float, update_angles: bool) -> None:
        super().__init__()
        self.atoms = EdgeGatedConvolution(channels, floor)
        self.bonds = EdgeGatedConvolution(channels, floor, update_edges=update_angles)

    def forward(
        self, atoms: Tensor, bonds: Tensor, angles: Tensor, graph: Links, lines: Links
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C) atoms, (E, C) bonds and (T, C) angles -> the same."""
        atoms, bonds = self.atoms(atoms, bonds, graph)
        bonds, angles = self.bonds(bonds, angles, lines)
        return atoms, bonds, angles


class ALIGNN(EnergyModel):
    """The energy model. See `ALIGNNConfig` for the settings.

    The paper reads a property with a linear layer from the mean over atoms. For an energy per atom
    that is the mean of what the same layer reads from each of them, as here.
    """

    Config: ClassVar[type[ALIGNNConfig]] = ALIGNNConfig
    allows_bf16 = True

    def __init__(self, config: ALIGNNConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        self.angle_cutoff = float(config.angle_cutoff)
        self.n_features = c = config.channels
        floor = 1.0 if config.smooth else 1e-6
        self.envelope = PolynomialEnvelope()
        self.atom_embedding = nn.Sequential(
            AtomEmbedding(config.atom_features, config.elements, c), nn.LayerNorm(c), nn.SiLU()
        )
        self.bond_embedding = nn.Sequential(
            _gaussians(config.n_radial, 0.0, self.cutoff),
            norm_layer(config.n_radial, config.embedding),
            norm_layer(config.embedding, c),
        )
        self.angle_embedding = nn.Sequential(
            _gaussians(config.n_angular, -1.0, 1.0),
            norm_layer(config.n_angular, config.embedding),
            norm_layer(config.embedding, c),
        )
        # Nobody reads the angles after the last layer of the one kind, the bonds after the other.
        self.alignn_layers = nn.ModuleList(
            ALIGNNLayer(c, floor, update_angles=k < config.alignn_layers - 1)
            for k in range(config.alignn_layers)
        )
        self.gcn_layers = nn.ModuleList(
            EdgeGatedConvolution(c, floor, update_edges=k < config.gcn_layers - 1)
            for k in range(config.gcn_layers)
        )
        self.readout = nn.Linear(c, 1)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Features of the atoms after the last layer: (E, 3) in Å -> (N, channels)."""
        r = edge_vec.norm(dim=-1)
        pairs = line_graph(edge_vec, r, graph.edge_index, graph.n_atoms, self.angle_cutoff)
        near = self._falloff(r, self.angle_cutoff)
        pair_weights = near.index_select(0, pairs.receivers) * near.index_select(
            0, pairs.neighbours
        )
        lines = Links(pairs.receivers, pairs.neighbours, pair_weights)
        receivers, neighbours = graph.edge_index
        links = Links(receivers, neighbours, self._falloff(r, self.cutoff))
        atoms = self.atom_embedding(graph.z)
        bonds = self.bond_embedding(r)
        angles = self.angle_embedding(pairs.cosines)
        for layer in self.alignn_layers:
            atoms, bonds, angles = layer(atoms, bonds, angles, links, lines)
        for layer in self.gcn_layers:
            atoms, bonds = layer(atoms, bonds, links)
        return atoms

    def _falloff(self, r: Tensor, cutoff: float) -> Tensor:
        x = (r / cutoff).unsqueeze(-1)
        return self.envelope(x) if self.config.smooth else (x < 1.0).to(x)


def _gaussians(n: int, start: float, stop: float) -> GaussianBasis:
    # The authors' width: the inverse of the spacing, not of its square.
    return GaussianBasis(n, start, stop, gamma=(n - 1) / (stop - start))
