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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from ase.data import covalent_radii
from e3nn import o3
from torch import Tensor, nn

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
from mlff2d.nn.equivariant import ElementLinear, IrrepsLinear, SphericalHarmonics, alike
from mlff2d.nn.irreps import SCALAR, irreps_set, parse_irreps
from mlff2d.nn.kernels.sums import CompiledSums
from mlff2d.nn.mlp import MLP, ScaledLinear
from mlff2d.nn.neighbour_sum import Neighbours, NeighbourSum, arrange
from mlff2d.nn.pairs import AgnesiTransform, PairRepulsion
from mlff2d.nn.radial import BesselBasis, PolynomialEnvelope
from mlff2d.nn.scatter import segment_sum
from mlff2d.nn.symmetric_contraction import SymmetricContraction
from mlff2d.nn.symmetric_tables import MAX_CORRELATION, counts, greatest_correlation
from mlff2d.nn.tensor_product import find_paths

Features = list[Tensor]
INTERACTIONS = ("plain", "residual", "density", "density_residual")
TRANSFORMS = ("none", "agnesi")
MAX_DEGREE = 6
DENSITY_GAIN = 0.3


@dataclass(frozen=True)
class MACEConfig:
    """Settings of MACE; the defaults are those of the small MACE-MP-0, with a shorter cutoff.

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
        Features between layers, in e3nn's notation, all with the same number of channels.
        "128x0e+128x1o" is more accurate and about twice as slow.
    l_max
        Greatest degree of the spherical harmonics and of the features that are multiplied.
    correlation
        How many neighbours a message is made of at most: 1 for pairs, 3 as in the paper.
    n_bessel
        Radial basis functions.
    radial_hidden
        Hidden layers of the radial networks.
    envelope_p
        Exponent of the envelope that ends at the cutoff.
    readout_hidden
        Hidden layer of the last readout; those of the layers before are linear.
    avg_neighbors
        Mean number of neighbours within the cutoff in the training data, which messages are
        divided by.
    first_interaction, interaction
        Of the first layer and of the others. "residual": the input is added after the product
        basis, times a matrix of the element. "plain": instead messages are multiplied with such a
        matrix. "density_residual", "density": the same, only that messages are divided by a learnt
        count of the neighbours rather than by their mean number, which helps where coordinations
        differ much, as in the models from MACE-MP-0b2 on.
    distance_transform
        "none", or "agnesi": the radial functions act on distances scaled by covalent radii.
    pair_repulsion
        Adds a repulsion of nuclei to the energies. It counts as eV where the potential's scale is
        1; new potentials do better with the prior `zbl`.
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 5.0
    n_layers: int = 2
    hidden_irreps: str = "128x0e"
    l_max: int = 3
    correlation: int = 3
    n_bessel: int = 8
    radial_hidden: tuple[int, ...] = (64, 64, 64)
    envelope_p: int = 5
    readout_hidden: int = 16
    avg_neighbors: float = 20.0
    first_interaction: str = "residual"
    interaction: str = "residual"
    distance_transform: str = "none"
    pair_repulsion: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_counts(self, 1, "n_layers", "n_bessel", "readout_hidden")
        check_counts(self, 1, "correlation", most=MAX_CORRELATION)
        check_counts(self, 0, "l_max", most=MAX_DEGREE)
        check_counts(self, 2, "envelope_p")
        check_positive(self, cutoff="in Å, such as 5.0", avg_neighbors="such as 20.0")
        check_sizes(self, "radial_hidden")
        check_choice(self, "first_interaction", INTERACTIONS)
        check_choice(self, "interaction", INTERACTIONS)
        check_choice(self, "distance_transform", TRANSFORMS)
        check_flags(self, "pair_repulsion")
        hidden = parse_irreps(self.hidden_irreps, parity=True)
        self._check_channels(hidden)
        self._check_correlation(hidden)
        self._check_reached(hidden)

    @property
    def channels(self) -> int:
        """C, the channels of every irrep."""
        return int(parse_irreps(self.hidden_irreps, parity=True)[0].mul)

    def layer_irreps(self) -> list[o3.Irreps]:
        """What each layer puts out: the hidden irreps, the last one their scalars."""
        hidden = parse_irreps(self.hidden_irreps, parity=True)
        return [hidden] * (self.n_layers - 1) + [o3.Irreps([(hidden[0].mul, SCALAR)])]

    def coupled_irreps(self, outputs: o3.Irreps) -> o3.Irreps:
        """Irreps of A, the summed messages, that a layer with these outputs multiplies."""
        natural = [o3.Irrep(degree, (-1) ** degree) for degree in range(self.l_max + 1)]
        if self.correlation == 1:
            natural = [ir for ir in natural if ir in irreps_set(outputs)]
        return o3.Irreps([(outputs[0].mul, ir) for ir in natural])

    def _check_channels(self, hidden: o3.Irreps) -> None:
        channels = hidden[0].mul
        if any(mul != channels for mul, _ in hidden):
            even = o3.Irreps([(channels, ir) for _, ir in hidden])
            raise ValueError(
                f"hidden_irreps {self.hidden_irreps!r}: all irreps have the same number of "
                f"channels, for they are products of the same ones; use {str(even)!r}"
            )

    def _check_correlation(self, hidden: o3.Irreps) -> None:
        for outputs in {str(irreps): irreps for irreps in self.layer_irreps()}.values():
            coupled = tuple(ir for _, ir in self.coupled_irreps(outputs))
            order = greatest_correlation(coupled, tuple(ir for _, ir in outputs), self.correlation)
            if order < self.correlation:
                raise ValueError(
                    f"correlation = {self.correlation}: with l_max = {self.l_max} and "
                    f"hidden_irreps {self.hidden_irreps!r} the tables of its products would not "
                    f"fit in memory; use {order}"
                )

    def _check_reached(self, hidden: o3.Irreps) -> None:
        """Each hidden irrep is a product of harmonics, and the next layer can make use of it."""
        alive = {SCALAR}
        if self.n_layers > 1:
            natural = tuple(o3.Irrep(degree, (-1) ** degree) for degree in range(self.l_max + 1))
            made = set().union(*counts(natural, self.correlation)[1:])
            after = [self.coupled_irreps(irreps) for irreps in self.layer_irreps()[1:]]
            wanted = set().union(*(irreps_set(irreps) for irreps in after))
            for term in hidden:
                if term.ir in made and find_paths(o3.Irreps([term]), self.l_max, wanted):
                    alive.add(term.ir)
        if alive != irreps_set(hidden):
            dead = o3.Irreps([term for term in hidden if term.ir not in alive])
            live = o3.Irreps([term for term in hidden if term.ir in alive])
            raise ValueError(
                f"hidden_irreps {self.hidden_irreps!r}: with l_max = {self.l_max}, correlation = "
                f"{self.correlation} and n_layers = {self.n_layers} no tensor products lead to the "
                f"energy by way of {dead}; use {str(live)!r}"
            )


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
        element = self.element_index(graph.z)
        neighbours, messages = self._messages(graph, edge_vec)
        x = [self.embedding.index_select(0, element).unsqueeze(1)]
        scalars = []
        for k, layer in enumerate(self.layers):
            x = layer(x, element, neighbours, partial(messages, k))
            scalars.append(x[0].squeeze(1))
        return torch.cat(scalars, dim=1)

    def _messages(
        self, graph: Graph, edge_vec: Tensor
    ) -> tuple[Neighbours | None, Callable[[int, Features], Features]]:
        """The edges for a density, and what a layer, by its number, has features summed by."""
        compiled = None if self.compiled is None else self.compiled.bind(graph, edge_vec)
        if compiled is None:
            neighbours = self._neighbours(graph, edge_vec)
            return neighbours, lambda k, x: self._eager(k, x, neighbours)
        edges = None
        if not (compiled.tabulated and self.layers[0].density is None):
            radial = self._radial(graph, torch.linalg.vector_norm(edge_vec, dim=1))
            edges = Neighbours(0, graph.edge_index, radial[:, :0], radial)

        def fast(k: int, x: Features) -> Features:
            weights = None
            if not compiled.tabulated:
                assert edges is not None
                weights = cast(MACELayer, self.layers[k]).radial(edges.radial)

            def eager(edge_vec: Tensor, weights: Tensor | None, x: Features) -> Features:
                return self._eager(
                    k, x, self._neighbours(graph, edge_vec, weights is None), weights
                )

            return compiled.sum(k, x, weights, eager)

        return edges, fast

    def _neighbours(self, graph: Graph, edge_vec: Tensor, in_places: bool = True) -> Neighbours:
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        harmonics, radial = self.harmonics(edge_vec / r.unsqueeze(1)), self._radial(graph, r)
        if not in_places:
            return Neighbours(0, graph.edge_index, harmonics, radial)
        return arrange(graph.edge_index, harmonics, radial, graph.n_atoms)

    def _eager(
        self, k: int, x: Features, neighbours: Neighbours, weights: Tensor | None = None
    ) -> Features:
        layer = cast(MACELayer, self.layers[k])
        if weights is None:
            return layer.product.summed(x, layer.radial, neighbours)
        return layer.product(x, neighbours.harmonics, weights, neighbours.edge_index)

    def compile_sums(self) -> None:
        """See `EnergyModel`."""
        layers = [cast(MACELayer, layer) for layer in self.layers]
        tabulated = self.transform is None  # else radial functions are those of two elements
        self.compiled = CompiledSums.of(
            [layer.product for layer in layers],
            [nn.Sequential(_Radial(self), layer.radial) for layer in layers] if tabulated else None,
            self.cutoff,
            self.embedding.dtype,
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
        neighbours: Neighbours | None,
        messages: Callable[[Features], Features],
    ) -> Features:
        """List of (N, 2l+1, C) features -> the next.

        Parameters
        ----------
        x : list of (N, 2l+1, C)
        element : (N,)
            Row numbers of the elements.
        neighbours
            The edges, their radial functions zero at the cutoff, with first and second derivative;
            for a density only.
        messages
            Sums `product` over the neighbours.
        """
        found = messages(self.linear_in(x))
        scale = self._message_scale(neighbours, len(element))
        a = self.linear_message([m * scale for m in found])  # eq. 8
        if self.element_linear is not None:
            a = [part for part in self.element_linear(a, element) if part is not None]
        products = self.linear_out(self.contraction(a, element))  # eqs. 10 and 11
        if self.self_connection is None:
            return products
        kept = self.self_connection(x, element)  # eq. 12
        return [p if k is None else p + k for p, k in zip(products, kept, strict=True)]

    def _message_scale(self, neighbours: Neighbours | None, n_atoms: int) -> Tensor | float:
        """What the sum over neighbours is multiplied with: a number, or (N, 1, 1)."""
        if self.density is None:
            return self.message_scale
        assert neighbours is not None
        density = torch.tanh(self.density(neighbours.radial).square())
        return 1.0 / (1.0 + neighbours.sum(density, n_atoms)).unsqueeze(2)


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
