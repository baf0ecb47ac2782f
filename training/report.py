"""What a run prints: the data, a line an epoch, the result beside baselines."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from mlff2d.atoms import symbols

from .filters import missing
from .metrics import Metrics
from .setup import Run
from .splits import PARTS


def print_data(run: Run, console: Console) -> None:
    """Frames refused, filtered and split, and the size of the model."""
    conversion = run.conversion
    table = Table("frames", "", title="Data")
    table.add_row(str(conversion.n_frames), "read")
    for kind, count in conversion.refused.items():
        table.add_row(str(-count), f"refused: {kind}, e.g. {conversion.examples[kind]}")
    for removed in run.removed:
        table.add_row(str(-removed.count), f"filtered: {removed.rule}")
    absent = {label: missing(run.data, label) for label in ("energy", "forces", "stress")}
    for name in PARTS:
        ids = getattr(run.split, name)
        materials = {run.data.material[s] for s in ids}
        lacks = [f"{mask[ids].sum()} without {x}" for x, mask in absent.items() if mask[ids].any()]
        text = ", ".join([f"{name}: {len(materials)} materials", *lacks])
        table.add_row(str(len(ids)), text)
    console.print(table)
    n_weights = sum(p.numel() for p in run.potential.parameters())
    elements = run.potential.elements
    console.print(
        f"{run.config.model.name}: {n_weights:,} weights, {len(elements)} elements "
        f"({symbols(elements)}), cutoff {run.potential.cutoff:g} Å, "
        f"scale {run.potential.scale:.3f} eV"
    )
    console.print(_HEADER, soft_wrap=True)


_HEADER = (
    " epoch  train loss    val loss   E meV/atom    F meV/Å    σ N/m         lr   seconds (data)"
)


def epoch_line(row: dict[str, Any], val: Metrics) -> str:
    """One line of the table of epochs; * marks the best so far."""
    return (
        f"{row['epoch']:6d}{row['train_loss']:12.5f}{val.loss:12.5f}"
        f"{1000 * val.energy:13.2f}{1000 * val.forces:11.1f}{val.stress:9.4f}"
        f"{row['lr']:11.2e}{row['seconds']:9.1f} ({row['seconds_waiting_for_data']:.1f})"
        f"{' *' if row['best'] else ''}"
    )


def print_result(results: dict[str, Metrics], console: Console) -> None:
    """Mean absolute errors of the best model, each beside its baseline."""
    table = Table(
        "part", "energy (meV/atom)", "forces (meV/Å)", "stress (N/m)", title="Mean absolute errors"
    )
    for name, metrics in results.items():
        table.add_row(
            name,
            f"{1000 * metrics.energy:.2f}",
            f"{1000 * metrics.forces:.1f}",
            f"{metrics.stress:.4f}",
        )
    console.print(table)
    console.print("Baseline: reference energies alone, no forces, no stress.")
