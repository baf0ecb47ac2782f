"""Everything a run needs before its first step: data, split, model, optimiser."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel

from mlff2d.atoms import symbols
from mlff2d.devices import pick_device
from mlff2d.models import REGISTRY, build_model
from mlff2d.models.base import EnergyModel
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor

from .config import Config, ConfigError
from .data.batches import pack
from .data.convert import ConversionSummary, convert_cached
from .data.dataset import Dataset
from .data.filters import Removed, apply_filters
from .data.references import elements_of, fit_references, fit_scale
from .data.splits import PARTS, Split, split_by_material
from .finetune import Shift, Start, apply_shift, load_start
from .optim import build_ema, build_optimizer
from .tasks import PotentialTask, PropertyTask, Task, Trained


@dataclass
class Run:
    """A training run in progress: what is fixed, and how far it is.

    Attributes
    ----------
    module : what is trained
    task : what it learns
    start, shift : the model that training started from, and how its reference energies were moved;
        None where it started from random weights
    epoch, step : epochs done, and steps done in the present one
    loss_sum : of the steps done in the present epoch
    best, best_epoch : lowest validation loss so far and its epoch
    seconds : spent in training so far, over all sittings
    """

    config: Config
    data: Dataset
    split: Split
    conversion: ConversionSummary
    removed: list[Removed]
    module: Trained
    task: Task
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    start: Start | None = None
    shift: Shift | None = None
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: float = float("inf")
    best_epoch: int = -1
    seconds: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def averaged(self) -> Trained:
        """The same with the running mean of the weights."""
        module: Trained = self.ema.module  # type: ignore[assignment]
        return module

    def move_references(self, shift: Shift) -> None:
        """Move the reference energies of what is trained and of what it started from."""
        assert self.start is not None
        for module in (self.module, self.averaged, self.start.module):
            assert isinstance(module, Potential)
            apply_shift(module, shift.energies)
        self.shift = shift

    def fixed_batches(self, ids: NDArray[np.int64]) -> list[list[int]]:
        """Batches for an evaluation, structures of similar size together."""
        order = ids[np.argsort(self.data.n_edges[ids], kind="stable")]
        train = self.config.train
        return pack(order, self.data.n_edges, 4 * train.batch_size, train.batch_edges)


def prepare(config: Config) -> Run:
    """Read the data, split it, and build model and optimiser.

    Raises StructureError for unusable data, ModelFileError for a start that is no model,
    ConfigError or ValueError for a setting that does not fit them.
    """
    train = config.train
    device = _set_up_torch(config)
    dtype = getattr(torch, train.dtype)
    start = None
    if config.model.start is not None:
        start = load_start(config.model.start, device, dtype)
    like = _build(config, {}) if start is None else start.module.model

    data_config = config.data
    target = None if config.property is None else config.property.key
    path, conversion = convert_cached(
        data_config.files, config.run_dir.parent, data_config.material_key, like.state, target
    )
    data = Dataset(path, like.cutoff, data_config.in_memory)
    split, removed = split_data(config, data)

    torch.manual_seed(config.seed)
    model = _build(config, data_settings(data, split.train)) if start is None else _copy(start)
    refuse_elements(
        model.config.elements if start is None else start.module.elements,
        elements_of(data, split.train),
        start,
    )
    task: Task
    module: Trained
    if config.property is not None:
        task = PropertyTask(data, config.loss, config.property)
        shifts, scale = task.fit(split.train)
        names = {"name": config.property.key, "unit": config.property.unit}
        module = PropertyPredictor(model, shifts, scale, config.property.pooling, **names)
    else:
        task = PotentialTask(data, config.loss)
        module = _potential(config, data, split, model, start)
    module = module.to(device=device, dtype=dtype).train()
    return Run(
        config=config,
        data=data,
        split=split,
        conversion=conversion,
        removed=removed,
        module=module,
        task=task,
        ema=build_ema(module, train.ema),
        optimizer=build_optimizer(module, train),
        start=start,
    )


def _set_up_torch(config: Config) -> torch.device:
    train = config.train
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    try:
        device = pick_device(train.device)
    except ValueError as error:
        raise ConfigError(f"train.device: {error}.") from error
    if train.deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return device


def _copy(start: Start) -> EnergyModel:
    """The network of a start, to be trained; the start itself stays as it is."""
    return deepcopy(start.module.model).requires_grad_(True)


def _potential(
    config: Config, data: Dataset, split: Split, model: EnergyModel, start: Start | None
) -> Potential:
    """The potential around a model; from a start all but the reference energies are final."""
    if start is None:
        references = fit_references(data, split.train)
        scale = fit_scale(data, split.train, references)
        return Potential(model, references, scale, config.priors.zbl)
    if not isinstance(start.module, Potential):
        raise ConfigError(f"model.from: {start.name} is no potential; add the section property.")
    references = start.module.references.as_dict()
    return Potential(model, references, start.module.scale, start.module.zbl is not None)


def data_settings(data: Dataset, ids: NDArray[np.int64]) -> dict[str, Any]:
    """Settings of a model that follow from the training part, unless its config gives them."""
    return {
        "elements": elements_of(data, ids),
        "avg_neighbors": float(max(data.n_edges[ids].sum() / data.n_atoms[ids].sum(), 1.0)),
    }


def _build(config: Config, derived: dict[str, Any]) -> EnergyModel:
    """The model, with those of the derived settings that it has and that are not given."""
    name, given = str(config.model.name), config.model.settings()
    fields = REGISTRY[name].Config.__dataclass_fields__ if name in REGISTRY else {}
    derived = {key: value for key, value in derived.items() if key in fields}
    try:
        return build_model(name, derived | given)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model: {error}") from error


def split_data(config: Config, data: Dataset) -> tuple[Split, list[Removed]]:
    """Filter and split; structures outside training with elements not in it are left out.

    Raises ConfigError where a part that is needed is empty.
    """
    ids, removed = apply_filters(data, config.filters)
    split = split_by_material(
        data.material, config.split.seed, config.split.val, config.split.test, ids
    )
    known = set(elements_of(data, split.train)) if len(split.train) else set()
    parts = {"train": split.train}
    for name in PARTS[1:]:
        part: NDArray[np.int64] = getattr(split, name)
        fits = [set(np.unique(data.atoms_of("z", [s])).tolist()) <= known for s in part]
        parts[name] = part[np.array(fits, dtype=bool)]
        removed.append(Removed(f"{name} with an element not in training", fits.count(False)))
    for name in PARTS[:2]:
        if len(parts[name]) == 0:
            n_materials = len({data.material[s] for s in ids})
            raise ConfigError(
                f"the {name} part is empty ({len(ids)} frames of {n_materials} materials passed "
                "the filters); change split.val, split.test, split.seed or the filters. A material "
                "is never split: with few compounds, let data.material_key name an entry of info "
                "that tells groups of frames apart, such as a configuration or a run."
            )
    return Split(**parts), removed


def refuse_elements(known: tuple[int, ...], present: tuple[int, ...], start: Start | None) -> None:
    """Raise ConfigError where training data hold an element that the model shall not have."""
    extra = sorted(set(present) - set(known))
    if extra and start is not None:
        raise ConfigError(
            f"{start.name}, which training starts from, does not know {symbols(extra)}, which the "
            "training data hold; leave those structures out, or start from another model."
        )
    if extra:
        raise ConfigError(
            f"model.elements lacks {symbols(extra)}, which the training data hold; add them or "
            "leave model.elements out."
        )


def run_files(run_dir: Path) -> dict[str, Path]:
    """The files of a run by what they hold."""
    return {
        "config": run_dir / "config.yaml",
        "state": run_dir / "state.pt",
        "log": run_dir / "log.jsonl",
        "best": run_dir / "best.pt",
        "last": run_dir / "last.pt",
        "metrics": run_dir / "metrics.json",
        "bad_batch": run_dir / "bad_batch.pt",
    }
