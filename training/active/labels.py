"""The frames of a round labelled, as `mlff2d label` does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rich.console import Console

from ..config import ConfigError
from ..labelling import run_folder
from ..labelling.calculators import check_available
from ..labelling.compute import FailedAlike
from ..labelling.description import settings_of
from ..labelling.label import label_structures
from ..labelling.settings import LabelSettings, Options
from .config import LabelConfig

UNFINISHED = "labelling.h5"
"""Beside what is to be labelled: what is interrupted leaves what it has."""


def has_begun(run_dir: Path) -> bool:
    """Whether there are labels in any round, or may be."""
    names = ("labelled.h5", run_folder.folder_of(Path(UNFINISHED)).name)
    return any(True for name in names for _ in run_dir.glob(f"round-*/{name}"))


def require_calculator(config: LabelConfig) -> None:
    """Raise ConfigError where what labels is not there, before anything is explored for it."""
    try:
        settings = settings_of(config.calculator)
        if isinstance(settings, LabelSettings):
            check_available(settings)
        else:
            settings.resolved()
    except (ValueError, OSError) as error:
        raise ConfigError(f"label.calculator: {error}") from error


def label(
    picked: Path, output: Path, config: LabelConfig, material_key: str, console: Console
) -> int | None:
    """Label all frames of a file; the signal that interrupted it, else None.

    What is done is not done again; a frame that fails is passed over. `output` appears when all
    are done. Raises ConfigError where every one of them failed, and as `label_structures` does.
    """
    unfinished = output.with_name(UNFINISHED)
    options = Options(workers=config.workers, timeout=config.timeout, material_key=material_key)
    try:
        outcome = label_structures([picked], unfinished, settings_of(config.calculator), options)
    except FailedAlike as error:
        raise _none_labelled(picked, unfinished, config, error.reason) from error
    if outcome.signal is not None:
        return outcome.signal
    for reason, n in outcome.failures.items():
        console.print(f"  not labelled: {n}, {reason}", soft_wrap=True)
    if not outcome.frames:
        raise _none_labelled(picked, unfinished, config, next(iter(outcome.failures), ""))
    os.replace(unfinished, output)
    console.print(f"{outcome.frames} frames labelled in {outcome.cpu_s:.0f} CPU s")
    return None


def _none_labelled(picked: Path, unfinished: Path, config: LabelConfig, reason: str) -> ConfigError:
    """What to say then; the next call begins anew, and what the calculator wrote can be read."""
    folder = run_folder.folder_of(unfinished)
    failed = folder.with_suffix(".failed")
    shutil.rmtree(failed, ignore_errors=True)
    folder.rename(failed)
    return ConfigError(
        f"none of the frames of {picked} could be labelled ({reason}); see {failed}, mend "
        f"{config.calculator} and give the same command again."
    )
