"""Fine-tuning from beginning to end: the run, the same from random weights, and what came out.

The report stands on four figures: the start with its reference energies moved, the fine-tuned
model, the same architecture from random weights in the same budget, and the composition alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mlff2d import checkpoint
from mlff2d.files import write_text
from mlff2d.models import model_config, model_name
from mlff2d.potential import Potential

from ..config import ConfigError
from ..console import make_console
from ..data.convert import open_sources
from ..distributed import is_main, main_first, processes, wait
from ..loop import Outcome, train
from ..metrics import Metrics
from ..report import figure_of
from ..sections import Config, FinetuneConfig
from ..setup import Run, prepare, run_files
from ..state import restore_state
from ..tasks import Column
from .forgetting import Forgetting, forgetting

START, TUNED, SCRATCH, BASELINE = "start", "fine-tuned", "from scratch", "baseline"
PARTS = ("val", "test")


@dataclass(frozen=True)
class Report:
    """What a fine-tuning brought.

    Attributes
    ----------
    columns : the figures to show
    errors : by part of the new data ('val', 'test') and model
    forgetting : None for a property
    verdict : sentences
    """

    columns: tuple[Column, ...]
    errors: dict[str, dict[str, Metrics]]
    forgetting: Forgetting | None
    verdict: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Primitives."""
        return {
            "verdict": self.verdict,
            "errors": {
                part: {model: metrics.as_dict() for model, metrics in rows.items()}
                for part, rows in self.errors.items()
            },
            "forgetting": None if self.forgetting is None else self.forgetting.as_dict(),
        }


def fine_tune(
    config: Config, console: Console | None = None, skip_bad_batch: bool = False
) -> Outcome:
    """Train as a config says, then compare and report.

    The report is printed and written to finetune.json in `run_dir`. Stopped, it goes on where it
    was when called again. Raises as `train` does, and ConfigError without the section finetune.
    """
    if config.finetune is None:
        raise ConfigError(
            "the config has no section finetune; give it one, `finetune: {}` at least."
        )
    with processes():
        console = console if console is not None and is_main() else make_console()
        outcome = train(config, console, skip_bad_batch)
        wait()  # for the main process, which writes what is read below
        scratch = None
        if config.finetune.scratch and not outcome.stopped:
            console.print("\nFrom scratch in the same budget, to compare:")
            scratch = scratch_config(config)
            outcome = replace(train(scratch, console), best_model=outcome.best_model)
            wait()
        if not outcome.stopped:
            report = make_report(config, scratch)
            print_report(report, config, console)
            path = config.run_dir / "finetune.json"
            if is_main():
                write_text(json.dumps(report.as_dict(), indent=2) + "\n", path)
            console.print(f"Report: {path}")
    return outcome


def scratch_config(config: Config) -> Config:
    """The same run from random weights, with as many frames seen as the fine-tuning has seen."""
    files = run_files(config.run_dir)
    state = torch.load(files["state"], map_location="cpu", weights_only=True)
    n_train = checkpoint.read(files["best"])["training"]["frames"]["train"]
    return from_scratch(
        config, config.run_dir / "scratch", max(round(state["frames"] / n_train), 1)
    )


def from_scratch(config: Config, run_dir: Path, epochs: int) -> Config:
    """A run of the architecture of a start from random weights on the same data.

    Elements and neighbours are those of the data, as any new model has them.
    """
    start = checkpoint.load_any(config.model.start)
    settings = model_config(start.model)
    for key in ("elements", "avg_neighbors"):
        settings.pop(key, None)
    finetune = config.finetune or FinetuneConfig()
    raw = config.resolved() | {
        "run_dir": run_dir,
        "model": {"name": model_name(start.model)} | settings,
        "finetune": None,
    }
    raw["train"] |= {"lr": finetune.scratch_lr, "early_stop": None}
    change_epochs(raw, epochs)
    raw["data"]["files"] = converted(config)
    return Config.model_validate(raw)


def change_epochs(settings: dict[str, Any], epochs: int) -> None:
    """Let a run have so many epochs, in place; a second stage begins at the same share of them."""
    share = epochs / settings["train"]["epochs"]
    settings["train"]["epochs"] = epochs
    stage = settings["loss"]["stage_two"]
    if stage is not None:
        begins = max(2, round(stage["epoch"] * share))
        settings["loss"]["stage_two"] = stage | {"epoch": begins} if begins <= epochs else None


def converted(config: Config) -> list[Path]:
    """The data of a run as HDF5 files, so that runs in other folders need not convert them anew."""
    target = None if config.property is None else config.property.key
    state = checkpoint.load_any(config.model.start).model.state
    data = config.data
    with main_first():
        paths, _ = open_sources(data.files, config.run_dir.parent, data.material_key, state, target)
    return paths


def make_report(config: Config, scratch: Config | None) -> Report:
    """Judge the finished runs of a fine-tuning."""
    run = prepare(config)
    restore_state(run, run_files(config.run_dir)["state"])
    models = {TUNED: _best(run, config)}
    if run.start is not None and run.shift is not None:
        models = {START: run.start.module} | models
    if scratch is not None:
        models[SCRATCH] = _best(run, scratch)
    errors: dict[str, dict[str, Metrics]] = {}
    for part in PARTS:
        ids = getattr(run.split, part)
        if len(ids):
            batches = run.fixed_batches(ids)
            errors[part] = {name: run.task.evaluate(m, batches) for name, m in models.items()}
            errors[part][BASELINE] = run.task.baselines(models[TUNED], batches)
    tuned = models[TUNED]
    lost = forgetting(run, tuned) if isinstance(tuned, Potential) and START in models else None
    return Report(run.task.columns, errors, lost, verdict(errors["val"], run.best_epoch, config))


def _best(run: Run, config: Config) -> Any:
    return checkpoint.load_any(run_files(config.run_dir)["best"], run.device, run.module.dtype)


_NO_DIFFERENCE = 0.99  # of the loss of the start


def verdict(losses: dict[str, Metrics], best_epoch: int, config: Config) -> list[str]:
    """What the validation part says of start, fine-tuned model and model from scratch."""
    tuned = losses[TUNED].loss
    sentences = []
    if START in losses and best_epoch == 0:
        sentences.append(
            "Fine-tuning did not help: no epoch was better on the validation part than the start "
            "with its reference energies moved, so best.pt is that. Lower train.lr, or give more "
            "frames."
        )
    elif START in losses and tuned > losses[START].loss / _NO_DIFFERENCE:
        sentences.append(
            f"Fine-tuning did harm: the validation loss is {tuned:.4g}, that of the start with its "
            f"reference energies moved {losses[START].loss:.4g}. Lower train.lr or "
            "loss.stage_two.lr, or give more frames."
        )
    elif START in losses and tuned > _NO_DIFFERENCE * losses[START].loss:
        sentences.append(
            f"Fine-tuning made next to no difference: the validation loss is {tuned:.4g}, that of "
            f"the start {losses[START].loss:.4g}. Raise train.lr, or give more frames or epochs."
        )
    elif START in losses:
        sentences.append(
            f"Fine-tuning helped: the validation loss fell from {losses[START].loss:.4g} of the "
            f"start to {tuned:.4g}, {_share(tuned, losses[START].loss)}."
        )
    if SCRATCH in losses and losses[SCRATCH].loss < tuned:
        sentences.append(
            f"Training from scratch was better in the same budget ({losses[SCRATCH].loss:.4g}): "
            f"take {run_files(config.run_dir / 'scratch')['best']}, or fine-tune with a larger "
            "train.lr, more epochs, or less that is frozen."
        )
    elif SCRATCH in losses:
        sentences.append(
            f"It is better than training from scratch in the same budget "
            f"({losses[SCRATCH].loss:.4g}), {_share(tuned, losses[SCRATCH].loss)}."
        )
    return sentences


def _share(now: float, before: float) -> str:
    return f"{now / before:.0%} of it"


def print_report(report: Report, config: Config, console: Console) -> None:
    """The errors on the new data, what was forgotten, and the verdict."""
    part = PARTS[-1] if PARTS[-1] in report.errors else PARTS[0]
    title = f"Errors on the {'test' if part == 'test' else 'validation'} part of the new data"
    table = Table("model", *(column.long for column in report.columns), title=title)
    for name, metrics in report.errors[part].items():
        table.add_row(name, *(figure_of(metrics, column) for column in report.columns))
    console.print()
    console.print(table)
    if part != "test":
        console.print("There is no test part; the best model was chosen on the validation part.")
    if report.forgetting is not None:
        _print_forgetting(report.forgetting, report.columns, config, console)
    for sentence in report.verdict:
        console.print(sentence)


def _print_forgetting(
    lost: Forgetting, columns: tuple[Column, ...], config: Config, console: Console
) -> None:
    if lost.before is not None and lost.after is not None:
        title = f"Forgetting: errors on {lost.n_frames} held-out frames of the old data"
        table = Table("model", *(column.long for column in columns), title=title)
        for name, metrics in ((START, lost.before), (TUNED, lost.after)):
            table.add_row(name, *(figure_of(metrics, column) for column in columns))
        console.print(table)
    elif lost.change is not None:
        change = lost.change
        console.print(
            f"Forgetting: on {change.n_compounds} prototypes of other compounds (dichalcogenides, "
            f"graphene and such; {lost.n_frames} structures without labels) predictions moved by "
            f"{1000 * change.energy:.1f} meV/atom, {1000 * change.forces:.1f} meV/Å and "
            f"{100 * change.area:.2f} % of the area in the mean. With held-out old data in "
            "finetune.old it would be errors."
        )
    else:
        console.print("Forgetting: there is no prototype of other elements that the start knows.")
