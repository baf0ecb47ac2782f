"""Labels for many structures: computed, kept in a journal, composed into one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlff2d.sources import Sources

from ..lock import locked
from . import run_folder
from .calculators import check_available
from .compose import Outcome, compose, refuse_kind
from .compute import by_model, by_workers
from .journal import Journal
from .potential import ModelSettings
from .settings import DEFAULTS, LabelSettings, Options, resolved
from .worker import Relaxer


def label_structures(
    paths: Sequence[Path | str],
    output: Path,
    settings: LabelSettings | ModelSettings,
    options: Options = DEFAULTS,
    relaxer: Relaxer | None = None,
) -> Outcome:
    """Label the structures of files and folders, and write them with their labels to one file.

    The same call goes on where an earlier one ended, however it did; the list may have grown.
    `relaxer` is what relaxes where steps are asked for. Structures that fail are passed over and
    named in `failed.csv` of the folder of the run.

    Raises ConfigError and ValueError (one sentence) for what cannot be begun: a calculator that is
    missing, another run's output, other settings than it was begun with; OSError where there is no
    room.
    """
    output = Path(output)
    refuse_kind(output)
    if isinstance(settings, LabelSettings):
        if options.steps and relaxer is None:
            raise ValueError("steps need something that relaxes; mlff2d label has it")
        check_available(settings)
    elif options.steps:
        raise ValueError(
            "a model relaxes with mlff2d relax; to keep every step as a frame, label with a YAML "
            "file that says calculator: mlff2d.calculator:MLFF2DCalculator"
        )
    folder = run_folder.folder_of(output)
    sources = Sources(paths, leave_out=[output, folder])
    with locked(folder):
        run_folder.claim(folder, output, _identity(settings, options), options.restart)
        with Journal(folder / "journal.jsonl") as journal:
            if isinstance(settings, ModelSettings):
                stopped = by_model(sources, journal, settings, options)
            else:
                stopped = by_workers(sources, journal, folder, settings, options, relaxer)
            outcome = compose(sources, journal, folder, output, options.material_key)
    outcome.signal = stopped
    return outcome


def _identity(settings: LabelSettings | ModelSettings, options: Options) -> dict[str, Any]:
    if isinstance(settings, ModelSettings):
        return settings.resolved()
    return resolved(settings) | ({"relaxation": options.relaxation()} if options.steps else {})
