"""Settings of a labelling: which calculator, and with what; checked and frozen.

Processes that label load this, and should begin quickly; `description` reads YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ase.data import atomic_numbers
from pydantic import Field, ValidationError, field_validator, model_validator

from mlff2d.errors import nearest

from ..sections.base import Count, NotNegative, Positive, Section

CALCULATORS = ("gpaw", "vasp", "espresso", "cp2k")
"""What is known by name; any other calculator of ASE is `module:Class`."""

CUTOFFS = {"B": 600.0, "C": 600.0, "N": 800.0, "O": 700.0, "F": 600.0}
"""eV, of plane waves for elements with hard 2p electrons. At 600 eV the stress of hBN is 3 N/m off
the slope of its energy, which makes its lattice constant 0.6 % too small: the Pulay stress of N."""

MOMENTS = {
    **{"V": 1.0, "Cr": 3.0, "Mn": 5.0, "Fe": 4.0, "Co": 3.0, "Ni": 2.0},
    **{"Ce": 1.0, "Pr": 2.0, "Nd": 3.0, "Pm": 4.0, "Sm": 5.0, "Eu": 7.0, "Gd": 7.0},
    **{"Tb": 6.0, "Dy": 5.0, "Ho": 4.0, "Er": 3.0, "Tm": 2.0, "Yb": 1.0},
}
"""Moments in µB of the free spins that a magnetic element is started with: ferromagnetic, high
spin, no more than Hund's rule gives its ions."""


class Convergence(Section):
    """When a self-consistent field is taken to be one, as GPAW counts it.

    Attributes
    ----------
    energy : eV per valence electron, between the last iterations
    density : electrons per valence electron
    eigenstates : eV² per valence electron
    """

    energy: Positive = 1e-4
    density: Positive = 1e-4
    eigenstates: Positive = 1e-5


class GpawSettings(Section):
    """GPAW with plane waves, by rules that suit any layer.

    Attributes
    ----------
    xc : the exchange-correlation functional
    cutoff : eV, of the plane waves
    cutoffs : eV, by element; the highest of an element that is present counts, if above `cutoff`
    width : eV, of the Fermi-Dirac occupations
    k_length : Å; k points are Gamma-centred, n_i = ceil(k_length / |a_i|) along a lattice vector in
        the plane and 1 along the vacuum
    height : Å, of the cell of a slab
    vacuum : Å, that is left above thick layers at least, which get a higher cell
    dipole : a dipole correction: for layers whose two faces differ (auto), always or never
    spin : spin-polarised where an element of `moments` is present, or the structure comes with
        moments
    moments : µB to start each atom of an element with
    convergence : see `Convergence`
    iterations : after which a self-consistent field is given up
    extra : further arguments of GPAW, as they are
    """

    xc: str = "PBE"
    cutoff: Positive = 450.0
    cutoffs: dict[str, Positive] = CUTOFFS
    width: NotNegative = 0.1
    k_length: Positive = 27.0
    height: Positive = 15.0
    vacuum: Positive = 10.0
    dipole: Literal["auto", "on", "off"] = "auto"
    spin: bool = False
    moments: dict[str, float] = MOMENTS
    convergence: Convergence = Convergence()
    iterations: Count = 333
    extra: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)

    @field_validator("cutoffs", "moments")
    @classmethod
    def _of_elements(cls, value: dict[str, float]) -> dict[str, float]:
        for symbol in value:
            if symbol not in atomic_numbers or symbol == "X":
                raise ValueError(f"{symbol!r} is no element")
        return value


class LabelSettings(Section):
    """What labels structures.

    Attributes
    ----------
    calculator : one of `CALCULATORS`, or `module:Class` of a calculator of ASE
    level : how the level of theory is called in the data; None for what the settings say
    parameters : of GPAW a `GpawSettings`, of others the arguments of the calculator
    height, vacuum, k_length : as those of `GpawSettings`, for other calculators; without a height
        structures are computed as they stand, without a length `kpts` is left to the parameters
    """

    calculator: str
    level: Annotated[str, Field(min_length=1)] | None = None
    parameters: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    height: Positive | None = None
    vacuum: Positive = 10.0
    k_length: Positive | None = None

    @model_validator(mode="after")
    def _has_one_place_for_each(self) -> LabelSettings:
        if self.calculator == "gpaw":
            for name in ("height", "vacuum", "k_length"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} of gpaw belongs under parameters")
        if self.k_length is not None and "kpts" in self.parameters:
            raise ValueError("k_length and parameters.kpts say the same; leave one out")
        return self

    @field_validator("calculator")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in CALCULATORS and ":" not in value:
            raise ValueError(
                f"{value!r} is no calculator.{nearest(value, CALCULATORS)} Any other calculator of "
                "ASE is given as module:Class"
            )
        return value


@dataclass(frozen=True)
class Options:
    """How a labelling is done.

    Attributes
    ----------
    workers : processes, one structure each at a time; a model labels in one
    threads : of the processor, of each; None for 1, of a model for what torch takes
    timeout : seconds for a structure, None for as long as it takes
    steps : of a relaxation, each of which is labelled; 0 for the structures as they are
    fmax, smax : eV/Å and N/m, below which a relaxation ends
    restart : begin anew whatever is there
    retry : try those again that failed
    material_key : of the frames in an HDF5 file, as in `mlff2d data build`
    """

    workers: int = 1
    threads: int | None = None
    timeout: float | None = None
    steps: int = 0
    fmax: float = 0.02
    smax: float = 0.05
    restart: bool = False
    retry: bool = False
    material_key: str = "material"

    def relaxation(self) -> dict[str, Any]:
        """The settings of a relaxation."""
        return {"steps": self.steps, "fmax": self.fmax, "smax": self.smax}


DEFAULTS = Options()


def resolved(settings: LabelSettings) -> dict[str, Any]:
    """All that decides about the labels, defaults included, as JSON can hold it."""
    whole = settings.model_dump(mode="json")
    if settings.calculator == "gpaw":
        gpaw = GpawSettings.model_validate(settings.parameters)
        whole["parameters"] = gpaw.model_dump(mode="json")
    return whole


def refreshed(identity: dict[str, Any]) -> dict[str, Any]:
    """What `resolved` said in an earlier version, with the defaults of settings that are new."""
    ours = {key: identity[key] for key in LabelSettings.model_fields if key in identity}
    try:
        return identity | resolved(LabelSettings.model_validate(ours))
    except ValidationError:  # it was a model, or a setting is no more
        return identity
