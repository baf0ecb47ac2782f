"""Old frames among the new ones of a fine-tuning, so that what a model had learnt is not forgotten.

Axes: N atoms, S structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d.graph import Graph, Labels, collate
from mlff2d.graph import split as split_graph
from mlff2d.potential import Potential

from ..config import ConfigError
from ..data.batches import pack
from ..data.compositions import made_only_of
from ..data.convert import open_sources
from ..data.dataset import Dataset
from ..data.filters import apply_filters
from ..data.splits import PARTS, Split, split
from ..lineage import has_names_of, material_key_for, split_again, training_on
from ..sections import Config, SplitConfig
from .start import Start

_MOST_JUDGED = 500
"""Frames of held-out old data that a report judges forgetting on."""


@dataclass(frozen=True)
class Old:
    """Original data of a start, split as they were when it was trained.

    Attributes
    ----------
    paths : HDF5 files
    data : what is in them
    split : without structures that the start cannot work on
    is_known : whether the split is that of the start's training, or had to be drawn anew
    """

    paths: list[Path]
    data: Dataset
    split: Split
    is_known: bool

    @property
    def note(self) -> str:
        """A sentence on where the split comes from."""
        if self.is_known:
            return "They are split as they were when the start was trained."
        return "The file of the start does not tell their split; they are split anew by material."


@dataclass(frozen=True)
class Replay:
    """Old frames to draw from.

    Attributes
    ----------
    ids : of the structures in the data of the run
    sources : numbers of their sources there
    share : of the frames of an epoch
    teacher : what gives their labels; None for those in the files
    note : a sentence on which they are
    """

    ids: NDArray[np.int64]
    sources: tuple[int, ...]
    share: float
    teacher: Potential | None
    note: str

    def drawn(self, n_new: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """The old frames of an epoch that has so many new ones; by seed and epoch alone."""
        wanted = round(n_new * self.share / (1 - self.share))
        random = np.random.default_rng([seed, epoch, 1])
        return random.choice(self.ids, min(max(wanted, 1), len(self.ids)), replace=False)

    def relabelled(self, graph: Graph, labels: Labels, ids: Sequence[int]) -> Labels:
        """The labels of a batch, those of old structures by the teacher where there is one."""
        old = np.flatnonzero(np.isin(ids, self.ids))
        if self.teacher is None or len(old) == 0:
            return labels
        parts = split_graph(graph)
        prediction = self.teacher(collate([parts[s] for s in old]), create_graph=False)
        assert prediction.forces is not None
        assert prediction.virial is not None
        energy, forces, virial = labels.energy.clone(), labels.forces.clone(), labels.virial.clone()
        is_old = torch.zeros(graph.n_structures, dtype=torch.bool, device=graph.pos.device)
        is_old[old] = True
        energy[is_old] = prediction.energy.detach().to(energy.dtype)
        forces[is_old[graph.batch]] = prediction.forces.detach().to(forces.dtype)
        virial[is_old] = prediction.virial.detach().to(virial.dtype)
        return Labels(energy=energy, forces=forces, virial=virial)


def join_replay(
    config: Config, start: Start, paths: Sequence[Path], new: Dataset, parts: Split
) -> tuple[Dataset, Replay]:
    """The data of a run with the original data behind them, and what may be drawn of those.

    Parts of the original data that the start was not trained on are never drawn, nor structures
    that the new data hold out. Raises ConfigError where nothing is left to draw.
    """
    assert config.finetune is not None
    assert config.finetune.replay is not None
    replay = config.finetune.replay
    if not isinstance(start.module, Potential):
        raise ConfigError(f"finetune.replay: {start.name} is no potential; leave it out.")
    by_start = replay.labels == "start"
    old = open_old(replay.files, config, start, labels=not by_start)
    judged = new.fingerprint[np.concatenate([parts.val, parts.test])]
    usable = old.split.train[~np.isin(old.data.fingerprint[old.split.train], judged)]
    if len(usable) == 0:
        raise ConfigError(f"finetune.replay.files: no frame is left to be drawn. {old.note}")
    settings = config.data
    joined = Dataset([*paths, *old.paths], new.cutoff, settings.in_memory, settings.workers)
    ids = len(new) + usable
    kept = sum(len(getattr(old.split, part)) for part in ("val", "test"))
    note = (
        f"Replay: {replay.share:.0%} of the frames of an epoch are drawn from {len(ids)} old ones "
        f"with the labels of {'the start' if by_start else 'their files'}; {kept} stay held out"
        f"{_of_new_data(len(old.split.train) - len(usable))}. {old.note}"
    )
    sources = tuple(range(len(new.sources), len(joined.sources)))
    teacher = start.module if by_start else None
    return joined, Replay(ids, sources, replay.share, teacher, note)


def _of_new_data(count: int) -> str:
    return f", and {count} that validation or test of the new data hold" if count else ""


def open_old(files: Sequence[Path], config: Config, start: Start, labels: bool = True) -> Old:
    """Original data of a start, filtered and split as its own file says they were.

    Where its file does not say, the filters are those of the config and the split is the default.
    """
    assert isinstance(start.module, Potential)
    key = material_key_for(files, start.training, config.data.material_key)
    state = start.module.model.state
    paths, _ = open_sources(files, config.run_dir.parent, key, state, labels=labels)
    data = Dataset(paths, start.module.cutoff, config.data.in_memory, config.data.workers)
    record = training_on(data, start.training)
    if record is None or not has_names_of(record, key):
        record = None
        ids, _ = apply_filters(data, config.filters)
        parts = split(data, SplitConfig(), ids)
    else:
        parts = split_again(data, record)
    kept = {}
    for name in PARTS:
        ids = getattr(parts, name)
        kept[name] = ids[made_only_of(data, ids, start.module.elements)]
    return Old(paths, data, replace(parts, **kept), record is not None)


def held_out(files: Sequence[Path], config: Config, start: Start) -> tuple[Old, list[list[int]]]:
    """Batches of old frames that the start was not trained on, a sample of them where many.

    Where the split is not known all frames are, but for those that replay may draw.
    """
    old = open_old(files, config, start)
    ids = np.union1d(old.split.val, old.split.test)
    if not old.is_known:
        ids = np.union1d(ids, old.split.train)
    replay = None if config.finetune is None else config.finetune.replay
    if replay is not None:
        drawn = open_old(replay.files, config, start, labels=replay.labels == "files")
        replayed = drawn.data.fingerprint[drawn.split.train]
        ids = ids[~np.isin(old.data.fingerprint[ids], replayed)]
    if len(ids) == 0:
        raise ConfigError(f"finetune.old: no frame is held out. {old.note}")
    if len(ids) > _MOST_JUDGED:
        ids = np.sort(np.random.default_rng(config.seed).choice(ids, _MOST_JUDGED, replace=False))
    train = config.train
    return old, pack(ids, old.data.n_edges, train.batch_size, train.batch_edges)
