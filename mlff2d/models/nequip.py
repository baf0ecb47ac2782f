"""NequIP: an E(3)-equivariant message-passing potential.

Batzner, Musaelian, Sun, Geiger, Mailoa, Kornbluth, Molinari, Smidt, Kozinsky, "E(3)-equivariant
graph neural networks for data-efficient and accurate interatomic potentials", Nat. Commun. 13,
2453 (2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from e3nn import o3
from torch import Tensor, nn

from mlff2d.graph import Graph
from mlff2d.models.base import (
    EnergyModel,
    check_between,
    check_choice,
    check_counts,
    check_positive,
    check_sizes,
)
from mlff2d.nn.elements import ElementIndex, check_elements
from mlff2d.nn.equivariant import (
    ElementLinear,
    Gate,
    IrrepsLinear,
    RMSNorm,
    SphericalHarmonics,
    alike,
)
from mlff2d.nn.mlp import MLP
from mlff2d.nn.radial import BesselBasis, PolynomialEnvelope
from mlff2d.nn.tensor_product import NeighbourTensorProduct, find_paths

SCALAR = o3.Irrep("0e")
NORMS = ("none", "rms")
EXAMPLE = "64x0e+32x1o+16x2e"


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
    n_bessel
        Radial basis functions.
    radial_hidden
        Hidden layers of the radial network.
    envelope_p
        Exponent of the envelope that ends at the cutoff.
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
    self_connection_rank
        0: the self-connection has a matrix for each element, as in the paper. k > 0: those
        matrices are combinations of k, which takes k / (number of elements) of the parameters.

    The defaults are the paper's. With many elements a model learns much faster from a
    neighbor_exponent of 1, a residual of 0.5 and the norm "rms".
    """

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 5.0
    n_layers: int = 3
    hidden_irreps: str = EXAMPLE
    l_max: int = 2
    n_bessel: int = 8
    radial_hidden: tuple[int, ...] = (64, 64)
    envelope_p: int = 6
    avg_neighbors: float = 20.0
    neighbor_exponent: float = 0.5
    residual: float = 0.0
    norm: str = "none"
    self_connection_rank: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", check_elements(self.elements))
        check_counts(self, 1, "n_layers", "n_bessel")
        check_counts(self, 0, "l_max", "self_connection_rank")
        check_counts(self, 2, "envelope_p")
        check_positive(self, cutoff="in Å, such as 5.0", avg_neighbors="such as 20.0")
        check_between(self, 0.0, 1.0, "neighbor_exponent", "residual")
        check_choice(self, "norm", NORMS)
        check_sizes(self, "radial_hidden")
        self.layer_irreps()

    def layer_irreps(self) -> list[o3.Irreps]:
        """What each layer puts out: of the hidden irreps those that can be nonzero and matter.

        An irrep can be nonzero after layer t if t couplings with Y_0..Y_lmax lead to it from the
        scalars of the embedding, and matters if the couplings left lead from it to the energy.
        """
        hidden = _parse_irreps(self.hidden_irreps)
        every = irreps_set(hidden)
        neighbours = {
            ir: {path.out for path in find_paths(o3.Irreps([(1, ir)]), self.l_max, every)}
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


def irreps_set(irreps: o3.Irreps) -> set[o3.Irrep]:
    """The distinct irreps."""
    return {ir for _, ir in irreps}


def _parse_irreps(text: str) -> o3.Irreps:
    """Irreps, each once and sorted. Raises ValueError if it is none or has no 0e."""
    try:
        irreps = o3.Irreps(text).regroup()
    except (ValueError, AttributeError, IndexError, TypeError):
        raise ValueError(
            f"hidden_irreps {text!r} is not a sum of irreps; use {_readable_part(text)!r}"
        ) from None
    if SCALAR not in irreps_set(irreps):
        raise ValueError(
            f"hidden_irreps {text!r} has no 0e, which the energy is made of; "
            f"use {'+'.join(['64x0e', *([str(irreps)] if irreps else [])])!r}"
        )
    return irreps


def _readable_part(text: str) -> str:
    """The terms of an irreps string that can be read, or an example."""
    good = []
    for term in str(text).split("+"):
        try:
            good.append(str(o3.Irreps(term)))
        except (ValueError, AttributeError, IndexError, TypeError):
            continue
    joined = "+".join(term for term in good if term)
    return joined or EXAMPLE


class NequIP(EnergyModel):
    """Energies of atoms from equivariant messages between neighbours.

    Features start as a learnt vector of each element and pass through interaction layers; a small
    network reads the energy off the scalars that the last layer leaves.
    """

    Config: ClassVar[type[NequIPConfig]] = NequIPConfig

    def __init__(self, config: NequIPConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        outputs = config.layer_irreps()
        self.n_features = n_scalars = outputs[-1][0].mul
        self.element_index = ElementIndex(config.elements)
        self.embedding = nn.Parameter(alike(len(config.elements), n_scalars))
        self.basis = BesselBasis(config.n_bessel, config.cutoff)
        self.envelope = PolynomialEnvelope(config.envelope_p)
        self.harmonics = SphericalHarmonics(config.l_max)
        inputs = [o3.Irreps([(n_scalars, SCALAR)]), *outputs[:-1]]
        self.layers = nn.ModuleList(
            InteractionLayer(config, irreps_in, irreps_out)
            for irreps_in, irreps_out in zip(inputs, outputs, strict=True)
        )
        # Random messages have steep energies; start close to the reference energies instead.
        self.readout = MLP((n_scalars, max(n_scalars // 2, 1), 1), gain=0.1)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Scalars that the last layer leaves: (E, 3) edge vectors in Å -> (N, F)."""
        element = self.element_index(graph.z)
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        harmonics = self.harmonics(edge_vec / r.unsqueeze(1))
        # Scaled to a second moment of 1 in a uniform gas, before the envelope.
        scale = self.cutoff**1.5 / math.sqrt(3.0)
        radial = self.basis(r) * (scale * self.envelope(r / self.cutoff)).unsqueeze(1)
        x = [self.embedding.index_select(0, element).unsqueeze(1)]
        for layer in self.layers:
            x = layer(x, element, harmonics, radial, graph.edge_index)
        return x[0].squeeze(1)


class InteractionLayer(nn.Module):
    """One round of messages: linear, tensor product, sum, linear, self-connection, norm, gate.

    Parameters
    ----------
    config
        Settings of the model.
    irreps_in, irreps_out
        Features before and after.
    """

    def __init__(self, config: NequIPConfig, irreps_in: o3.Irreps, irreps_out: o3.Irreps) -> None:
        super().__init__()
        self.gate = Gate(irreps_out)
        self.product = NeighbourTensorProduct(irreps_in, config.l_max, irreps_set(irreps_out))
        self.linear_in = IrrepsLinear(irreps_in, irreps_in)
        self.radial = MLP((config.n_bessel, *config.radial_hidden, self.product.n_weights))
        self.message_scale = config.avg_neighbors**-config.neighbor_exponent
        # Two terms of equal size are added.
        gain = math.sqrt(0.5)
        self.linear_out = IrrepsLinear(self.product.irreps_out, self.gate.irreps_in, gain)
        self.self_connection = ElementLinear(
            len(config.elements),
            irreps_in,
            self.gate.irreps_in,
            rank=config.self_connection_rank,
            gain=gain,
        )
        self.norm = RMSNorm(self.gate.irreps_in) if config.norm == "rms" else None
        self.residual = config.residual
        present = {ir: k for k, (_, ir) in enumerate(irreps_in)}
        # Where the input stands that is added to each output.
        self.sources = [present.get(ir) for _, ir in irreps_out]

    def forward(
        self,
        x: list[Tensor],
        element: Tensor,
        harmonics: Tensor,
        radial: Tensor,
        edge_index: Tensor,
    ) -> list[Tensor]:
        """List of (N, 2l+1, C) features -> the next.

        Parameters
        ----------
        x : list of (N, 2l+1, C)
        element : (N,)
            Row numbers of the elements.
        harmonics : (E, (l_max + 1)^2)
        radial : (E, n_bessel)
            Zero at the cutoff, with first and second derivative.
        edge_index : (2, E)
        """
        weights = self.radial(radial)
        messages = self.product(self.linear_in(x), harmonics, weights, edge_index)
        mixed = self.linear_out([m * self.message_scale for m in messages])
        kept = self.self_connection(x, element)
        new = [m if k is None else m + k for m, k in zip(mixed, kept, strict=True)]
        if self.norm is not None:
            new = self.norm(new)
        new = self.gate(new)
        if not self.residual:
            return new
        new = [self.residual * part for part in new]
        return [p if k is None else x[k] + p for p, k in zip(new, self.sources, strict=True)]
