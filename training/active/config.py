"""Settings of active learning: YAML in, checked and frozen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..config import ConfigError, apply_override, make_config, read_yaml, validated
from ..finetuning.recipe import BATCH_SIZE, LR
from ..labelling.description import settings_of
from ..sections import Config
from ..sections.base import Count, NotNegative, Positive, Section

Way = Literal["committee", "novelty", "diversity", "random"]

WAYS = {
    "committee": "by how far the forces of several models lie apart, in eV/Å",
    "novelty": "by how far surroundings are from those trained on, 1 at the edge of the known",
    "diversity": "frames that differ from each other, whatever the models say",
    "random": "by chance, to compare with",
}
"""How frames are picked."""

MOST_APART = 5.0
"""eV/Å. Where models lie farther apart a frame is unphysical, unless settings say otherwise."""


class PerturbConfig(Section):
    """Rattled and strained copies of the starts, as `mlff2d generate perturb` makes them.

    Attributes
    ----------
    rattle : Å, standard deviations of each component of the displacements
    strain : standard deviation of the three components of a strain in the plane
    n : frames of each structure for each entry of `rattle`
    """

    rattle: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.05, 0.15)
    strain: NotNegative = 0.02
    n: Count = 1


class ExploreConfig(Section):
    """Where a round looks for frames; all of it by the first model of the round before.

    Attributes
    ----------
    relax : relax the starts, atoms and cell in the plane; what they become are frames, and where
        the movement begins
    fmax : eV/Å, the threshold of these relaxations
    temperatures : K; molecular dynamics at each (Langevin), of every start; none for no dynamics
    steps, timestep : of the dynamics; fs
    write_every : steps from one frame to the next
    replicas : of every start at each temperature, with velocities of their own
    perturb : null for none
    """

    relax: bool = True
    fmax: Positive = 0.05
    temperatures: tuple[Positive, ...] = (300.0, 1000.0)
    steps: Count = 1000
    timestep: Positive = 1.0
    write_every: Count = 50
    replicas: Count = 1
    perturb: PerturbConfig | None = None

    @model_validator(mode="after")
    def _looks_somewhere(self) -> ExploreConfig:
        if not (self.relax or self.temperatures or self.perturb):
            raise ValueError("nothing is explored; give relax, temperatures or perturb")
        return self


class PickConfig(Section):
    """Which frames are worth a calculation.

    Attributes
    ----------
    by : a key of `WAYS`
    n : frames in a round
    over : what of the atoms' uncertainties counts for a frame, the largest or the mean
    min_uncertainty : frames below teach nothing
    max_uncertainty : frames above are taken for unphysical; by default `MOST_APART` of a committee,
        and no bound on a novelty
    max_force : eV/Å; frames with a larger predicted force on an atom are left out
    apart : whether frames that are not one connected layer are left out; keep them where what is
        explored are bilayers
    """

    by: Way = "committee"
    n: Count = 20
    over: Literal["max", "mean"] = "max"
    min_uncertainty: NotNegative = 0.0
    max_uncertainty: Positive | None = None
    max_force: Positive = 20.0
    apart: Literal["drop", "keep"] = "drop"

    @model_validator(mode="after")
    def _bounds_fit(self) -> PickConfig:
        if self.by in ("diversity", "random"):
            given = [x for x in ("min_uncertainty", "max_uncertainty") if getattr(self, x)]
            if given:
                raise ValueError(f"{given[0]} has no meaning with by: {self.by}; leave it out")
        if self.max_uncertainty is not None and self.max_uncertainty <= self.min_uncertainty:
            raise ValueError("max_uncertainty must be above min_uncertainty")
        return self


class LabelConfig(Section):
    """What calculates; see `mlff2d label --with`.

    Attributes
    ----------
    calculator : "gpaw", a YAML file that describes a calculator, or a model file, the teacher
    workers : processes
    timeout : seconds that a frame may take; null for as long as it takes
    """

    calculator: Annotated[str, Field(min_length=1)]
    workers: Count = 1
    timeout: Positive | None = None


class CommitteeConfig(Section):
    """The models that a round ends with.

    Attributes
    ----------
    members : trained from different seeds, each with other frames to validate on
    start : whether each round starts from the `models` given, or from those of the round before
    steps : about so many of the optimiser for each, unless `training` sets train.epochs
    """

    members: Count = 3
    start: Literal["models", "previous"] = "models"
    steps: Count = 600


class ActiveConfig(Section):
    """Rounds of explore, pick, label and retrain; `run_dir` receives everything.

    Attributes
    ----------
    rounds : how many; more may be asked for later
    structures : files or folders of structures, where exploration starts
    models : model files or shipped models to begin with; of several, the first explores
    data : labelled frames there are already, trained on in every round
    test : labelled frames that are never trained on, to judge every round; none for no judgement
    training : sections of a config of `mlff2d finetune`, for what shall differ from its settings
    device, dtype, threads : where and how exactly models are evaluated
    """

    run_dir: Path
    rounds: Count = 2
    seed: Annotated[int, Field(ge=0)] = 0
    structures: Annotated[tuple[Path, ...], Field(min_length=1)]
    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("universal",)
    data: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    explore: ExploreConfig = ExploreConfig()
    pick: PickConfig = PickConfig()
    label: LabelConfig
    committee: CommitteeConfig = CommitteeConfig()
    training: dict[str, Any] = Field(default_factory=dict)
    device: str | None = None
    dtype: Literal["float32", "float64"] = "float32"
    threads: Count | None = None

    @field_validator("structures", "models", "data", "test", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_a_committee(self) -> ActiveConfig:
        if self.pick.by == "committee" and self.committee.members < 2:
            raise ValueError(
                "pick.by: committee needs committee.members of at least 2; raise it, or pick by "
                "novelty"
            )
        return self

    @property
    def material_key(self) -> str:
        """The entry of info that names what a frame is of."""
        return str(self.training.get("data", {}).get("material_key", "material"))

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as YAML and JSON can hold it."""
        return self.model_dump(mode="json")


def load_active(path: Path, overrides: Iterable[str] = ()) -> ActiveConfig:
    """Read a YAML file and apply overrides such as 'pick.n=40'.

    Raises ConfigError, one sentence that names file, key and remedy.
    """
    raw = read_yaml(path)
    for override in overrides:
        apply_override(raw, override)
    config = validated(raw, ActiveConfig, path)
    _check_calculator(config.label.calculator, path)
    training_config(config, config.models[0], [Path("labelled.h5")], Path("member"), path=path)
    return config


def _check_calculator(calculator: str, path: Path) -> None:
    """Raise ConfigError where there is no such calculator, before anything is explored."""
    try:
        settings_of(calculator)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: label.calculator: {error}") from error


_OURS = ("run_dir", "seed", "model", "property")


def training_config(
    config: ActiveConfig,
    start: str,
    files: list[Path],
    run_dir: Path,
    member: int = 0,
    path: Path = Path("training"),
    changes: dict[str, dict[str, Any]] | None = None,
) -> Config:
    """The config of one member's training; `changes` go over all else, section by section.

    Raises ConfigError, naming `path`, for settings in the section training that are none.
    """
    tree: dict[str, Any] = {
        "run_dir": str(run_dir),
        "seed": config.seed + member,
        "data": {"files": [str(file) for file in files]},
        "split": {"by": "frame", "val": 0.15, "test": 0.0},
        "model": {"from": start},
        "loss": {"kind": "mae", "energy": 4.0, "forces": 1.0, "stress": 0.1},
        "train": {
            "epochs": 1,
            "batch_size": BATCH_SIZE,
            "lr": LR,
            "warmup_epochs": 1.0,
            "ema": 0.98,
            "threads": 1,
        },
    }
    sections = {key: dict(value) for key, value in _sections(config.training, path).items()}
    for part in (sections, changes or {}):
        for key, section in part.items():
            tree[key] = tree.get(key, {}) | section
    return make_config(tree, Path(f"{path}: training"))


def _sections(training: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    for key, section in training.items():
        if key in _OURS or (key == "data" and "files" in (section or {})):
            raise ConfigError(
                f"{path}: training.{key} is set by the rounds themselves; leave it out."
            )
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: training.{key} is a section and needs keys below it.")
    return training
