"""The settings of MACE."""

from __future__ import annotations

from dataclasses import dataclass

from e3nn import o3

from mlff2d.models.base import (
    check_choice,
    check_counts,
    check_flags,
    check_positive,
    check_sizes,
)
from mlff2d.nn.elements import check_elements
from mlff2d.nn.irreps import SCALAR, irreps_set, parse_irreps
from mlff2d.nn.symmetric_tables import MAX_CORRELATION, counts, greatest_correlation
from mlff2d.nn.tensor_product import find_paths

INTERACTIONS = ("plain", "residual", "density", "density_residual")
TRANSFORMS = ("none", "agnesi")
MAX_DEGREE = 6


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
