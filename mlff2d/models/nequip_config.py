"""The settings of NequIP."""

from __future__ import annotations

from dataclasses import dataclass

from e3nn import o3

from mlff2d.models.base import (
    check_between,
    check_choice,
    check_counts,
    check_flags,
    check_positive,
    check_sizes,
)
from mlff2d.nn.elements import check_elements
from mlff2d.nn.irreps import EXAMPLE, MAX_DEGREE, SCALAR, irreps_set, parse_irreps
from mlff2d.nn.tensor_product import find_paths

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
