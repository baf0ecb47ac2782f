"""`mlff2d data build`: from files with calculations to an HDF5 file, and what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mlff2d.atoms import symbols
from mlff2d.dataset_file import is_hdf5
from mlff2d.errors import StructureError

from ..console import make_console
from .convert import convert
from .frames import Frames
from .record import Keys
from .store import ConversionSummary

_BLOCK = 65536  # structures whose elements are looked at together


def build(sources: Sequence[Path], output: Path, keys: Keys, force: bool = False) -> None:
    """Read sources into an HDF5 file, or go on where a build of the same was killed, and say what.

    Raises StructureError for a source that is none, ValueError for an output that exists and is
    not to be replaced, OSError (one sentence) where it cannot be written.
    """
    refuse_existing(output, force, sources)
    for source in sources:
        if is_hdf5(source):
            raise StructureError(
                f"{source}: this is an HDF5 file already; join such files with mlff2d data merge."
            )
    console = make_console()
    try:
        summary = convert(sources, output, keys)
    except KeyboardInterrupt:
        console.print("What was read is kept: the same command goes on from there.")
        raise
    print_summary(output, summary, console)


def refuse_existing(output: Path, force: bool, inputs: Sequence[Path]) -> None:
    """Raise ValueError where an output is one of the inputs, exists, or cannot be made."""
    if any(output.exists() and output.samefile(path) for path in inputs if path.exists()):
        raise ValueError(f"{output} is both read and written; give another name with -o.")
    if output.is_dir():
        raise ValueError(f"{output} is a folder; give the name of a file with -o.")
    if output.exists() and not force:
        raise ValueError(f"{output} exists; add --force to replace it, or give another name.")
    if not output.parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.parent}; make it first.")


def print_summary(path: Path, summary: ConversionSummary, console: Console) -> None:
    """What was read and refused, and what the file holds."""
    table = Table(title=str(path), show_header=False)
    for what, value in _contents(path, summary):
        table.add_row(what, value)
    console.print(table)
    if summary.refused:
        refused = Table("refused", "frames", "for example", title="What was left out")
        for kind, count in sorted(summary.refused.items(), key=lambda item: -item[1]):
            refused.add_row(kind, f"{count:,}", summary.examples[kind])
        console.print(refused)
    for check in summary.checks:
        console.print(f"Change of energy over what it should be, {check}", soft_wrap=True)
    for note in summary.notes:
        console.print(f"Note: {note}", soft_wrap=True)


def _contents(path: Path, summary: ConversionSummary) -> list[tuple[str, str]]:
    frames = Frames([path])
    n = len(frames)
    n_atoms = np.diff(frames.offset)
    elements = np.unique(
        np.concatenate(
            [
                np.unique(frames.atoms("z", np.arange(k, min(k + _BLOCK, n))))
                for k in range(0, n, _BLOCK)
            ]
        )
    )
    labels = {
        "energy": frames.column("energy"),
        "forces": frames.column("max_force"),
        "stress in the plane": frames.column("stress_2d")[:, 0],
        "property": frames.column("target"),
    }
    counts = {name: int(np.isfinite(values).sum()) for name, values in labels.items()}
    groups = frames.column("layer_group")
    levels = [level for level in frames.coded("level")[1] if level]
    return [
        ("frames read", f"{summary.n_frames:,}"),
        ("frames taken", f"{n:,}"),
        ("materials", f"{len(frames.names('material')[0]):,}"),
        ("trajectories", f"{len(frames.names('trajectory')[0]):,}"),
        ("atoms", f"{n_atoms.min()} to {n_atoms.max()}, {n_atoms.sum():,} in all"),
        ("elements", f"{len(elements)}: {symbols(elements.tolist())}"),
        ("labels", ", ".join(f"{name} {c:,}" for name, c in counts.items() if c)),
        *([("levels of theory", ", ".join(levels))] if levels else []),
        ("with a layer group", f"{np.count_nonzero(groups):,} in {len(set(groups) - {0})} groups"),
        ("size", f"{path.stat().st_size / 1e6:,.1f} MB"),
    ]
