"""Sections on what is trained: the network, what stands around it, or a property."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .base import Section, refuse_idle


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


class PriorConfig(Section):
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
            refuse_idle(self, ("fit_by",), "references that are not fitted")
        return self


class PropertyConfig(Section):
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


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
