"""Everything a run needs before its first step: data, split, model, optimiser."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d.atoms import symbols
from mlff2d.compiled import train_compiled
from mlff2d.devices import pick_device
from mlff2d.models import REGISTRY, build_model
from mlff2d.models.base import EnergyModel
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor

from .config import ConfigError
from .data.batches import pack
from .data.choice import split_data
from .data.convert import open_sources
from .data.dataset import Dataset
from .data.filters import Removed
from .data.references import References, elements_of, find_references, fit_references, fit_scale
from .data.splits import Split
from .data.store import ConversionSummary
from .data.suspects import trusted_frames
from .distributed import main_first, own_device
from .finetuning.adapters import add_adapters
from .finetuning.replay import Replay, join_replay
from .finetuning.start import Anchor, Shift, Start, apply_shift, load_start
from .groups import freeze, parameter_groups
from .memory import MemoryUse, batch_limit, heaviest
from .optim import Optimizer, WeightMean, build_optimizer
from .precision import check_precision, set_precision
from .sections import Config, FinetuneConfig
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
    replay, anchor : old frames among the new, and what keeps the weights near the start
    references : where the reference energies of a new potential come from; None for others
    memory : what a batch keeps for its backward pass, where `train.batch_memory` asks for it
    trusted, doubts : structures of the training part without a doubtful label, and sentences on the
        others
    batch_edges : most edges in a batch, with regard to `train.batch_memory`
    epoch, step : epochs done, and steps done in the present one
    loss_sum : of the steps done in the present epoch
    stage : 1, or 2 once `loss.stage_two` holds
    best, best_epoch : lowest validation loss so far, with the weights of the present stage, and its
        epoch
    stale, plateau_stale : epochs since it was found, or since the stage began; the same since the
        learning rate was last lowered, if that was later
    plateaus : how often it was lowered
    recent : losses of the last hundred steps of the present stage
    left_out : structures of the training part on whose batch the run had stopped
    seconds, frames : spent and trained on so far, over all sittings
    """

    config: Config
    data: Dataset
    split: Split
    conversion: ConversionSummary
    removed: list[Removed]
    module: Trained
    task: Task
    ema: WeightMean[Trained]
    optimizer: Optimizer
    memory: MemoryUse | None
    batch_edges: int
    trusted: NDArray[np.int64]
    doubts: tuple[str, ...] = ()
    start: Start | None = None
    shift: Shift | None = None
    replay: Replay | None = None
    anchor: Anchor | None = None
    references: References | None = None
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    stage: int = 1
    best: float = float("inf")
    best_epoch: int = -1
    stale: int = 0
    plateau_stale: int = 0
    plateaus: int = 0
    recent: list[float] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    seconds: float = 0.0
    frames: int = 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def averaged(self) -> Trained:
        """The same with the mean of the weights."""
        return self.ema.module

    def move_references(self, shift: Shift) -> None:
        """Move the reference energies of what is trained and of what it started from."""
        assert self.start is not None
        for module in (self.module, self.averaged, self.start.module):
            assert isinstance(module, Potential)
            apply_shift(module, shift.energies)
        if self.replay is not None and self.replay.teacher is None:
            self.data.shift_energies(self.replay.sources, shift.energies)
        self.shift = shift

    def epoch_ids(self) -> NDArray[np.int64]:
        """Structures of the present epoch: the training part, and what is replayed with it."""
        if self.replay is None:
            return self.split.train
        drawn = self.replay.drawn(len(self.split.train), self.config.seed, self.epoch)
        return np.concatenate([self.split.train, drawn])

    def fixed_batches(self, ids: NDArray[np.int64]) -> list[list[int]]:
        """Batches for an evaluation, structures of similar size together."""
        order = ids[np.argsort(self.data.n_edges[ids], kind="stable")]
        return pack(order, self.data.n_edges, 4 * self.config.train.batch_size, self.batch_edges)


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
    check_precision(train, like, device)

    data_config = config.data
    target = None if config.property is None else config.property.key
    with main_first():
        paths, conversion = open_sources(
            data_config.files, config.run_dir.parent, data_config.material_key, like.state, target
        )
        data = Dataset(paths, like.cutoff, data_config.in_memory, data_config.workers)
    split, removed = split_data(config, data)
    trusted, doubts = trusted_frames(data, split.train)
    replay = None
    if start is not None and config.finetune is not None and config.finetune.replay is not None:
        with main_first():
            data, replay = join_replay(config, start, paths, data, split)

    torch.manual_seed(config.seed)
    module, task, references = _module_and_task(config, data, split, trusted, start)
    module = module.to(device=device, dtype=dtype).train()
    anchor = None if config.finetune is None else _prepare_finetuning(module, config.finetune)
    if train.compile and device.type == "cpu" and not train.bf16:
        train_compiled(module.model, dtype)
    groups = parameter_groups(module, train, config.finetune)
    ema = WeightMean(module, train.ema)
    set_precision(train, module.model)  # of what is trained; its mean is judged as it is used
    learnt = split.train if replay is None else np.concatenate([split.train, replay.ids])
    memory, batch_edges = batch_limit(train, heaviest(task, config.loss), module, data, learnt)
    return Run(
        config=config,
        data=data,
        split=split,
        conversion=conversion,
        removed=removed,
        module=module,
        task=task,
        ema=ema,
        optimizer=build_optimizer(groups, train),
        memory=memory,
        batch_edges=batch_edges,
        trusted=trusted,
        doubts=doubts,
        start=start,
        replay=replay,
        anchor=anchor,
        references=references,
    )


def _module_and_task(
    config: Config,
    data: Dataset,
    split: Split,
    trusted: NDArray[np.int64],
    start: Start | None,
) -> tuple[Trained, Task, References | None]:
    """What is trained, what it learns, and the reference energies where they were found anew."""
    model = _build(config, data_settings(data, split.train)) if start is None else _copy(start)
    refuse_elements(
        model.config.elements if start is None else start.module.elements,
        elements_of(data, split.train),
        start,
    )
    if config.property is not None:
        of_property = PropertyTask(data, config.loss, config.property)
        shifts, scale = of_property.fit(split.train)
        names = {"name": config.property.key, "unit": config.property.unit}
        predictor = PropertyPredictor(model, shifts, scale, config.property.pooling, **names)
        return predictor, of_property, None
    if start is not None:
        alone = fit_references(data, trusted, by=config.priors.fit_by)
        return _started_potential(model, start), PotentialTask(data, config.loss, alone), None
    references = find_references(data, trusted, config.priors)
    scale = fit_scale(data, trusted, references.energies)
    potential = Potential(model, references.energies, scale, config.priors.zbl)
    return potential, PotentialTask(data, config.loss), references


def _prepare_finetuning(module: Trained, finetune: FinetuneConfig) -> Anchor | None:
    """Freeze and adapt what shall be; what keeps the weights near the start, if anything does."""
    freeze(module, finetune)
    if finetune.adapters is not None:
        add_adapters(module, finetune.adapters)
    return Anchor(module, finetune.l2_start) if finetune.l2_start else None


def _set_up_torch(config: Config) -> torch.device:
    train = config.train
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    try:
        device = own_device(pick_device(train.device))
    except ValueError as error:
        raise ConfigError(f"train.device: {error}.") from error
    if train.deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return device


def _copy(start: Start) -> EnergyModel:
    """The network of a start, to be trained; the start itself stays as it is."""
    return deepcopy(start.module.model).requires_grad_(True)


def _started_potential(model: EnergyModel, start: Start) -> Potential:
    """The potential around the network of a start; all but the reference energies are final."""
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
        "stage_one": run_dir / "stage-one.pt",
        "metrics": run_dir / "metrics.json",
        "bad_batch": run_dir / "bad_batch.pt",
    }
