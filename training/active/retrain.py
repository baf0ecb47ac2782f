"""The models that a round ends with: members of a committee, each trained in its own folder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mlff2d import checkpoint

from ..config import ConfigError
from ..console import make_console
from ..data.choice import split_data
from ..data.dataset import Dataset
from ..loop import train
from ..sections import Config
from ..setup import run_files
from .config import ActiveConfig, training_config
from .round_folder import RoundFolder

_DRAWS = 100
_FEWEST = 4


def retrain(
    config: ActiveConfig,
    folder: RoundFolder,
    starts: Sequence[str],
    files: Sequence[Path],
    console: Console | None = None,
) -> int | None:
    """Train all members on some labelled files; the signal that interrupted it, else None.

    Those that are trained are not trained again. Raises ConfigError for too few frames, and as
    `train` does.
    """
    console = console or make_console()
    for member in range(config.committee.members):
        settings = member_config(config, folder, starts, files, member)
        done = run_files(settings.run_dir)["metrics"]
        if not done.exists():
            outcome = train(settings, Console(quiet=True))
            if outcome.stopped:
                console.print(f"Member {member}: {outcome.stopped}.")
                return outcome.signal or 0
        loss = json.loads(done.read_text())["val"]["loss"]
        console.print(f"Member {member} of {config.committee.members}: validation loss {loss:.4f}")
    return None


def member_config(
    config: ActiveConfig,
    folder: RoundFolder,
    starts: Sequence[str],
    files: Sequence[Path],
    member: int,
) -> Config:
    """The training of one member: its own seed, and other frames to validate on than the others.

    Raises ConfigError where there are too few frames.
    """
    start = starts[member % len(starts)]
    draft = training_config(config, start, list(files), folder.member(member), member)
    data = Dataset(list(files), checkpoint.load(start).cutoff)
    if len(data) < _FEWEST:
        raise ConfigError(
            f"there are {len(data)} labelled frames, and training needs {_FEWEST}; raise pick.n, "
            "or give frames in data."
        )
    changes: dict[str, dict[str, object]] = {}
    if "seed" not in config.training.get("split", {}):
        changes["split"] = {"seed": _split_seed(draft, data, config, member)}
    if "epochs" not in config.training.get("train", {}):
        n_train = round(len(data) * (1 - draft.split.val - draft.split.test))
        per_epoch = math.ceil(max(n_train, 1) / draft.train.batch_size)
        changes["train"] = {"epochs": max(1, round(config.committee.steps / per_epoch))}
    return training_config(
        config, start, list(files), folder.member(member), member, changes=changes
    )


def _split_seed(draft: Config, data: Dataset, config: ActiveConfig, member: int) -> int:
    """The first seed of this member's with which the validation part is about as large as asked.

    Frames are drawn one by one, so that of few the part may be empty by chance.
    """
    wanted = draft.split.val * len(data)
    best, least = member, math.inf
    for draw in range(_DRAWS):
        seed = config.seed + member + draw * config.committee.members
        split = draft.split.model_copy(update={"seed": seed})
        try:
            found, _ = split_data(draft.model_copy(update={"split": split}), data)
        except ConfigError:  # a part is empty
            continue
        distance = abs(len(found.val) - wanted)
        if distance < least:
            best, least = seed, distance
        if distance <= 0.25 * wanted:
            break
    return best
