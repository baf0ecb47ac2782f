"""The log of a run: a CSV table with a line for every replica every so many steps."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlff2d.files import naming

Array = NDArray[np.floating]


@dataclass(frozen=True)
class LogRow:
    """What is told of a replica at a step.

    Attributes
    ----------
    replica : number from 0 of the replica among all
    structure : number from 0 of its structure in the input
    step : negative in the equilibration
    time_fs : step times timestep
    potential_per_atom, kinetic_per_atom : eV/atom
    conserved_per_atom : what the ensemble conserves, eV/atom; with the step of an equilibration of
        "nve" it begins anew
    temperature, target : K
    stress_xx, stress_yy, stress_xy : in-plane stress in N/m, that of the motion of the atoms
        included, tension positive, in the axes of `mlff2d.slab.plane_axes`
    area_per_atom : Å²
    thickness : distance of the outermost nuclei along the normal, Å
    corrugation : root mean square height of the middle surface, Å; see `corrugation`
    """

    replica: int
    structure: int
    step: int
    time_fs: float
    potential_per_atom: float
    kinetic_per_atom: float
    conserved_per_atom: float
    temperature: float
    target: float
    stress_xx: float
    stress_yy: float
    stress_xy: float
    area_per_atom: float
    thickness: float
    corrugation: float


COLUMNS = tuple(field.name for field in fields(LogRow))

_DIGITS = {"time_fs": 4, "temperature": 3, "target": 3}
_MORE_DIGITS = 8


class LogFile:
    """The table on disk; it grows, and can be cut back to where a run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, rows: Sequence[LogRow]) -> None:
        """Write rows behind the others, the names of the columns before the first."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                writer.writerow(COLUMNS)
            for row in rows:
                writer.writerow(_as_text(name, value) for name, value in asdict(row).items())
            file.write(text.getvalue())

    def size(self) -> int:
        """Bytes in the file, all of which are on the disk when this returns."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut(self, size: int) -> None:
        """Forget what was written behind so many bytes. Raises ValueError where they are fewer."""
        with self.path.open("ab") as file:
            if file.tell() < size:
                raise ValueError(
                    f"{self.path} is shorter than the run that it belongs to has written; "
                    "add --restart to begin anew, or give another -o"
                )
            file.truncate(size)


def read_log(path: Path | str) -> dict[str, Array]:
    """The columns of a log by their names, whole numbers as such.

    Raises ValueError for a file that is no log. A line that a killed run left unfinished is left
    out.
    """
    text = Path(path).read_text(encoding="utf-8")
    header, _, body = text.partition("\n")
    if text and tuple(header.split(",")) != COLUMNS:
        raise ValueError(f"{path} is not the log of a run of molecular dynamics")
    lines = body[: body.rfind("\n") + 1].splitlines()
    table = np.array([line.split(",") for line in lines], dtype=float).reshape(-1, len(COLUMNS))
    whole = {field.name for field in fields(LogRow) if field.type == "int"}
    return {
        name: column.astype(np.int64) if name in whole else column
        for name, column in zip(COLUMNS, table.T, strict=True)
    }


def _as_text(name: str, value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.{_DIGITS.get(name, _MORE_DIGITS)}f}"
