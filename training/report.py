"""What a run prints: the data, a line an epoch, the result beside baselines."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from mlff2d.atoms import symbols
from mlff2d.models import model_name
from mlff2d.potential import Potential

from .data.filters import missing
from .data.references import print_references
from .data.splits import PARTS
from .groups import groups_table
from .metrics import Metrics
from .setup import Run, run_files
from .tasks import Column, Task

_FILES = {
    "best": "best model",
    "metrics": "figures of it",
    "stage_one": "best model of stage one",
    "last": "last model",
    "log": "figures of every epoch",
    "config": "settings",
}


def print_data(run: Run, console: Console) -> None:
    """Frames refused, filtered and split, and the size of the model."""
    conversion = run.conversion
    table = Table("frames", "", title="Data")
    table.add_row(str(conversion.n_frames), "read")
    for kind, count in conversion.refused.items():
        table.add_row(str(-count), f"refused: {kind}, e.g. {conversion.examples[kind]}")
    for removed in run.removed:
        example = f", e.g. {removed.example}" if removed.example else ""
        table.add_row(str(-removed.count), f"left out: {removed.rule}{example}")
    labels = ("energy", "forces", "stress") if isinstance(run.module, Potential) else ()
    absent = {label: missing(run.data, label) for label in labels}
    for name in PARTS:
        ids = getattr(run.split, name)
        materials = {run.data.material[s] for s in ids}
        lacks = [f"{mask[ids].sum()} without {x}" for x, mask in absent.items() if mask[ids].any()]
        text = ", ".join([f"{name}: {len(materials)} materials", *lacks])
        table.add_row(str(len(ids)), text)
    console.print(table)
    for note in conversion.notes:
        console.print(note)
    if run.references is not None:
        print_references(run.references, console)
    n_weights = sum(p.numel() for p in run.module.parameters())
    elements = run.module.elements
    unit = "eV" if isinstance(run.module, Potential) else run.module.unit
    console.print(
        f"{model_name(run.module.model)}: {n_weights:,} weights, {len(elements)} elements "
        f"({symbols(elements)}), cutoff {run.module.cutoff:g} Å, "
        f"scale {run.module.scale:.3g} {unit}".rstrip()
    )


def print_groups(run: Run, console: Console) -> None:
    """Every group of parameters and what happens to it, where a config has rules for that."""
    if run.config.finetune is not None:
        groups = run.optimizer.param_groups
        console.print(groups_table(run.module, groups, run.config.train.lr))
    if run.replay is not None:
        console.print(run.replay.note)


def print_header(task: Task, console: Console) -> None:
    """The head of the table of epochs."""
    columns = "".join(f"{column.short:>{column.width}}" for column in task.columns)
    line = f" epoch  train loss    val loss{columns}         lr   seconds (data)"
    console.print(line, soft_wrap=True)


def epoch_line(row: dict[str, Any], val: Metrics, task: Task) -> str:
    """One line of the table of epochs; * marks the best so far."""
    # A space between columns even where a number is too wide for its own.
    figures = "".join(f" {figure_of(val, column):>{column.width - 1}}" for column in task.columns)
    return (
        f"{row['epoch']:6d} {row['train_loss']:11.5f} {val.loss:11.5f}{figures}"
        f"{row['lr']:11.2e}{row['seconds']:9.1f} ({row['seconds_waiting_for_data']:.1f})"
        f"{' *' if row['best'] else ''}"
    )


def print_left_out(run: Run, console: Console) -> None:
    """The structures without which the run goes on."""
    if run.left_out:
        console.print(f"Left out of training after a bad batch: {_left_out(run)}.")


def print_result(results: dict[str, Metrics], task: Task, console: Console) -> None:
    """Figures of the best model, each beside its baseline."""
    table = Table("part", *(column.long for column in task.columns), title=task.title)
    for name, metrics in results.items():
        table.add_row(name, *(figure_of(metrics, column) for column in task.columns))
    console.print(table)
    console.print(task.baseline)


def _left_out(run: Run) -> str:
    names = ", ".join(run.data.name(s) for s in run.left_out[:5])
    return names + (f" and {len(run.left_out) - 5} others" if len(run.left_out) > 5 else "")


def print_summary(run: Run, console: Console) -> None:
    """How the run went, and where its files are."""
    files = run_files(run.config.run_dir)
    table = Table("", "", title="Run", show_header=False)
    table.add_row("best epoch", f"{run.best_epoch} of {run.epoch}")
    table.add_row("minutes of training", f"{run.seconds / 60:.1f}")
    if run.seconds:
        table.add_row("frames per second", f"{run.frames / run.seconds:.1f}")
    if run.left_out:
        table.add_row("left out after a bad batch", _left_out(run))
    for name, what in _FILES.items():
        if files[name].exists():
            table.add_row(what, str(files[name]))
    console.print(table)


def figure_of(metrics: Metrics, column: Column) -> str:
    """A figure as a table shows it."""
    value: float = getattr(metrics, column.key) * column.factor
    return "-" if math.isnan(value) else f"{value:.{column.digits}f}"
