"""The sections of a config and what each setting means; `config` reads them from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Places = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _refuse_idle(section: BaseModel, names: tuple[str, ...], when: str) -> None:
    """Raise ValueError for settings that are given and do nothing."""
    for name in names:
        if getattr(section, name) != type(section).model_fields[name].default:
            raise ValueError(f"{name} has no meaning with {when}; leave it out")


class DataConfig(_Section):
    """Where the calculations are. They are converted once, into an HDF5 file beside `run_dir`.

    Attributes
    ----------
    files : HDF5 files of `mlff2d data build`, and whatever that command reads: anything that
        `ase.io` reads with energies, forces or stresses, folders of VASP runs, JSON trajectories of
        the Alexandria database; for a property also folders of CIF files with an `id_prop.csv`
    material_key : entry of `atoms.info` that the split keeps together; without it the reduced
        formula
    in_memory : hold structures and edges in memory (true), or read them from the HDF5 file and find
        edges anew for every batch (false); null: in memory below 2 GB and without workers
    workers : processes that make batches; 0 for a thread
    """

    files: Annotated[tuple[Path, ...], Field(min_length=1)]
    material_key: str = "material"
    in_memory: bool | None = None
    workers: Annotated[int, Field(ge=0)] = 0

    @field_validator("files", mode="before")
    @classmethod
    def _one_file_is_a_list_too(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class SelectionConfig(_Section):
    """Frames to take along a trajectory; with neither setting every one.

    Attributes
    ----------
    e_cut : eV/atom; step i is taken where |E_i - E_(i+1)| / N is above it, and of a trajectory that
        has none the `steps`
    steps : places along a trajectory, 0 the first step and 1 the last: [0, 0.5, 1] are the steps 0,
        N/2 and N
    """

    e_cut: NotNegative | None = None
    steps: Places | None = None

    @model_validator(mode="after")
    def _has_a_fallback(self) -> SelectionConfig:
        if self.e_cut is not None and self.steps is None:
            object.__setattr__(self, "steps", (0.0, 0.5, 1.0))
        return self


class FilterConfig(_Section):
    """Frames to leave out, as in section 4.1 of the thesis; a rule that is null is off.

    Attributes
    ----------
    require : labels that a frame must have; the stress is that in the plane of a slab
    max_atoms : atoms in a structure
    min_energy, max_energy : eV/atom
    max_force : largest absolute force component, eV/Å
    max_stress : largest absolute in-plane component, N/m
    max_stress_kbar : the same as the cell as given has it, vacuum and all (the rule of the thesis)
    isolated_atoms : what to do with a structure in which an atom has no neighbour in the cutoff
    duplicates : what to do with a structure that is in the data already, to 1e-4 Å
    """

    require: tuple[Literal["energy", "forces", "stress"], ...] = ()
    max_atoms: Count | None = None
    min_energy: float | None = None
    max_energy: float | None = None
    max_force: Positive | None = None
    max_stress: Positive | None = None
    max_stress_kbar: Positive | None = None
    isolated_atoms: Literal["keep", "remove"] = "remove"
    duplicates: Literal["keep", "remove"] = "remove"


class SplitConfig(_Section):
    """Shares for validation and test; the rest is trained on.

    Attributes
    ----------
    by : what is never split: a material; a chemistry (all compounds of the same elements); a
        composition (the same reduced formula); a prototype (the same anonymous formula and layer
        group of a material's first frame); or, "frame", nothing
    val, test : probabilities with which each is drawn
    seed : of the draw, which depends on it and on the name of what is drawn, and on nothing else
    train_frames : most frames to train on, as for a learning curve; null for all. They are taken in
        an order drawn with the run's seed, a frame of each material in turn, so that of two
        numbers the smaller takes a part of what the larger does; frames that bring an element come
        first
    """

    by: Literal["material", "chemistry", "composition", "prototype", "frame"] = "material"
    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Fraction = 0.1
    seed: int = 0
    train_frames: Count | None = None

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
    """What stands around the model: repulsion of nuclei at short range, and reference energies.

    A run that starts from a model has that model's repulsion, and its reference energies moved by a
    fit to the new data.

    Attributes
    ----------
    zbl : add the repulsion of nuclei at short range
    references : "fit" by least squares on the compositions; "isolated" from frames of single atoms;
        or energies in eV by symbol, {Mo: -4.6, S: -1.1}
    fit_by : whether in a fit each frame counts once, or each composition does
    """

    zbl: bool = True
    references: Literal["fit", "isolated"] | dict[str, float] = "fit"
    fit_by: Literal["frame", "composition"] = "frame"

    @field_validator("references")
    @classmethod
    def _names_elements(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                if key not in atomic_numbers:
                    raise ValueError(f"references names {key!r}, which is no element")
        return value

    @model_validator(mode="after")
    def _fits_what_it_counts(self) -> PriorConfig:
        if self.references != "fit":
            _refuse_idle(self, ("fit_by",), "references that are not fitted")
        return self


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


class StageTwoConfig(_Section):
    """Other weights of the loss from some epoch on, for the last of the energies.

    As the second stage of MACE (Batatia et al., NeurIPS 2022): a constant, smaller learning rate,
    and the mean of the weights over all its steps in place of the running mean.

    Attributes
    ----------
    epoch : the first in which it holds, counted from 1
    energy, forces, stress : weights
    lr : learning rate; null goes on with the schedule
    average : "mean" over all steps of the stage, or the running mean "ema" as before
    """

    epoch: Annotated[int, Field(ge=2)]
    energy: NotNegative
    forces: NotNegative
    stress: NotNegative
    lr: Positive | None = None
    average: Literal["mean", "ema"] = "mean"

    @model_validator(mode="after")
    def _learns_something(self) -> StageTwoConfig:
        if not (self.energy or self.forces or self.stress):
            raise ValueError("every weight is zero; give energy, forces or stress one")
        return self


class LossConfig(_Section):
    """Weights of the errors in energy (eV/atom), forces (eV/Å) and in-plane stress (N/m).

    `kind` acts on the length of an error: |ΔE|/N, the vector ΔF of an atom, the tensor Δσ of a
    structure. The deltas are where Huber's loss turns from quadratic to linear. A structure of N
    atoms counts N^atoms_power times in the energy and the stress, as each of its atoms does in the
    forces; 0 is one vote a structure, 1 one an atom. `stage_two` changes the weights late in a run.

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
    atoms_power: float = 0.0
    stage_two: StageTwoConfig | None = None

    @model_validator(mode="after")
    def _learns_something(self) -> LossConfig:
        if not (self.energy or self.forces or self.stress):
            raise ValueError("every weight is zero; give energy, forces or stress one")
        return self

    @model_validator(mode="after")
    def _has_deltas_for_huber(self) -> LossConfig:
        if self.kind != "huber":
            deltas = ("delta_energy", "delta_forces", "delta_stress", "delta_property")
            _refuse_idle(self, deltas, f"kind: {self.kind}")
        return self

    @property
    def derivatives(self) -> bool:
        """Whether anything but energies is learnt, in either stage."""
        stages: list[LossConfig | StageTwoConfig] = [self]
        stages += [] if self.stage_two is None else [self.stage_two]
        return any(stage.forces or stage.stress for stage in stages)


class TrainConfig(_Section):
    """The optimisation.

    Attributes
    ----------
    epochs : passes over the training part
    batch_size, batch_edges : most structures and most edges in a batch, over all processes
    batch_memory : GB; ceiling of what a batch, over all processes, may keep for its backward pass,
        which lowers `batch_edges` where a structure of the data needs much; null for none
    accumulate : batches whose gradients make one step
    optimizer, lr, weight_decay : decay acts on matrices, not on biases or scalars; "muon" is Muon
        for matrices and AdamW for the rest
    warmup_epochs : linear rise of the learning rate, then the schedule
    schedule : "cosine" down to `final_lr` * lr, "plateau" (times `plateau_factor` whenever
        `plateau_epochs` brought no better validation loss, down to the same), or "constant"
    early_stop : epochs without a better validation loss after which a run ends, or begins its
        stage two if that is still to come; null for never
    ema : decay of the running mean of the weights that is validated and saved; 0 for none
    clip : largest norm of the gradient; null for none
    max_jump : a loss this many times the median of the last hundred steps stops the run; null for
        none
    device, dtype : where ('auto': a GPU if there is one) and in which precision
    tf32, bf16 : faster products of matrices on a GPU; bf16 runs the network itself in bfloat16
        where the architecture allows it
    threads : of torch on the CPU; null for torch's own choice
    deterministic : on a GPU, the same bits each time at some cost in speed; a CPU always does
    max_minutes : stop after this time, ready to go on; null for no limit
    save_minutes : time between two saved states inside an epoch
    log : where the figures go beside `log.jsonl`: "tensorboard", "wandb"
    """

    epochs: Count = 100
    batch_size: Count = 32
    batch_edges: Count = 20_000
    batch_memory: Positive | None = None
    accumulate: Count = 1
    optimizer: Literal["adamw", "adam", "amsgrad", "muon"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    warmup_epochs: NotNegative = 0.5
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.01
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    plateau_epochs: Count = 10
    early_stop: Count | None = None
    ema: Fraction = 0.999
    clip: Positive | None = 10.0
    max_jump: Annotated[float, Field(gt=1)] | None = 1000.0
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    tf32: bool = False
    bf16: bool = False
    threads: Count | None = None
    deterministic: bool = False
    max_minutes: Positive | None = None
    save_minutes: Positive = 10.0
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()

    @model_validator(mode="after")
    def _has_settings_for_its_schedule(self) -> TrainConfig:
        if self.schedule != "plateau":
            idle = ("plateau_factor", "plateau_epochs")
            _refuse_idle(self, idle, f"schedule: {self.schedule}")
        if self.schedule == "constant":
            _refuse_idle(self, ("final_lr",), "schedule: constant")
        return self


class AdapterConfig(_Section):
    """Low-rank adapters (Hu et al., ICLR 2022): W + (alpha / rank) B A, and W itself stays.

    Attributes
    ----------
    rank : of the change; a matrix that is not larger is trained as a whole
    alpha : scale of the change
    match : regular expressions; matrices whose name has one of them get an adapter
    """

    rank: Count = 8
    alpha: Positive = 8.0
    match: Annotated[tuple[str, ...], Field(min_length=1)] = ("",)


class ReplayConfig(_Section):
    """Frames of the original data among the new ones, so that what was learnt is not forgotten.

    Attributes
    ----------
    files : the original data, or other structures of its kind; as in `data.files`
    share : of the frames of an epoch
    labels : those in the files, moved to the new reference energies; or those that the model gives
        before it is fine-tuned ("start"), which needs none in the files
    """

    files: Annotated[tuple[Path, ...], Field(min_length=1)]
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    labels: Literal["files", "start"] = "files"


class FinetuneConfig(_Section):
    """How a trained model is changed; each rule must match a parameter, and all is printed.

    Regular expressions are searched for in the names of parameters, such as
    `blocks.0.edge_mlp.weight`.

    Attributes
    ----------
    freeze : parameters that stay as they are
    lr : factors on the learning rate by regular expression; of several the last that matches
    layer_decay : factor on the learning rate for each block away from the readout
    adapters : low-rank changes in place of whole matrices; null for none
    l2_start : weight of half the squared distance from the weights of the start
    replay : old frames among the new; null for none
    old : held-out data of the original kind on which the report judges forgetting; without it the
        change of predictions on the monolayers that ship with the package
    scratch : also train the same architecture from random weights in the same budget, to compare
    scratch_lr : its learning rate, as random weights want a larger one than trained ones
    """

    freeze: tuple[str, ...] = ()
    lr: dict[str, NotNegative] = {}
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    adapters: AdapterConfig | None = None
    l2_start: NotNegative = 0.0
    replay: ReplayConfig | None = None
    old: tuple[Path, ...] = ()
    scratch: bool = True
    scratch_lr: Positive = 3e-3


class Config(_Section):
    """One training run; `run_dir` receives everything that it writes."""

    run_dir: Path
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig
    filters: FilterConfig = FilterConfig()
    selection: SelectionConfig = SelectionConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig
    priors: PriorConfig = PriorConfig()
    property: PropertyConfig | None = None
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    finetune: FinetuneConfig | None = None

    @model_validator(mode="after")
    def _fine_tuning_has_a_start(self) -> Config:
        if self.finetune is not None and self.model.start is None:
            raise ValueError("the section finetune needs model.from, the model to start from")
        if self.model.start is not None and self.priors.references != "fit":
            raise ValueError(
                "priors.references has no meaning with model.from, whose reference energies are "
                "moved by a fit to the data; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _has_its_stage_two(self) -> Config:
        two = self.loss.stage_two
        if two is not None and two.epoch > self.train.epochs:
            raise ValueError(
                f"loss.stage_two.epoch is {two.epoch}, behind the last epoch; let it begin earlier "
                "or raise train.epochs"
            )
        return self

    @model_validator(mode="after")
    def _a_property_has_no_forces(self) -> Config:
        if self.property is not None:
            for name, useful in (
                ("loss", {"kind", "delta_property"}),
                ("filters", {"max_atoms", "isolated_atoms", "duplicates"}),
                ("selection", {"steps"}),
                ("priors", {"zbl"}),
            ):
                section = getattr(self, name)
                for key, field in type(section).model_fields.items():
                    if key not in useful and getattr(section, key) != field.default:
                        raise ValueError(
                            f"{name}.{key} has no meaning for a property; leave it out"
                        )
            if self.finetune is not None and self.finetune.old:
                raise ValueError("finetune.old has no meaning for a property; leave it out")
        return self

    @model_validator(mode="after")
    def _a_potential_has_no_property(self) -> Config:
        if self.property is None:
            _refuse_idle(self.loss, ("delta_property",), "energies, forces and stress")
        return self

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as YAML and JSON can hold it."""
        return self.model_dump(mode="json", by_alias=True)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
