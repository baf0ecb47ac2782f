"""Allegro: a strictly local equivariant potential on tensors of pairs of atoms.

Musaelian, Batzner, Johansson, Sun, Owen, Kornbluth, Kozinsky, "Learning local equivariant
representations for large-scale atomistic dynamics", Nat. Commun. 14, 579 (2023), in the form of
the package nequip-allegro 0.8 (Tan, Descoteaux, Kotak, et al., arXiv:2504.16068), where every
layer sees the scalars of all layers before it.
Axes: N atoms, E edges, C tensor channels, S scalar channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from mlff2d.graph import Graph
from mlff2d.models.base import (
    EnergyModel,
    check_counts,
    check_flags,
    check_positive,
    check_sizes,
)
from mlff2d.nn.elements import ElementIndex, check_elements
from mlff2d.nn.equivariant import SphericalHarmonics, alike
from mlff2d.nn.irreps import MAX_DEGREE
from mlff2d.nn.mlp import MLP, ScaledLinear, scaled_silu
from mlff2d.nn.pair_tensor import SurroundingsProduct, tensor_track
from mlff2d.nn.radial import BesselBasis, PolynomialEnvelope
from mlff2d.nn.scatter import places, segment_sum


@dataclass(frozen=True)
class AllegroConfig:
    """Settings of Allegro.

    Raises ValueError for values that make no model.

    Attributes
    ----------
    elements
        Atomic numbers known, ascending.
    cutoff
        Neighbours within it, in Å; nothing beyond is felt, whatever the number of layers.
    n_layers
        Products of a pair's tensor with the surroundings of its first atom.
    l_max
        Greatest degree of the spherical harmonics and of the tensors; 0 sees no angles.
    parity
        Whether pseudo-tensors are kept between layers; it changes nothing for fewer than 3 layers.
    scalar_channels
        Invariant features of a pair in each layer.
    tensor_channels
        Tensors of a pair.
    n_bessel
        Radial basis functions.
    envelope_p
        Exponent of the envelope that ends at the cutoff.
    embed_hidden, layer_hidden, readout_hidden
        Hidden layers of the networks that make a pair's first scalars, those of a layer, and its
        energy; () for linear maps.
    avg_neighbors
        Mean number of neighbours within the cutoff in the training data.
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 6.0
    n_layers: int = 2
    l_max: int = 2
    parity: bool = True
    scalar_channels: int = 64
    tensor_channels: int = 16
    n_bessel: int = 8
    envelope_p: int = 6
    embed_hidden: tuple[int, ...] = (64,)
    layer_hidden: tuple[int, ...] = (64,)
    readout_hidden: tuple[int, ...] = (32,)
    avg_neighbors: float = 20.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_positive(self, cutoff="in Å, such as 6.0", avg_neighbors="such as 20.0")
        check_counts(self, 1, "n_layers", "tensor_channels", "n_bessel")
        check_counts(self, 2, "envelope_p", "scalar_channels")
        check_counts(self, 0, "l_max", most=MAX_DEGREE)
        check_flags(self, "parity")
        check_sizes(self, "embed_hidden", "layer_hidden", "readout_hidden")
        if self.scalar_channels % 2:
            raise ValueError(
                f"scalar_channels ({self.scalar_channels}) must be even, for half of them are of "
                f"either atom of a pair; use {self.scalar_channels + 1}"
            )


class WeightedHarmonics(nn.Module):
    """Spherical harmonics in many channels, with a weight for each channel and degree."""

    degree_of: Tensor

    def __init__(self, l_max: int) -> None:
        super().__init__()
        degree_of = [degree for degree in range(l_max + 1) for _ in range(2 * degree + 1)]
        self.n_degrees = l_max + 1
        self.register_buffer("degree_of", torch.tensor(degree_of), persistent=False)

    def forward(self, harmonics: Tensor, weights: Tensor) -> Tensor:
        """(E, (l_max + 1)^2), (E, C (l_max + 1)) -> (E, C, (l_max + 1)^2)."""
        weights = weights.unflatten(1, (-1, self.n_degrees))
        return weights.index_select(2, self.degree_of) * harmonics.unsqueeze(1)


class Allegro(EnergyModel):
    """Energies of atoms as sums over their edges, each of which has scalars and a tensor.

    A layer sums the neighbours' spherical harmonics around an atom, with weights from their
    scalars, multiplies the tensors of the atom's edges with the sum, and makes new scalars from
    old ones and from what is scalar in the product. No edge learns of another atom's edges.
    """

    Config: ClassVar[type[AllegroConfig]] = AllegroConfig
    allows_bf16 = True

    def __init__(self, config: AllegroConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        self.n_hops = 1
        scalars, channels = config.scalar_channels, config.tensor_channels
        n_weights = channels * (config.l_max + 1)
        self.element_index = ElementIndex(config.elements)
        self.basis = BesselBasis(config.n_bessel, config.cutoff)
        self.envelope = PolynomialEnvelope(config.envelope_p)
        self.harmonics = SphericalHarmonics(config.l_max)
        self.weighted = WeightedHarmonics(config.l_max)
        self.receiver_embedding = nn.Parameter(alike(len(config.elements), scalars // 2))
        self.neighbour_embedding = nn.Parameter(alike(len(config.elements), scalars // 2))
        self.radial = ScaledLinear(config.n_bessel, scalars)
        self.embed = MLP((scalars, *config.embed_hidden, scalars))
        self.first_tensor = ScaledLinear(scalars, n_weights)
        self.first_scalars = ScaledLinear(scalars, scalars + n_weights)
        track = tensor_track(config.l_max, config.parity, config.n_layers)
        self.products = nn.ModuleList(
            SurroundingsProduct(irreps_in, track[0], irreps_out, channels)
            for irreps_in, irreps_out in pairwise(track)
        )
        self.layers = nn.ModuleList(
            MLP(
                (
                    scalars * (k + 1) + channels,
                    *config.layer_hidden,
                    scalars + (n_weights if k < config.n_layers - 1 else 0),
                )
            )
            for k in range(config.n_layers)
        )
        sizes = (scalars * (config.n_layers + 1), *config.readout_hidden)
        self.edge_readout = MLP(sizes) if config.readout_hidden else None
        self.n_features = sizes[-1]
        self.readout = ScaledLinear(sizes[-1], 1)
        self.sum_scale = config.avg_neighbors**-0.5

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Sums over an atom's edges of what their energy is linear in: (E, 3) in Å -> (N, F)."""
        receiver = graph.edge_index[0]
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        harmonics = self.harmonics(edge_vec / r.unsqueeze(1))
        pair = self._pairs(graph, r)
        tensor = self.weighted(harmonics, self.first_tensor(pair))
        new = self.first_scalars(pair)
        known = new.new_empty(new.shape[0], 0)
        n_scalars = self.config.scalar_channels
        n_places, place = places(receiver, graph.n_atoms)
        for product, layer in zip(self.products, self.layers, strict=True):
            known = torch.cat([known, new[:, :n_scalars]], dim=1)
            surroundings = segment_sum(
                self.weighted(harmonics, new[:, n_scalars:]), receiver, graph.n_atoms
            )
            tensor = product(tensor, surroundings * self.sum_scale, receiver, n_places, place)
            new = layer(torch.cat([known, tensor[:, :, 0]], dim=1))
        edges = torch.cat([known, new], dim=1)
        if self.edge_readout is not None:
            edges = scaled_silu(self.edge_readout(edges))
        # Each pair adds to the energies of two atoms.
        return segment_sum(edges, receiver, graph.n_atoms) * (self.sum_scale * math.sqrt(0.5))

    def _pairs(self, graph: Graph, r: Tensor) -> Tensor:
        """(E, S) scalars of the edges from their elements and (E,) lengths, zero at the cutoff."""
        # sin(n pi x) / (pi x) with x = r / cutoff: of order 1 where neighbours are.
        scale = self.cutoff**1.5 / (math.sqrt(2.0) * math.pi)
        radial = self.basis(r) * (scale * self.envelope(r / self.cutoff)).unsqueeze(1)
        receiver, neighbour = self.element_index(graph.z)[graph.edge_index]
        embeddings = (
            self.receiver_embedding.index_select(0, receiver),
            self.neighbour_embedding.index_select(0, neighbour),
        )
        pair: Tensor = self.embed(torch.cat(embeddings, dim=1) * self.radial(radial))
        return pair
