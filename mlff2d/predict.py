"""`mlff2d predict`: the property of every structure of files and folders, as a table."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

# Nothing heavy above the functions: --help must not wait for torch.
if TYPE_CHECKING:
    from mlff2d.property import PropertyPredictor
    from mlff2d.reading import Frame

DESCRIPTION = """\
Predict the property that a model was trained on, for every structure of files and folders. A
structure that cannot be predicted gets a row that says why; the others go on.
"""

EPILOG = """\
written, a row for each structure in the order given:
  file, index        where it is: its file, and its place in that from 0
  formula            chemical formula
  PROPERTY, unit     the value, empty where there is none; the column has the property's name
  reason             why there is none

examples:
  mlff2d predict runs/gap/best.pt monolayers.extxyz -o gaps.csv
  mlff2d predict runs/gap/best.pt MoS2.cif a_folder_of_cif_files
"""

SUFFIXES = (".cif", ".extxyz", ".xyz")
PACKED = ("", ".gz", ".bz2", ".xz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", metavar="MODEL", help="model file of a property, such as best.pt")
    parser.add_argument(
        "structures",
        metavar="STRUCTURES",
        type=Path,
        nargs="+",
        help="files that ASE reads, and folders, of which every .cif, .extxyz and .xyz counts",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT.csv",
        help="table to write (default: print it)",
    )


@dataclass(frozen=True)
class Row:
    """One structure and its value, NaN with a reason where it has none."""

    file: str
    index: int
    formula: str
    value: float
    reason: str = ""


def run(args: argparse.Namespace) -> int:
    """Predict what the arguments name; 0 when every structure has a row.

    Raises ModelFileError for a file that is no model of a property, and ValueError or OSError for
    inputs that are not there and an output that cannot be written.
    """
    files = structure_files(args.structures)
    _refuse_output(args.output, files)
    from mlff2d.checkpoint import load_property
    from mlff2d.devices import pick_device

    predictor = load_property(args.model, pick_device(None))
    output: TextIO | None = None
    if args.output is not None:
        output = args.output.open("w", newline="")
    tally = Tally()
    with nullcontext(sys.stdout) if output is None else output as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["file", "index", "formula", predictor.name, "unit", "reason"])
        try:
            for row in predict_files(predictor, files):
                value = "" if math.isnan(row.value) else f"{row.value:.6g}"
                cells = [row.file, row.index, row.formula, value, predictor.unit, row.reason]
                table.writerow(cells)
                stream.flush()  # what is done stays, whatever happens
                tally.add(row)
        except KeyboardInterrupt:
            where = "" if args.output is None else f" and in {args.output}"
            print(f"\nStopped: {tally.n_rows} structures are done{where}.", file=sys.stderr)
            raise
    print(tally.summary(predictor.label), file=sys.stderr)
    if args.output is not None:
        print(f"Table: {args.output}", file=sys.stderr)
    return 0


def structure_files(paths: list[Path]) -> list[Path]:
    """The files meant by files and folders. Raises ValueError for a path that leads to none."""
    files = []
    for path in paths:
        if path.is_dir():
            names = tuple(s + packed for s in SUFFIXES for packed in PACKED)
            inside = sorted(f for f in path.iterdir() if f.name.lower().endswith(names))
            if not inside:
                raise ValueError(f"{path}: the folder holds no {', '.join(SUFFIXES)} file")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise ValueError(f"there is no file {path}")
    return files


def predict_files(predictor: PropertyPredictor, files: list[Path]) -> Iterator[Row]:
    """A row for each structure of some files, one structure in memory at a time."""
    from mlff2d.errors import StructureError
    from mlff2d.reading import iter_structures

    for path in files:
        try:
            for index, frame in iter_structures(path):
                yield _row(predictor, path, index, frame)
        except StructureError as error:  # of the file as a whole
            yield Row(str(path), 0, "", math.nan, _reason(error))


def _row(predictor: PropertyPredictor, path: Path, index: int, frame: Frame) -> Row:
    from mlff2d.cif import refuse_disorder
    from mlff2d.errors import StructureError

    if isinstance(frame, StructureError):
        return Row(str(path), index, "", math.nan, _reason(frame))
    formula = frame.get_chemical_formula()
    try:
        refuse_disorder(frame)
        return Row(str(path), index, formula, predictor.predict(frame))
    except (StructureError, RuntimeError, MemoryError) as error:  # too large, for example
        return Row(str(path), index, formula, math.nan, str(error))


def _reason(error: Exception) -> str:
    """An error of reading without the file and frame that it begins with; the row names them."""
    return str(error).partition(": ")[2]


class Tally:
    """What a run did, told in a few lines: how many, the range of values, what failed and why."""

    SHOWN = 5

    def __init__(self) -> None:
        self.n_rows = self.n_values = 0
        self.least, self.largest, self.total = math.inf, -math.inf, 0.0
        self.failed: list[Row] = []

    def add(self, row: Row) -> None:
        """Count a row."""
        self.n_rows += 1
        if not math.isnan(row.value):
            self.n_values += 1
            self.least, self.largest = min(self.least, row.value), max(self.largest, row.value)
            self.total += row.value
        elif len(self.failed) < self.SHOWN:
            self.failed.append(row)

    def summary(self, label: str) -> str:
        """The lines; `label` is the property's name and unit."""
        first = f"{label} of {self.n_values} of {self.n_rows} structures"
        if self.n_values:
            mean = self.total / self.n_values
            first += f": {self.least:.4g} to {self.largest:.4g}, mean {mean:.4g}"
        lines = [first]
        lines += [f"  not predicted: {r.file}, frame {r.index}: {r.reason}" for r in self.failed]
        more = self.n_rows - self.n_values - len(self.failed)
        if more:
            lines.append(f"  and {more} more, each with its reason in the table")
        return "\n".join(lines)


def _refuse_output(output: Path | None, files: list[Path]) -> None:
    if output is None:
        return
    if output.is_dir():
        raise ValueError(f"{output} is a folder; name a file such as {output / 'predicted.csv'}")
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent} for the table; make it first")
    if output.exists() and any(output.samefile(file) for file in files):
        raise ValueError(f"{output} is an input; give the table another name")
