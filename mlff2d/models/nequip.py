"""NequIP: an E(3)-equivariant message-passing potential.

Batzner, Musaelian, Sun, Geiger, Mailoa, Kornbluth, Molinari, Smidt, Kozinsky, "E(3)-equivariant
graph neural networks for data-efficient and accurate interatomic potentials", Nat. Commun. 13,
2453 (2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from e3nn import o3
from torch import Tensor, nn

from mlff2d.graph import Graph
from mlff2d.models.base import (
    EnergyModel,
    check_between,
    check_choice,
    check_counts,
    check_flags,
    check_positive,
    check_sizes,
)
from mlff2d.nn.edge_basis import EdgeBasis
from mlff2d.nn.elements import ElementIndex, check_elements
from mlff2d.nn.equivariant import (
    AttributeLinear,
    ElementLinear,
    Gate,
    IrrepsLinear,
    RMSNorm,
    SphericalHarmonics,
    alike,
)
from mlff2d.nn.irreps import EXAMPLE, MAX_DEGREE, SCALAR, irreps_set, parse_irreps
from mlff2d.nn.kernels.sums import CompiledSums
from mlff2d.nn.mlp import MLP
from mlff2d.nn.tensor_product import NeighbourTensorProduct, find_paths

Features = list[Tensor]
NORMS = ("none", "rms")
SELF_CONNECTIONS = ("elements", "embedding", "linear")


@dataclass(frozen=True)
class NequIPConfig:
    """Settings of NequIP.

    Raises ValueError for values that make no model; the sentence names the nearest that do.

    Attributes
    ----------
    elements
        Atomic numbers known, ascending.
    cutoff
        Neighbours within it, in Å.
    n_layers
        Message-passing layers.
    hidden_irreps
        Features between layers, in e3nn's notation: channels x degree and parity.
    l_max
        Greatest degree of the spherical harmonics of the edges.
    parity
        Whether features know what a mirror makes of them. False: all irreps are written even, more
        of them couple, and a structure and its mirror image may differ in energy.
    embedding_channels
        Length of an element's learnt vector; 0 for as many as hidden_irreps has 0e.
    n_bessel
        Radial basis functions sin(n pi r / cutoff) / r.
    trainable_bessel
        Whether the n of the radial basis are learnt, from whole numbers on.
    radial_hidden
        Hidden layers of the radial network.
    envelope_p
        Exponent of the polynomial envelope that ends at the cutoff.
    switch_start
        In Å. Above 0, edges count in full up to this distance and are switched off from there to
        the cutoff (X-PLOR's switch), without the polynomial envelope.
    avg_neighbors
        Mean number of neighbours within the cutoff in the training data.
    neighbor_exponent
        Messages are divided by avg_neighbors to this power: 0.5 as in the paper, which suits
        messages that add up like random numbers, or 1 for their mean.
    residual
        0: what a layer makes of its input replaces it, as in the paper. w > 0: w times that is
        added to the input, and all layers work on the same features.
    norm
        "none", or "rms": features are divided by their root mean square before the gate.
    norm_epsilon
        With "rms", what is added to the mean square: features far below its root stay small.
    self_connection
        How a layer's own input comes through: "elements" by a matrix for each element, as in the
        paper; "embedding" by combinations of matrices with the element's learnt vector; "linear"
        by one matrix for all elements.
    self_connection_rank
        Of "elements". 0: the matrices are independent, as in the paper. k > 0: they are
        combinations of k, which takes k / (number of elements) of the parameters.
    first_self_connection
        Whether the first layer has one. Without it the energy of a lone atom is its reference
        energy, whatever is learnt.
    readout_hidden
        Hidden layers of the network that reads the energy; () for a linear map, as in the paper.

    The original is the package nequip with "embedding", no first_self_connection and a
    readout_hidden of (). With many elements a model learns much faster from a neighbor_exponent
    of 1, a residual of 0.5 and the norm "rms".
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 5.0
    n_layers: int = 3
    hidden_irreps: str = EXAMPLE
    l_max: int = 2
    parity: bool = True
    embedding_channels: int = 0
    n_bessel: int = 8
    trainable_bessel: bool = False
    radial_hidden: tuple[int, ...] = (64, 64)
    envelope_p: int = 6
    switch_start: float = 0.0
    avg_neighbors: float = 20.0
    neighbor_exponent: float = 0.5
    residual: float = 0.0
    norm: str = "none"
    norm_epsilon: float = 1e-2
    self_connection: str = "elements"
    self_connection_rank: int = 0
    first_self_connection: bool = True
    readout_hidden: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_counts(self, 1, "n_layers", "n_bessel")
        check_counts(self, 0, "l_max", most=MAX_DEGREE)
        check_counts(self, 0, "self_connection_rank", "embedding_channels")
        check_counts(self, 2, "envelope_p")
        check_positive(
            self, cutoff="in Å, such as 5.0", avg_neighbors="such as 20.0", norm_epsilon="as 0.01"
        )
        check_between(self, 0.0, 1.0, "neighbor_exponent", "residual")
        check_choice(self, "norm", NORMS)
        check_choice(self, "self_connection", SELF_CONNECTIONS)
        check_flags(self, "parity", "trainable_bessel", "first_self_connection")
        check_sizes(self, "radial_hidden", "readout_hidden")
        check_between(self, 0.0, self.cutoff, "switch_start")
        self._check_combinations()
        self.layer_irreps()

    def _check_combinations(self) -> None:
        if self.switch_start == self.cutoff:
            raise ValueError(
                f"switch_start is the cutoff, where edges would break off; use a shorter distance "
                f"such as {0.9 * self.cutoff:g}, or 0 for the polynomial envelope"
            )
        if self.self_connection_rank and self.self_connection != "elements":
            raise ValueError(
                f"self_connection_rank = {self.self_connection_rank} is of self_connection "
                f"'elements', not of {self.self_connection!r}; use self_connection_rank = 0"
            )
        if self.residual and self.embedding_channels not in (0, self.layer_irreps()[-1][0].mul):
            raise ValueError(
                f"embedding_channels = {self.embedding_channels}, but with a residual all layers "
                f"work on the same features; use embedding_channels = 0"
            )

    def layer_irreps(self) -> list[o3.Irreps]:
        """What each layer puts out: of the hidden irreps those that can be nonzero and matter.

        An irrep can be nonzero after layer t if t couplings with Y_0..Y_lmax lead to it from the
        scalars of the embedding, and matters if the couplings left lead from it to the energy.
        """
        hidden = parse_irreps(self.hidden_irreps, self.parity)
        every = irreps_set(hidden)
        neighbours = {
            ir: {p.out for p in find_paths(o3.Irreps([(1, ir)]), self.l_max, every, self.parity)}
            for ir in every
        }
        reached = [{SCALAR}]
        needed = [{SCALAR}]
        for _ in range(self.n_layers):
            # Coupling is symmetric, so the same table serves both directions.
            reached.append(set().union(*(neighbours[ir] for ir in reached[-1])))
            needed.append(set().union(*(neighbours[ir] for ir in needed[-1])))
        alive = [r & n for r, n in zip(reached[1:], needed[-2::-1], strict=True)]
        used = set().union(*alive)
        if used != every:
            dead = o3.Irreps((mul, ir) for mul, ir in hidden if ir not in used)
            live = o3.Irreps((mul, ir) for mul, ir in hidden if ir in used)
            raise ValueError(
                f"hidden_irreps {self.hidden_irreps!r}: no tensor products with l_max = "
                f"{self.l_max} in n_layers = {self.n_layers} lead from the elements by way of "
                f"{dead} to the energy; use {str(live)!r}"
            )
        l_useful = 2 * max(ir.l for ir in used)
        if self.l_max > l_useful:
            raise ValueError(
                f"l_max = {self.l_max}, but hidden_irreps {self.hidden_irreps!r} couple to no "
                f"spherical harmonics beyond l = {l_useful}; use l_max = {l_useful}"
            )
        return [o3.Irreps((mul, ir) for mul, ir in hidden if ir in layer) for layer in alive]


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
        element = self.element_index(graph.z)
        embedding = self.embedding.index_select(0, element)
        x = [embedding.unsqueeze(1)]
        messages = self._messages(graph, edge_vec)
        for k, layer in enumerate(self.layers):
            x = layer(x, element, embedding, partial(messages, k))
        return x[0].squeeze(1)

    def _messages(self, graph: Graph, edge_vec: Tensor) -> Callable[[int, Features], Features]:
        """What a layer, given its number, has its features summed over neighbours by."""
        compiled = None if self.compiled is None else self.compiled.bind(graph, edge_vec)
        if compiled is None:
            edges = self._edges(edge_vec)
            return lambda k, x: self._eager(k, x, edges, graph)
        radial = None
        if not compiled.tabulated:
            radial = self.basis(torch.linalg.vector_norm(edge_vec, dim=1))

        def fast(k: int, x: Features) -> Features:
            weights = None if radial is None else self.layers[k].radial(radial)

            def eager(edge_vec: Tensor, weights: Tensor | None, x: Features) -> Features:
                return self._eager(k, x, self._edges(edge_vec), graph, weights)

            return compiled.sum(k, x, weights, eager)

        return fast

    def _edges(self, edge_vec: Tensor) -> tuple[Tensor, Tensor]:
        """(E, (l_max + 1)^2) harmonics and (E, n_bessel) radial functions, zero at the cutoff."""
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        return self.harmonics(edge_vec / r.unsqueeze(1)), self.basis(r)

    def _eager(
        self,
        k: int,
        x: Features,
        edges: tuple[Tensor, Tensor],
        graph: Graph,
        weights: Tensor | None = None,
    ) -> Features:
        layer = cast(InteractionLayer, self.layers[k])
        harmonics, radial = edges
        weights = layer.radial(radial) if weights is None else weights
        return layer.product(x, harmonics, weights, graph.edge_index)

    def compile_sums(self) -> None:
        """See `EnergyModel`."""
        layers = [cast(InteractionLayer, layer) for layer in self.layers]
        self.compiled = CompiledSums.of(
            [layer.product for layer in layers],
            [nn.Sequential(self.basis, layer.radial) for layer in layers],
            self.cutoff,
            self.embedding.dtype,
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
        x: Features,
        element: Tensor,
        embedding: Tensor,
        messages: Callable[[Features], Features],
    ) -> Features:
        """List of (N, 2l+1, C) features -> the next.

        Parameters
        ----------
        x : list of (N, 2l+1, C)
        element : (N,)
            Row numbers of the elements.
        embedding : (N, embedding_channels)
            Learnt vectors of the elements.
        messages
            Sums `product` over the neighbours.
        """
        found = messages(self.linear_in(x))
        new = self.linear_out([m * self.message_scale for m in found])
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
