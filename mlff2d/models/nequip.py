"""NequIP: an E(3)-equivariant message-passing potential.

Batzner, Musaelian, Sun, Geiger, Mailoa, Kornbluth, Molinari, Smidt, Kozinsky, "E(3)-equivariant
graph neural networks for data-efficient and accurate interatomic potentials", Nat. Commun. 13,
2453 (2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import ClassVar, cast

import torch
from e3nn import o3
from torch import Tensor, nn

from mlff2d.graph import Graph
from mlff2d.models.base import EnergyModel
from mlff2d.models.nequip_config import NequIPConfig as NequIPConfig
from mlff2d.nn.edge_basis import EdgeBasis
from mlff2d.nn.elements import ElementIndex
from mlff2d.nn.equivariant import (
    AttributeLinear,
    ElementLinear,
    Gate,
    IrrepsLinear,
    RMSNorm,
    SphericalHarmonics,
    alike,
)
from mlff2d.nn.irreps import SCALAR, irreps_set
from mlff2d.nn.kernels.layers import features
from mlff2d.nn.kernels.node import Connection, GateUpdate
from mlff2d.nn.kernels.sums import CompiledSums
from mlff2d.nn.mlp import MLP
from mlff2d.nn.tensor_product import NeighbourTensorProduct


class NequIP(EnergyModel):
    """Energies of atoms from equivariant messages between neighbours.

    Features start as a learnt vector of each element and pass through interaction layers; a small
    network reads the energy off the scalars that the last layer leaves.
    """

    Config: ClassVar[type[NequIPConfig]] = NequIPConfig
    allows_bf16 = True

    readout: MLP

    def __init__(self, config: NequIPConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        self.n_hops = config.n_layers
        outputs = config.layer_irreps()
        self.n_features = n_scalars = outputs[-1][0].mul
        n_embedding = config.embedding_channels or n_scalars
        self.element_index = ElementIndex(config.elements)
        self.embedding = nn.Parameter(alike(len(config.elements), n_embedding))
        self.basis = EdgeBasis(
            config.n_bessel,
            config.cutoff,
            config.envelope_p,
            config.switch_start,
            config.trainable_bessel,
        )
        self.harmonics = SphericalHarmonics(config.l_max)
        inputs = [o3.Irreps([(n_embedding, SCALAR)]), *outputs[:-1]]
        self.layers = nn.ModuleList(
            InteractionLayer(config, irreps_in, irreps_out, connected)
            for irreps_in, irreps_out, connected in zip(
                inputs,
                outputs,
                [config.first_self_connection] + [True] * (config.n_layers - 1),
                strict=True,
            )
        )
        # Random messages have steep energies; start close to the reference energies instead.
        self.readout = MLP((n_scalars, *config.readout_hidden, 1), gain=0.1)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Scalars that the last layer leaves: (E, 3) edge vectors in Å -> (N, F)."""
        compiled = None if self.compiled is None else self.compiled.bind(graph, edge_vec)
        if compiled is None:
            return self._by_torch(graph, edge_vec)
        element = self.element_index(graph.z)
        x = self.embedding.index_select(0, element)
        (y,) = self._layers()[0].linear_in([x.unsqueeze(1)])
        weights = []
        if not compiled.tabulated:
            radial = self.basis(torch.linalg.vector_norm(edge_vec, dim=1))
            weights = [layer.radial(radial) for layer in self._layers()]
        scales = [None] * len(self.layers)
        return features(compiled, element, x, y, weights, scales, partial(self._by_torch, graph))

    def _by_torch(
        self,
        graph: Graph,
        edge_vec: Tensor,
        weights: Sequence[Tensor | None] = (),
        _: Sequence[None] = (),
    ) -> Tensor:
        """The same, with (E, W) radial weights of each layer where they are known."""
        element = self.element_index(graph.z)
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        harmonics = self.harmonics(edge_vec / r.unsqueeze(1))
        radial = self.basis(r)
        embedding = self.embedding.index_select(0, element)
        x = [embedding.unsqueeze(1)]
        for k, layer in enumerate(self._layers()):
            own = weights[k] if weights else None
            if own is None:
                own = layer.radial(radial)
            x = layer(x, element, embedding, harmonics, own, graph.edge_index)
        return x[0].squeeze(1)

    def _layers(self) -> list[InteractionLayer]:
        return [cast(InteractionLayer, layer) for layer in self.layers]

    def compile_sums(self) -> None:
        """See `EnergyModel`."""
        layers = self._layers()
        self.compiled = CompiledSums.of(
            [layer.product for layer in layers],
            [
                layer.update(self.embedding, following)
                for layer, following in zip_longest(layers, layers[1:])
            ],
            [nn.Sequential(self.basis, layer.radial) for layer in layers],
            self.cutoff,
            list(self.parameters()),
        )


class InteractionLayer(nn.Module):
    """One round of messages: linear, tensor product, sum, linear, self-connection, norm, gate.

    Parameters
    ----------
    config
        Settings of the model.
    irreps_in, irreps_out
        Features before and after.
    connected
        Whether there is a self-connection.
    """

    def __init__(
        self,
        config: NequIPConfig,
        irreps_in: o3.Irreps,
        irreps_out: o3.Irreps,
        connected: bool = True,
    ) -> None:
        super().__init__()
        self.irreps_in = irreps_in
        self.gate = Gate(irreps_out)
        self.product = NeighbourTensorProduct(
            irreps_in, config.l_max, irreps_set(irreps_out), config.parity
        )
        self.linear_in = IrrepsLinear(irreps_in, irreps_in)
        self.radial = MLP((config.n_bessel, *config.radial_hidden, self.product.n_weights))
        self.message_scale = config.avg_neighbors**-config.neighbor_exponent
        # Two terms of equal size are added.
        gain = math.sqrt(0.5) if connected else 1.0
        self.linear_out = IrrepsLinear(self.product.irreps_out, self.gate.irreps_in, gain)
        self.self_connection = (
            SelfConnection(config, irreps_in, self.gate.irreps_in, gain) if connected else None
        )
        self.norm = (
            RMSNorm(self.gate.irreps_in, config.norm_epsilon) if config.norm == "rms" else None
        )
        self.residual = config.residual
        present = {ir: k for k, (_, ir) in enumerate(irreps_in)}
        # Where the input stands that is added to each output.
        self.sources = [present.get(ir) for _, ir in irreps_out]

    def forward(
        self,
        x: list[Tensor],
        element: Tensor,
        embedding: Tensor,
        harmonics: Tensor,
        weights: Tensor,
        edge_index: Tensor,
    ) -> list[Tensor]:
        """List of (N, 2l+1, C) features -> the next.

        Parameters
        ----------
        x : list of (N, 2l+1, C)
        element : (N,)
            Row numbers of the elements.
        embedding : (N, embedding_channels)
            Learnt vectors of the elements.
        harmonics : (E, (l_max + 1)^2)
        weights : (E, n_weights)
            What `radial` makes of radial functions that are zero at the cutoff, with their slope.
        edge_index : (2, E)
        """
        messages = self.product(self.linear_in(x), harmonics, weights, edge_index)
        new = self.linear_out([m * self.message_scale for m in messages])
        if self.self_connection is not None:
            kept = self.self_connection(x, element, embedding)
            new = [m if k is None else m + k for m, k in zip(new, kept, strict=True)]
        if self.norm is not None:
            new = self.norm(new)
        new = self.gate(new)
        if not self.residual:
            return new
        new = [self.residual * part for part in new]
        return [p if k is None else x[k] + p for p, k in zip(new, self.sources, strict=True)]

    def update(self, embedding: Tensor, following: InteractionLayer | None) -> GateUpdate:
        """The same, and `linear_in` of the following layer, for compiled code."""
        n_terms = len(self.gate.irreps_in)
        own = self.self_connection
        return GateUpdate.of(
            self.linear_out,
            self.message_scale,
            [None] * n_terms if own is None else own.connections(embedding),
            self.norm,
            self.gate,
            self.residual,
            self.sources,
            None if following is None else following.linear_in,
        )


class SelfConnection(nn.Module):
    """A linear map of an atom's own features, which may depend on its element.

    Parameters
    ----------
    config
        Settings of the model.
    irreps_in, irreps_out
        Features before and after; an output irrep that the input lacks gets None.
    gain
        Standard deviation of the output for input of unit variance, at the start.
    """

    def __init__(
        self, config: NequIPConfig, irreps_in: o3.Irreps, irreps_out: o3.Irreps, gain: float
    ) -> None:
        super().__init__()
        known = irreps_set(irreps_in)
        common = o3.Irreps((mul, ir) for mul, ir in irreps_out if ir in known)
        self.kind = config.self_connection
        self.linear: ElementLinear | AttributeLinear | IrrepsLinear
        if self.kind == "elements":
            n_elements, rank = len(config.elements), config.self_connection_rank
            self.linear = ElementLinear(n_elements, irreps_in, common, rank, gain)
        elif self.kind == "embedding":
            n_embedding = config.embedding_channels or config.layer_irreps()[-1][0].mul
            self.linear = AttributeLinear(n_embedding, irreps_in, common, gain)
        else:
            self.linear = IrrepsLinear(irreps_in, common, gain)
        self.present = [ir in known for _, ir in irreps_out]

    def forward(self, x: list[Tensor], element: Tensor, embedding: Tensor) -> list[Tensor | None]:
        """List of (N, 2l+1, C_in), (N,) row numbers and (N, K) -> list of (N, 2l+1, C_out)."""
        if self.kind == "linear":
            found = iter(self.linear(x))
        else:
            found = iter(self.linear(x, element if self.kind == "elements" else embedding))
        return [next(found) if present else None for present in self.present]

    def connections(self, embedding: Tensor) -> list[Connection | None]:
        """The same for compiled code, given the (Z, K) vectors of all elements."""
        matrices = iter(self.linear.matrices(embedding))
        sources = iter(self.linear.sources)
        found: list[Connection | None] = []
        for present in self.present:
            source = next(sources) if present else None
            found.append(None if source is None else Connection(source, next(matrices)))
        return found
