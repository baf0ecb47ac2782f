"""The section on fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .base import Count, NotNegative, Positive, Section


class AdapterConfig(Section):
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


class ReplayConfig(Section):
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


class FinetuneConfig(Section):
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
    lr: dict[str, NotNegative] = Field(default_factory=dict)
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    adapters: AdapterConfig | None = None
    l2_start: NotNegative = 0.0
    replay: ReplayConfig | None = None
    old: tuple[Path, ...] = ()
    scratch: bool = True
    scratch_lr: Positive = 3e-3
