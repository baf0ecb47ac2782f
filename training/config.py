"""Settings of a training run: YAML in, checked and frozen, the resolved file out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mlff2d.errors import nearest

from .checks import check_model, check_start, describe

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3, a number without a point, for a word; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


class ConfigError(ValueError):
    """A config that cannot be used; the message names file, key and remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Section):
    """Where the calculations are. They are converted once, into an HDF5 file beside `run_dir`.

    Attributes
    ----------
    files : anything that `ase.io` reads, with energies, forces or stresses; for a property also
        folders of CIF files with an `id_prop.csv`
    material_key : entry of `atoms.info` that the split keeps together; without it the reduced
        formula
    in_memory : hold structures and edges in memory, else read them from the HDF5 file
    """

    files: Annotated[tuple[Path, ...], Field(min_length=1)]
    material_key: str = "material"
    in_memory: bool = True

    @field_validator("files", mode="before")
    @classmethod
    def _one_file_is_a_list_too(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class FilterConfig(_Section):
    """Frames to leave out, as in section 4.1 of the thesis; a rule that is null is off.

    Attributes
    ----------
    require : labels that a frame must have; the stress is that in the plane of a slab
    max_atoms : atoms in a structure
    min_energy, max_energy : eV/atom
    max_force : largest absolute force component, eV/Å
    max_stress : largest absolute in-plane component, N/m
    isolated_atoms : what to do with a structure in which an atom has no neighbour in the cutoff
    """

    require: tuple[Literal["energy", "forces", "stress"], ...] = ()
    max_atoms: Count | None = None
    min_energy: float | None = None
    max_energy: float | None = None
    max_force: Positive | None = None
    max_stress: Positive | None = None
    isolated_atoms: Literal["keep", "remove"] = "remove"


class SplitConfig(_Section):
    """Shares of the materials for validation and test; the rest is trained on."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Fraction = 0.1
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_training(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise ValueError("val and test together leave nothing to train on")
        return self


class ModelConfig(BaseModel):
    """Name in the registry; every other key is a field of that model's own config.

    `elements`, and `avg_neighbors` where a model has it, are taken from the training part unless
    they are given. Or `from` alone: a model file or the name of a shipped model, which training
    starts from; architecture, elements and weights are then those of that model.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str | None = None
    start: Annotated[str | None, Field(alias="from")] = None

    @model_validator(mode="after")
    def _is_new_or_started(self) -> ModelConfig:
        if self.start is None and self.name is None:
            raise ValueError("model.name is missing; or give model.from, a model to start from")
        others = ["name"] * (self.name is not None) + list(self.settings())
        if self.start is not None and others:
            raise ValueError(
                f"with model.from the architecture is that of {self.start}; leave out "
                + ", ".join(f"model.{key}" for key in others)
            )
        return self

    def settings(self) -> dict[str, Any]:
        """The fields for the model's config."""
        return {key: _tuples(value) for key, value in (self.model_extra or {}).items()}


class PriorConfig(_Section):
    """What stands around the model: repulsion of nuclei at short range, or not.

    A run that starts from a model has that model's.
    """

    zbl: bool = True


class PropertyConfig(_Section):
    """A scalar property of a structure to learn, in place of energy, forces and stress.

    Attributes
    ----------
    key : entry of `atoms.info`; in an `id_prop.csv` the column, by the name in its header line or
        by its number (1 is the first behind the id); any name where there is one column and no
        header
    pooling : from atoms to the structure: "mean" or "attention" (a mean with learnt weights) for
        what does not grow with the structure, "sum" for what does
    unit : of the values, for tables and messages
    """

    key: Annotated[str, Field(min_length=1)]
    pooling: Literal["mean", "attention", "sum"] = "mean"
    unit: str = ""

    @field_validator("key", mode="before")
    @classmethod
    def _a_number_is_a_key_too(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class LossConfig(_Section):
    """Weights of the errors in energy (eV/atom), forces (eV/Å) and in-plane stress (N/m).

    `kind` acts on the length of an error: |ΔE|/N, the vector ΔF of an atom, the tensor Δσ of a
    structure. The deltas are where Huber's loss turns from quadratic to linear.

    The error of a property is |Δ| over the scale of the values in the training part, and per atom
    for a sum; `kind` and `delta_property` are then all that counts.
    """

    kind: Literal["mae", "mse", "huber"] = "mae"
    energy: NotNegative = 1.0
    forces: NotNegative = 1.0
    stress: NotNegative = 0.1
    delta_energy: Positive = 0.02
    delta_forces: Positive = 0.1
    delta_stress: Positive = 0.2
    delta_property: Positive = 0.1

    @model_validator(mode="after")
    def _learns_something(self) -> LossConfig:
        if not (self.energy or self.forces or self.stress):
            raise ValueError("every weight is zero; give energy, forces or stress one")
        return self

    @property
    def derivatives(self) -> bool:
        """Whether anything but energies is learnt."""
        return bool(self.forces or self.stress)


class TrainConfig(_Section):
    """The optimisation.

    Attributes
    ----------
    epochs : passes over the training part
    batch_size, batch_edges : most structures and most edges in a batch
    optimizer, lr, weight_decay : decay acts on matrices, not on biases or scalars
    warmup_epochs : linear rise of the learning rate, then a cosine down to `final_lr` * lr
    ema : decay of the running mean of the weights that is validated and saved; 0 for none
    clip : largest norm of the gradient; null for none
    device, dtype : where ('auto': a GPU if there is one) and in which precision
    threads : of torch on the CPU; null for torch's own choice
    deterministic : on a GPU, the same bits each time at some cost in speed; a CPU always does
    max_minutes : stop after this time, ready to go on; null for no limit
    save_minutes : time between two saved states inside an epoch
    """

    epochs: Count = 100
    batch_size: Count = 32
    batch_edges: Count = 20_000
    optimizer: Literal["adamw", "adam", "amsgrad"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    warmup_epochs: NotNegative = 0.5
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.01
    ema: Fraction = 0.999
    clip: Positive | None = 10.0
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    threads: Count | None = None
    deterministic: bool = False
    max_minutes: Positive | None = None
    save_minutes: Positive = 10.0


class Config(_Section):
    """One training run; `run_dir` receives everything that it writes."""

    run_dir: Path
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig
    filters: FilterConfig = FilterConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig
    priors: PriorConfig = PriorConfig()
    property: PropertyConfig | None = None
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _a_property_has_no_forces(self) -> Config:
        if self.property is not None:
            for name, useful in (
                ("loss", {"kind", "delta_property"}),
                ("filters", {"max_atoms", "isolated_atoms"}),
            ):
                section = getattr(self, name)
                for key, field in type(section).model_fields.items():
                    if key not in useful and getattr(section, key) != field.default:
                        raise ValueError(
                            f"{name}.{key} has no meaning for a property; leave it out"
                        )
        return self

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as YAML and JSON can hold it."""
        return self.model_dump(mode="json", by_alias=True)


# Settings that change where, how fast or how long a run goes, and not what comes out.
# Data files and the model started from may move: it is their content that is compared.
FREE = (
    "run_dir",
    "data.files",
    "data.in_memory",
    "model.from",
    "train.device",
    "train.threads",
    "train.max_minutes",
    "train.save_minutes",
)


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply overrides such as 'train.lr=1e-3'.

    Raises ConfigError for a file that is not readable YAML, an unknown key (naming the nearest), a
    missing one, a value of the wrong kind, or settings that make no model.
    """
    try:
        raw = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: the config cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML ({text}).") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a config is a list of 'key: value' lines.")
    for override in overrides:
        apply_override(raw, override)
    _refuse_unknown(raw, Config, path)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = describe(first).removesuffix(".")
        raise ConfigError(f"{path}: {key + ': ' if key else ''}{problem}.") from error
    try:
        if config.model.start is None:
            check_model(str(config.model.name), config.model.settings())
            return config
        zbl = check_start(config.model.start, config.property is not None)
    except ValueError as error:
        raise ConfigError(f"{path}: model: {str(error).removesuffix('.')}.") from error
    return _with_priors_of_start(config, zbl, raw, path)


def _with_priors_of_start(
    config: Config, zbl: bool | None, raw: dict[str, Any], path: Path
) -> Config:
    """The config with the ZBL of the model that training starts from, where that is a potential."""
    if zbl is None or config.priors.zbl == zbl:
        return config
    if "zbl" in (raw.get("priors") or {}):
        raise ConfigError(
            f"{path}: priors.zbl is {config.priors.zbl}, but {config.model.start} was trained "
            f"{'with' if zbl else 'without'} it; leave it out."
        )
    return config.model_copy(update={"priors": PriorConfig(zbl=zbl)})


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key in place, its value read as YAML. Raises ConfigError without an '='."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as key=value, e.g. train.lr=1e-3.")
    *sections, last = key.strip().split(".")
    target = raw
    for section in sections:
        if target.get(section) is None:
            target[section] = {}
        target = target[section]
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override}: {section} is a value and has no keys.")
    target[last] = _parse_value(value)


def _parse_value(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set ...={text}: not a valid YAML value.") from error


def _refuse_unknown(
    raw: dict[str, Any], section: type[BaseModel], path: Path, at: str = ""
) -> None:
    if section.model_config.get("extra") == "allow":
        return
    for key, value in raw.items():
        if key not in section.model_fields:
            hint = nearest(str(key), section.model_fields)
            raise ConfigError(f"{path}: unknown key {at + str(key)!r}.{hint}")
        kind: Any = section.model_fields[key].annotation
        if isinstance(kind, UnionType):  # a section that may be left out
            if value is None:
                continue
            kind = get_args(kind)[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: {at}{key} is a section and needs keys below it.")
            _refuse_unknown(value, kind, path, f"{at}{key}.")


def save_config(config: Config, path: Path) -> None:
    """Write the resolved config as YAML."""
    path.write_text(yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that differ and would change the result, as 'key: old -> new'."""
    flat_old, flat_new = _flatten(old), _flatten(new)
    found = []
    for key in sorted(flat_old.keys() | flat_new.keys()):
        before, after = flat_old.get(key), flat_new.get(key)
        if before != after and key not in FREE:
            found.append(f"{key}: {before} -> {after}")
    return found


def _flatten(tree: dict[str, Any], at: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{at}{key}.")
        else:
            flat[at + key] = value
    return flat


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
