"""Sections on the loss and the optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Count, Fraction, NotNegative, Positive, Section, refuse_idle


class StageTwoConfig(Section):
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


class LossConfig(Section):
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
            refuse_idle(self, deltas, f"kind: {self.kind}")
        return self

    @property
    def derivatives(self) -> bool:
        """Whether anything but energies is learnt, in either stage."""
        stages: list[LossConfig | StageTwoConfig] = [self]
        stages += [] if self.stage_two is None else [self.stage_two]
        return any(stage.forces or stage.stress for stage in stages)


class TrainConfig(Section):
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
    compile : sums over neighbours by compiled code where there is any: nequip and mace, on a CPU,
        with a C compiler; the numbers are those of torch but for rounding
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
    compile: bool = True
    deterministic: bool = False
    max_minutes: Positive | None = None
    save_minutes: Positive = 10.0
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()

    @model_validator(mode="after")
    def _has_settings_for_its_schedule(self) -> TrainConfig:
        if self.schedule != "plateau":
            idle = ("plateau_factor", "plateau_epochs")
            refuse_idle(self, idle, f"schedule: {self.schedule}")
        if self.schedule == "constant":
            refuse_idle(self, ("final_lr",), "schedule: constant")
        return self
