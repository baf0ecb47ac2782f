"""CGCNN: convolutions whose messages pass a gate that sees both atoms and the bond.

Xie and Grossman, "Crystal graph convolutional neural networks for an accurate and interpretable
prediction of material properties", Phys. Rev. Lett. 120, 145301 (2018); equation numbers below are
the paper's. Their program normalises the messages over the batch, which makes the energy of a
structure depend on the others beside it, and puts another softplus around eq. 5: neither is in the
paper, nor here.
Axes: N atoms, E edges, C channels, G Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

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
from mlff2d.nn.atom_features import ATOM_EMBEDDINGS, AtomEmbedding, check_features_known
from mlff2d.nn.elements import check_elements
from mlff2d.nn.radial import GaussianBasis, PolynomialEnvelope
from mlff2d.nn.scatter import segment_sum


@dataclass(frozen=True)
class CGCNNConfig:
    """Settings of CGCNN; the defaults are the paper's but for what is said here.

    Attributes
    ----------
    elements
        Atomic numbers known, ascending.
    cutoff
        Length of the longest edge in Å. The paper takes the 12 nearest neighbours within 8 Å: a
        number of neighbours makes forces jump, and within 5 Å there are more of them than 12.
    n_gaussians
        G, functions of an edge's length, from 0 to the cutoff.
    atom_features
        What an atom is at first: "cgcnn92", a linear map of the paper's 92 numbers that say where
        its element stands in the periodic table and what it is like, so that similar elements
        begin similarly; or "learnt", C free numbers for each element.
    channels
        C, features of an atom.
    n_convolutions
        That is how many edges away an atom is felt.
    hidden
        Sizes of the hidden layers between the features and the energy of an atom.
    avg_neighbors
        The sum over neighbours is divided by it. 1 is the paper; the mean number of edges of an
        atom keeps the features of order 1, which is what training needs in place of the program's
        batch normalisation.
    smooth
        Whether messages fall to zero at the cutoff. With False an atom's energy jumps when an edge
        crosses it, as in the paper: only for weights that were trained so elsewhere.
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 5.0
    n_gaussians: int = 41
    atom_features: str = "cgcnn92"
    channels: int = 64
    n_convolutions: int = 3
    hidden: tuple[int, ...] = (128,)
    avg_neighbors: float = 1.0
    smooth: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_positive(self, cutoff="in Å, such as 5.0", avg_neighbors="such as 20.0")
        check_counts(self, 2, "n_gaussians")
        check_counts(self, 1, "channels", "n_convolutions")
        check_choice(self, "atom_features", ATOM_EMBEDDINGS)
        check_features_known(self.atom_features, self.elements)
        check_sizes(self, "hidden")
        check_flags(self, "smooth")


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), of any shape; exact to the last digit of float64."""
    # torch goes over to x at 20, which is seen in float64 and is no continuous function.
    return torch.nn.functional.softplus(x, threshold=40.0)


class Softplus(nn.Module):
    """`softplus` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return softplus(x)


class GatedConvolution(nn.Module):
    """v_i + sum_j sigmoid(z_ij W_f + b_f) softplus(z_ij W_s + b_s), z_ij = v_i (+) v_j (+) u_ij.

    Eq. 5. W_f and W_s, in this order, are the two halves of one layer.

    Parameters
    ----------
    channels
        C.
    n_gaussians
        G.
    avg_neighbors
        The sum is divided by it.
    """

    def __init__(self, channels: int, n_gaussians: int, avg_neighbors: float) -> None:
        super().__init__()
        self.channels = channels
        self.scale = 1.0 / avg_neighbors
        self.joined = nn.Linear(2 * channels + n_gaussians, 2 * channels)

    def forward(self, nodes: Tensor, edges: Tensor, falloff: Tensor, edge_index: Tensor) -> Tensor:
        """(N, C) atoms, (E, G) edges, (E, 1) weights, (2, E) receivers, neighbours -> (N, C)."""
        i, j = edge_index
        weight, c = self.joined.weight, self.channels
        # The layer acts on the atoms before they are spread over their edges.
        joined = (
            linear(edges, weight[:, 2 * c :], self.joined.bias)
            + linear(nodes, weight[:, :c]).index_select(0, i)
            + linear(nodes, weight[:, c : 2 * c]).index_select(0, j)
        )
        gate, core = joined.chunk(2, dim=-1)
        message = torch.sigmoid(gate) * softplus(core) * (falloff * self.scale)
        return nodes + segment_sum(message, i, nodes.shape[0])


class CGCNN(EnergyModel):
    """The energy model. See `CGCNNConfig` for the settings.

    The paper pools the atoms and then has hidden layers; here the same layers read the energy of
    each atom, so that the energy of a structure is extensive.
    """

    Config: ClassVar[type[CGCNNConfig]] = CGCNNConfig
    allows_bf16 = True

    def __init__(self, config: CGCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        self.n_hops = config.n_convolutions
        self.n_features = c = config.channels
        self.embedding = AtomEmbedding(config.atom_features, config.elements, c)
        spacing = self.cutoff / (config.n_gaussians - 1)
        self.gaussians = GaussianBasis(config.n_gaussians, 0.0, self.cutoff, gamma=spacing**-2)
        self.envelope = PolynomialEnvelope()
        self.convolutions = nn.ModuleList(
            GatedConvolution(c, config.n_gaussians, config.avg_neighbors)
            for _ in range(config.n_convolutions)
        )
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise((c, *config.hidden)):
            layers += [nn.Linear(n_in, n_out), Softplus()]
        self.readout = nn.Sequential(*layers, nn.Linear((c, *config.hidden)[-1], 1))

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Features of the atoms after the last convolution: (E, 3) in Å -> (N, channels)."""
        r = edge_vec.norm(dim=-1, keepdim=True)
        falloff = self.envelope(r / self.cutoff) if self.config.smooth else (r < self.cutoff).to(r)
        edges = self.gaussians(r.squeeze(-1))
        nodes = self.embedding(graph.z)
        for convolution in self.convolutions:
            nodes = convolution(nodes, edges, falloff, graph.edge_index)
        return nodes
