"""Everything a run needs before its first step: data, split, potential, optimiser."""

from __future__ import annotations

import os
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

from .batches import pack
from .config import Config, ConfigError
from .convert import ConversionSummary, convert_cached
from .dataset import Dataset
from .filters import Removed, apply_filters
from .optim import build_ema, build_optimizer
from .references import elements_of, fit_references, fit_scale
from .splits import PARTS, Split, split_by_material


@dataclass
class Run:
    """A training run in progress: what is fixed, and how far it is.

    Attributes
    ----------
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
    potential: Potential
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: float = float("inf")
    best_epoch: int = -1
    seconds: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.potential.parameters()).device

    @property
    def averaged(self) -> Potential:
        """The potential with the running mean of the weights."""
        module: Potential = self.ema.module  # type: ignore[assignment]
        return module

    def fixed_batches(self, ids: NDArray[np.int64]) -> list[list[int]]:
        """Batches for an evaluation, structures of similar size together."""
        order = ids[np.argsort(self.data.n_edges[ids], kind="stable")]
        train = self.config.train
        return pack(order, self.data.n_edges, 4 * train.batch_size, train.batch_edges)


def prepare(config: Config) -> Run:
    """Read the data, split it, and build potential and optimiser.

    Raises StructureError for unusable data, ConfigError or ValueError for a setting that does not
    fit them.
    """
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
    cutoff = _build(config, {}).cutoff

    path, conversion = convert_cached(
        config.data.files, config.run_dir.parent, config.data.material_key
    )
    data = Dataset(path, cutoff, config.data.in_memory)
    split, removed = split_data(config, data)

    references = fit_references(data, split.train)
    torch.manual_seed(config.seed)
    model = _build(config, data_settings(data, split.train))
    refuse_elements(model.config.elements, references)
    scale = fit_scale(data, split.train, references)
    potential = Potential(model, references, scale=scale, zbl=config.priors.zbl)
    potential = potential.to(device=device, dtype=getattr(torch, train.dtype)).train()
    return Run(
        config=config,
        data=data,
        split=split,
        conversion=conversion,
        removed=removed,
        potential=potential,
        ema=build_ema(potential, train.ema),
        optimizer=build_optimizer(potential, train),
    )


def data_settings(data: Dataset, ids: NDArray[np.int64]) -> dict[str, Any]:
    """Settings of a model that follow from the training part, unless its config gives them."""
    return {
        "elements": elements_of(data, ids),
        "avg_neighbors": float(max(data.n_edges[ids].sum() / data.n_atoms[ids].sum(), 1.0)),
    }


def _build(config: Config, derived: dict[str, Any]) -> EnergyModel:
    """The model, with those of the derived settings that it has and that are not given."""
    name, given = config.model.name, config.model.settings()
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


def refuse_elements(configured: tuple[int, ...], references: dict[int, float]) -> None:
    """Raise ConfigError where training data hold an element that the model shall not have."""
    extra = sorted(set(references) - set(configured))
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
