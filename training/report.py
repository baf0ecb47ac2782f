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
from .data.splits import PARTS
from .finetune import Shift
from .metrics import Metrics
from .setup import Run
from .tasks import Column, Task


def print_data(run: Run, console: Console) -> None:
    """Frames refused, filtered and split, and the size of the model."""
    conversion = run.conversion
    table = Table("frames", "", title="Data")
    table.add_row(str(conversion.n_frames), "read")
    for kind, count in conversion.refused.items():
        table.add_row(str(-count), f"refused: {kind}, e.g. {conversion.examples[kind]}")
    for removed in run.removed:
        table.add_row(str(-removed.count), f"filtered: {removed.rule}")
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
    n_weights = sum(p.numel() for p in run.module.parameters())
    elements = run.module.elements
    unit = "eV" if isinstance(run.module, Potential) else run.module.unit
    console.print(
        f"{model_name(run.module.model)}: {n_weights:,} weights, {len(elements)} elements "
        f"({symbols(elements)}), cutoff {run.module.cutoff:g} Å, "
        f"scale {run.module.scale:.3g} {unit}".rstrip()
    )


def print_shift(shift: Shift, start: str, console: Console) -> None:
    """What the reference energies of the start were moved by, and what that does."""
    if not shift.energies:
        console.print(f"Reference energies are those of {start}: the data have no energies.")
        return
    moved = ", ".join(f"{symbols([z])} {energy:+.4f}" for z, energy in shift.energies.items())
    console.print(
        f"Reference energies of {start} moved to fit the data, eV: {moved}; the others stay. "
        f"Mean |ΔE| of the start on the training part: {1000 * shift.before:.1f} meV/atom before, "
        f"{1000 * shift.after:.1f} after."
    )


def print_header(task: Task, console: Console) -> None:
    """The head of the table of epochs."""
    columns = "".join(f"{column.short:>{column.width}}" for column in task.columns)
    line = f" epoch  train loss    val loss{columns}         lr   seconds (data)"
    console.print(line, soft_wrap=True)


def epoch_line(row: dict[str, Any], val: Metrics, task: Task) -> str:
    """One line of the table of epochs; * marks the best so far."""
    figures = "".join(f"{_figure(val, column):>{column.width}}" for column in task.columns)
    return (
        f"{row['epoch']:6d}{row['train_loss']:12.5f}{val.loss:12.5f}{figures}"
        f"{row['lr']:11.2e}{row['seconds']:9.1f} ({row['seconds_waiting_for_data']:.1f})"
        f"{' *' if row['best'] else ''}"
    )


def print_result(results: dict[str, Metrics], task: Task, console: Console) -> None:
    """Figures of the best model, each beside its baseline."""
    table = Table("part", *(column.long for column in task.columns), title=task.title)
    for name, metrics in results.items():
        table.add_row(name, *(_figure(metrics, column) for column in task.columns))
    console.print(table)
    console.print(task.baseline)


def _figure(metrics: Metrics, column: Column) -> str:
    value: float = getattr(metrics, column.key) * column.factor
    return "-" if math.isnan(value) else f"{value:.{column.digits}f}"
