"""Settings of a study of alloys: YAML in, checked and frozen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mlff2d.errors import nearest

from ..config import apply_override, read_yaml, validated
from ..finetuning.recipe import BATCH_SIZE, LR, STEPS
from ..sections.base import Count, Positive, Section
from .choices import METHODS


class SystemConfig(Section):
    """A layer in which several species share the sites of one element.

    Attributes
    ----------
    parent : file with the layer, MoS2 say
    sublattice : the element whose sites are shared
    species : that share them
    end_members : files of layers with one species on all shared sites, for the lattice constants
        relaxations begin with; those among the DFT frames are found without being named
    phase : 1H, 1T, ...; part of names only
    name : of the alloy; by default made of its elements, MoWS2
    """

    parent: Path
    sublattice: str
    species: Annotated[tuple[str, ...], Field(min_length=2)]
    end_members: tuple[Path, ...] = ()
    phase: str = ""
    name: str = ""


class CellsConfig(Section):
    """Cells without DFT results whose formation energies are predicted.

    Attributes
    ----------
    max_sites : all distinct cells of so many shared sites
    sqs, random : special quasirandom and random cells for each of `sizes` and `shares`
    sizes : primitive cells in these
    shares : of the last species
    """

    max_sites: Count = 4
    sqs: Annotated[int, Field(ge=0)] = 0
    random: Annotated[int, Field(ge=0)] = 0
    sizes: tuple[Count, ...] = (8,)
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.25, 0.5, 0.75)


class RelaxConfig(Section):
    """How potentials relax configurations, from ideal sites on a lattice after Vegard's law.

    Attributes
    ----------
    fmax, smax : thresholds on forces, eV/Å, and on in-plane stress, N/m
    steps : after which a relaxation gives up
    """

    fmax: Positive = 0.01
    smax: Positive = 0.02
    steps: Count = 500


class PotentialsConfig(Section):
    """Potentials and their training on the DFT frames.

    Attributes
    ----------
    starts : shipped models, model files, imported checkpoints
    together : train on the frames of all systems; else each system alone
    steps : of the optimiser, about; the same from a start and from scratch
    energy_steps : of a second training, in which energies weigh most and only frames near their
        minima have them; 0 for none
    formation_steps : of Gauss and Newton at the end, on formation energies; 0 for none
    lr, scratch_lr : learning rates from a start and from scratch
    batch_size : frames in a step
    """

    starts: Annotated[tuple[str, ...], Field(min_length=1)] = ("universal",)
    together: bool = True
    steps: Count = STEPS
    energy_steps: Annotated[int, Field(ge=0)] = 300
    formation_steps: Annotated[int, Field(ge=0)] = 2
    lr: Positive = LR
    scratch_lr: Positive = 3e-3
    batch_size: Count = BATCH_SIZE


class EnergyOnlyConfig(Section):
    """The network that learns formation energies from relaxed structures.

    Attributes
    ----------
    model : section `model` of a config of `mlff2d train`
    steps, lr, batch_size : of its training
    """

    model: dict[str, Any] = Field(
        default_factory=lambda: {
            "name": "nequip",
            "cutoff": 5.0,
            "hidden_irreps": "16x0e+8x1o+4x2e",
            "l_max": 2,
            "n_layers": 3,
        }
    )
    steps: Count = 600
    lr: Positive = 5e-3
    batch_size: Count = 8


class ExpansionConfig(Section):
    """Cluster expansions.

    Attributes
    ----------
    cutoffs : by order of cluster from pairs on the largest distance in it, in lattice constants of
        the parent; the best of these by cross-validation is taken
    folds : of the cross-validation
    """

    cutoffs: Annotated[tuple[tuple[Positive, ...], ...], Field(min_length=1)] = (
        (1.1,),
        (1.8,),
        (2.1,),
        (2.1, 1.1),
        (2.7, 1.8),
        (3.1, 2.1, 1.1),
    )
    folds: Annotated[int, Field(ge=2)] = 5


class SplitsConfig(Section):
    """Which configurations are held out. End members never are.

    Attributes
    ----------
    test : share of the configurations of each system
    repeats : splits; errors are given as their mean and spread
    """

    test: Annotated[float, Field(gt=0, lt=1)] = 0.3
    repeats: Count = 5


class WalkConfig(Section):
    """How long atoms change places, and in how large a cell.

    Attributes
    ----------
    supercell : primitive cells along both lattice vectors
    sweeps : trials for each shared site at each temperature
    replicas : runs from other random starts, for the error
    """

    supercell: tuple[Count, Count] = (12, 12)
    sweeps: Count = 400
    replicas: Count = 3


class PotentialWalkConfig(WalkConfig):
    """The same with a potential, all temperatures at a time.

    Attributes
    ----------
    fmax, smax, steps : every trial is relaxed from Vegard's lattice until forces in eV/Å and
        in-plane stress in N/m are below, or for so many steps: its energy is that of the last
    """

    supercell: tuple[Count, Count] = (6, 6)
    sweeps: Count = 20
    replicas: Count = 2
    fmax: Positive = 0.05
    smax: Positive = 0.1
    steps: Count = 20


class MonteCarloConfig(Section):
    """Swaps of atoms of a supercell at several temperatures.

    Attributes
    ----------
    by : energies of a cluster expansion, or of the fine-tuned potential, on Vegard's lattice or
        relaxed at every trial
    fit : kind of the cluster expansion, as in the methods "ce-..."
    shares : of the last species
    temperatures : K
    equilibrate : share of the sweeps that enters no mean
    expansion, potential : how long and how large with each
    """

    by: tuple[Literal["expansion", "potential", "potential-relaxed"], ...] = ("expansion",)
    fit: Literal["ols", "ridge", "lasso", "ardr"] = "ardr"
    shares: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (
        1 / 3,
        0.5,
        2 / 3,
    )
    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (
        1500.0,
        1000.0,
        700.0,
        500.0,
        350.0,
        250.0,
        150.0,
        100.0,
        60.0,
        30.0,
    )
    equilibrate: Annotated[float, Field(ge=0, lt=1)] = 0.3
    expansion: WalkConfig = WalkConfig()
    potential: PotentialWalkConfig = PotentialWalkConfig()

    @field_validator("temperatures")
    @classmethod
    def _each_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("give each temperature once; more replicas make errors smaller")
        return value


class AlloyConfig(Section):
    """A study of one alloy or several; `run_dir` receives everything.

    Attributes
    ----------
    systems : the alloys
    frames : files with DFT frames of their configurations, relaxed or not, end members among them
    methods : keys of `METHODS`
    max_fmax, max_smax : eV/Å and N/m; a configuration counts as relaxed by DFT where its lowest
        frame has no larger force and in-plane stress, or none are stored
    min_configurations : a system with fewer configurations with DFT energies, end members among
        them, is not compared
    curve : for the learning curve, numbers of configurations to train on, end members among them,
        of each system; none for no curve
    monte_carlo : null for none
    device, dtype, threads : where and how exactly potentials are evaluated
    """

    run_dir: Path
    seed: Annotated[int, Field(ge=0)] = 0
    systems: Annotated[tuple[SystemConfig, ...], Field(min_length=1)]
    frames: tuple[Path, ...] = ()
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(METHODS)
    min_configurations: Annotated[int, Field(ge=4)] = 6
    cells: CellsConfig = CellsConfig()
    relax: RelaxConfig = RelaxConfig()
    potentials: PotentialsConfig = PotentialsConfig()
    energy_only: EnergyOnlyConfig = EnergyOnlyConfig()
    expansion: ExpansionConfig = ExpansionConfig()
    splits: SplitsConfig = SplitsConfig()
    curve: tuple[Count, ...] = ()
    max_fmax: Positive = 0.1
    max_smax: Positive = 0.5
    monte_carlo: MonteCarloConfig | None = None
    device: str | None = None
    dtype: Literal["float32", "float64"] = "float32"
    threads: Count | None = None

    @field_validator("systems", "frames", "methods", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, dict)) else value

    @model_validator(mode="after")
    def _methods_are_some(self) -> AlloyConfig:
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods: there is no {method!r}.{nearest(method, METHODS)}")
        if "energy-only" in self.methods and "fine-tuned" not in self.methods:
            raise ValueError(
                "methods: energy-only needs the structures that fine-tuned relaxes; name it too"
            )
        return self

    @field_validator("methods")
    @classmethod
    def _in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # Some go on from what others leave.
        return tuple(sorted(set(value), key=lambda m: [*METHODS, m].index(m)))

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as YAML and JSON can hold it."""
        return self.model_dump(mode="json")


def load_alloy(path: Path, overrides: Iterable[str] = ()) -> AlloyConfig:
    """Read a YAML file and apply overrides such as 'splits.repeats=3'.

    Raises ConfigError, one sentence that names file, key and remedy.
    """
    raw = read_yaml(path)
    for override in overrides:
        apply_override(raw, override)
    return validated(raw, AlloyConfig, path)
