"""MACE: higher-order equivariant message passing.

Batatia, Kovács, Simm, Ortner, Csányi, "MACE: Higher order equivariant message passing neural
networks for fast and accurate force fields", NeurIPS 2022 (arXiv:2206.07697), whose equations are
cited; Batatia et al., "The design space of E(3)-equivariant atom-centered interatomic potentials",
arXiv:2205.06643; the variants of the universal models: Batatia et al., "A foundation model for
atomistic materials chemistry", arXiv:2401.00096.
Axes: N atoms, E edges, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import ClassVar, cast

import torch
from ase.data import covalent_radii
from e3nn import o3
from torch import Tensor, nn

from mlff2d.graph import Graph
from mlff2d.models.base import EnergyModel
from mlff2d.models.mace_config import MACEConfig as MACEConfig
from mlff2d.nn.elements import ElementIndex
from mlff2d.nn.equivariant import ElementLinear, IrrepsLinear, SphericalHarmonics, alike
from mlff2d.nn.irreps import SCALAR, irreps_set
from mlff2d.nn.kernels.layers import features
from mlff2d.nn.kernels.products import ProductUpdate
from mlff2d.nn.kernels.sums import CompiledSums
from mlff2d.nn.mlp import MLP, ScaledLinear
from mlff2d.nn.neighbour_sum import Neighbours, NeighbourSum, arrange
from mlff2d.nn.pairs import AgnesiTransform, PairRepulsion
from mlff2d.nn.radial import BesselBasis, PolynomialEnvelope
from mlff2d.nn.scatter import segment_sum
from mlff2d.nn.symmetric_contraction import SymmetricContraction

Features = list[Tensor]
DENSITY_GAIN = 0.3


class MACE(EnergyModel):
    """Energies of atoms from products of messages, which see several neighbours at once.

    Features of an atom are the scalars of all layers, from which the readout makes its energy.
    """

    Config: ClassVar[type[MACEConfig]] = MACEConfig
    allows_bf16 = True
    readout: MACEReadout

    def __init__(self, config: MACEConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        self.n_hops = config.n_layers
        channels = config.channels
        self.n_features = config.n_layers * channels
        self.element_index = ElementIndex(config.elements)
        self.embedding = nn.Parameter(alike(len(config.elements), channels))
        self.basis = BesselBasis(config.n_bessel, config.cutoff)
        self.envelope = PolynomialEnvelope(config.envelope_p)
        radii = covalent_radii.tolist()
        self.transform = AgnesiTransform(radii) if config.distance_transform == "agnesi" else None
        self.repulsion = PairRepulsion(radii, self.envelope) if config.pair_repulsion else None
        self.radial_scale = _radial_scale(config)
        self.harmonics = SphericalHarmonics(config.l_max)
        outputs = config.layer_irreps()
        inputs = [o3.Irreps([(channels, SCALAR)]), *outputs[:-1]]
        kinds = [config.first_interaction] + [config.interaction] * (config.n_layers - 1)
        self.layers = nn.ModuleList(
            MACELayer(config, kind, irreps_in, irreps_out)
            for kind, irreps_in, irreps_out in zip(kinds, inputs, outputs, strict=True)
        )
        self.readout = MACEReadout(channels, config.n_layers, config.readout_hidden)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Scalars that each layer leaves: (E, 3) edge vectors in Å -> (N, n_layers C)."""
        compiled = None if self.compiled is None else self.compiled.bind(graph, edge_vec)
        if compiled is None:
            return self._by_torch(graph, edge_vec)
        layers = self._layers()
        element = self.element_index(graph.z)
        x = self.embedding.index_select(0, element)
        (y,) = layers[0].linear_in([x.unsqueeze(1)])
        weights: list[Tensor] = []
        scales: list[Tensor | None] = [None for _ in layers]
        if not compiled.tabulated or any(layer.density for layer in layers):
            radial = self._radial(graph, torch.linalg.vector_norm(edge_vec, dim=1))
            edges = Neighbours(0, graph.edge_index, radial[:, :0], radial)
            scales = [layer.density_scale(edges, graph.n_atoms) for layer in layers]
            if not compiled.tabulated:
                weights = [layer.radial(radial) for layer in layers]
        return features(compiled, element, x, y, weights, scales, partial(self._by_torch, graph))

    def _by_torch(
        self,
        graph: Graph,
        edge_vec: Tensor,
        weights: Sequence[Tensor | None] = (),
        scales: Sequence[Tensor | None] = (),
    ) -> Tensor:
        """The same, with (E, W) radial weights and (N,) scales of each layer where known."""
        element = self.element_index(graph.z)
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        harmonics, radial = self.harmonics(edge_vec / r.unsqueeze(1)), self._radial(graph, r)
        known = [part for part in weights if part is not None]
        if known:
            neighbours = Neighbours(0, graph.edge_index, harmonics, radial)
        else:
            neighbours = arrange(graph.edge_index, harmonics, radial, graph.n_atoms)
        x = [self.embedding.index_select(0, element).unsqueeze(1)]
        scalars = []
        for k, layer in enumerate(self._layers()):
            x = layer(
                x, element, neighbours, known[k] if known else None, scales[k] if scales else None
            )
            scalars.append(x[0].squeeze(1))
        return torch.cat(scalars, dim=1)

    def _layers(self) -> list[MACELayer]:
        return [cast(MACELayer, layer) for layer in self.layers]

    def compile_sums(self) -> None:
        """See `EnergyModel`."""
        layers = self._layers()
        tabulated = self.transform is None  # else radial functions are those of two elements
        self.compiled = CompiledSums.of(
            [layer.product for layer in layers],
            [layer.update(following) for layer, following in zip_longest(layers, layers[1:])],
            [nn.Sequential(_Radial(self), layer.radial) for layer in layers] if tabulated else None,
            self.cutoff,
            list(self.parameters()),
        )

    def forward(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """(N,) energies; see `EnergyModel`."""
        energies = super().forward(graph, edge_vec)
        if self.repulsion is None:
            return energies
        receiver, neighbour = graph.edge_index
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        pairs = self.repulsion(r, graph.z[receiver], graph.z[neighbour])
        return energies + segment_sum(pairs, receiver, graph.n_atoms)

    def _radial(self, graph: Graph, r: Tensor) -> Tensor:
        """(E,) distances in Å -> (E, n_bessel), zero from the cutoff on."""
        envelope = self.envelope(r / self.cutoff)
        if self.transform is not None:
            receiver, neighbour = graph.edge_index
            r = self.transform(r, graph.z[receiver], graph.z[neighbour])
        return self.basis(r) * (self.radial_scale * envelope).unsqueeze(1)


def _radial_scale(config: MACEConfig) -> float:
    """What brings the second moment of the radial functions to about 1."""
    if config.distance_transform == "none":
        return config.cutoff**1.5 / math.sqrt(3.0)  # in a uniform gas
    # Squeezed distances are short, and all functions near their values sqrt(2 / c) n pi / c at 0.
    n = config.n_bessel
    return config.cutoff**1.5 / (math.pi * math.sqrt((n + 1) * (2 * n + 1) / 3.0))


class _Radial(nn.Module):
    """Radial functions of distances (K,), the same for all elements -> (K, n_bessel)."""

    def __init__(self, model: MACE) -> None:
        super().__init__()
        self.basis, self.envelope = model.basis, model.envelope
        self.cutoff, self.scale = model.cutoff, model.radial_scale

    def forward(self, r: Tensor) -> Tensor:
        return self.basis(r) * (self.scale * self.envelope(r / self.cutoff)).unsqueeze(1)


class MACELayer(nn.Module):
    """One layer: messages, their symmetric products, and the self-connection.

    Parameters
    ----------
    config
        Settings of the model.
    kind
        One of `INTERACTIONS`.
    irreps_in, irreps_out
        Features before and after.
    """

    def __init__(
        self, config: MACEConfig, kind: str, irreps_in: o3.Irreps, irreps_out: o3.Irreps
    ) -> None:
        super().__init__()
        n_elements = len(config.elements)
        coupled = config.coupled_irreps(irreps_out)
        self.irreps_in, self.irreps_out, self.coupled = irreps_in, irreps_out, coupled
        self.linear_in = IrrepsLinear(irreps_in, irreps_in)
        self.product = NeighbourSum(irreps_in, config.l_max, irreps_set(coupled))
        self.radial = MLP((config.n_bessel, *config.radial_hidden, self.product.n_weights))
        self.message_scale = 1.0 / config.avg_neighbors
        self.density = MLP((config.n_bessel, 1)) if kind.startswith("density") else None
        # The density at the start is a fraction of the number of neighbours; messages, of which
        # products are made, should be as small as with that number.
        gain = DENSITY_GAIN if self.density else 1.0
        self.linear_message = IrrepsLinear(self.product.irreps_out, coupled, gain)
        self.element_linear: ElementLinear | None = None
        self.self_connection: ElementLinear | None = None
        if kind.endswith("residual"):
            self.self_connection = ElementLinear(n_elements, irreps_in, irreps_out)
        else:
            self.element_linear = ElementLinear(n_elements, coupled, coupled)
        self.contraction = SymmetricContraction(n_elements, coupled, irreps_out, config.correlation)
        self.linear_out = IrrepsLinear(irreps_out, irreps_out)

    def forward(
        self,
        x: Features,
        element: Tensor,
        neighbours: Neighbours,
        weights: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Features:
        """List of (N, 2l+1, C) features -> the next.

        Parameters
        ----------
        x : list of (N, 2l+1, C)
        element : (N,)
            Row numbers of the elements.
        neighbours
            The edges, their radial functions zero at the cutoff, with first and second derivative.
        weights : (E, n_weights) or None
            What `radial` makes of the radial functions, where it is known; places are edges then.
        scale : (N,) or None
            What `density_scale` makes of them, where it is known.
        """
        if weights is None:
            found = self.product.summed(self.linear_in(x), self.radial, neighbours)
        else:
            harmonics, edge_index = neighbours.harmonics, neighbours.edge_index
            found = self.product(self.linear_in(x), harmonics, weights, edge_index)
        if scale is None:
            scale = self.density_scale(neighbours, len(element))
        by = self.message_scale if scale is None else scale.view(-1, 1, 1)
        a = self.linear_message([m * by for m in found])  # eq. 8
        if self.element_linear is not None:
            a = [part for part in self.element_linear(a, element) if part is not None]
        products = self.linear_out(self.contraction(a, element))  # eqs. 10 and 11
        if self.self_connection is None:
            return products
        kept = self.self_connection(x, element)  # eq. 12
        return [p if k is None else p + k for p, k in zip(products, kept, strict=True)]

    def density_scale(self, neighbours: Neighbours, n_atoms: int) -> Tensor | None:
        """(N,) what the sums over neighbours are multiplied with; None where that is a constant."""
        if self.density is None:
            return None
        density = torch.tanh(self.density(neighbours.radial).square())
        return 1.0 / (1.0 + neighbours.sum(density, n_atoms).squeeze(1))

    def update(self, following: MACELayer | None) -> ProductUpdate:
        """What follows the sums, and `linear_in` of the following layer, for compiled code."""
        return ProductUpdate.of(
            self.linear_message,
            1.0 if self.density else self.message_scale,
            self.element_linear,
            self.contraction,
            self.linear_out,
            self.self_connection,
            None if following is None else following.linear_in,
        )


class MACEReadout(nn.Module):
    """Energies from the scalars of all layers: linear maps, and a small network for the last.

    Eq. 14 of the paper. A model of a single layer has a linear one only.

    Parameters
    ----------
    channels
        C, the scalars of a layer.
    n_layers
        Number of layers.
    hidden
        Hidden layer of the network.
    """

    def __init__(self, channels: int, n_layers: int, hidden: int) -> None:
        super().__init__()
        self.sizes = [channels] * n_layers
        # Random messages have steep energies; start close to the reference energies instead.
        gain = 0.1 / math.sqrt(n_layers)
        self.layers = nn.ModuleList(
            MLP((channels, hidden, 1), gain=gain) if k else ScaledLinear(channels, 1, gain=gain)
            for k in [0] * max(n_layers - 1, 1) + [1] * (n_layers > 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, n_layers C) -> (N, 1)."""
        parts = features.split(self.sizes, dim=1)
        energies = [layer(part) for layer, part in zip(self.layers, parts, strict=True)]
        return torch.stack(energies).sum(0)
