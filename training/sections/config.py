"""The whole of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from .base import Section, refuse_idle
from .data import DataConfig, FilterConfig, SelectionConfig, SplitConfig
from .finetune import FinetuneConfig
from .model import ModelConfig, PriorConfig, PropertyConfig
from .optimisation import LossConfig, TrainConfig


class Config(Section):
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
            refuse_idle(self.loss, ("delta_property",), "energies, forces and stress")
        return self

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as YAML and JSON can hold it."""
        return self.model_dump(mode="json", by_alias=True)
