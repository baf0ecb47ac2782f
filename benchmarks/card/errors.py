"""Errors of energies, forces and stresses by the kind of frame. Axes: S structures, K kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.io.extxyz import key_val_str_to_dict
from numpy.typing import NDArray

from mlff2d.reading import file_format, iter_structures, open_bytes
from mlff2d.training.data.convert import file_digest
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.evaluation.direct import COMPOSITION, Section
from mlff2d.training.evaluation.quantities import Quantity, compare_vectors, directions
from mlff2d.training.evaluation.tables import Cell, Table

ALL = "all"
_UNKNOWN = "unknown"


def modes_of(path: Path) -> list[str]:
    """The entry `mode` of info of each frame of a file, digits at its end left out."""
    return [str(mode).rstrip("0123456789") for mode in _modes(path)]


def _modes(path: Path) -> Iterator[Any]:
    if file_format(path) != "extxyz":
        for _, atoms in iter_structures(path):
            yield getattr(atoms, "info", {}).get("mode", _UNKNOWN)
        return
    with open_bytes(path) as file:  # the lines of atoms need not be parsed for this
        for line in file:
            count = int(line)
            yield key_val_str_to_dict(next(file).decode()).get("mode", _UNKNOWN)
            for _ in range(count):
                next(file)


def kinds_of(data: Dataset, ids: NDArray[np.int64], files: Sequence[Path]) -> list[str]:
    """(S,) kind of each structure, read from the files that the data were made of."""
    by_digest = {file_digest(path): path for path in files if path.is_file()}
    found: dict[int, list[str]] = {}
    for number, source in enumerate(data.sources):
        if source["sha256"] in by_digest:
            found[number] = modes_of(by_digest[source["sha256"]])
    places = zip(data.source[ids].tolist(), data.frame[ids].tolist(), strict=True)
    return [found[s][frame] if s in found else _UNKNOWN for s, frame in places]


def subsets(kinds: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Masks (S,) of all structures, and of each kind where there are several."""
    masks = {ALL: np.ones(len(kinds), dtype=bool)}
    names = sorted(set(kinds), key=list(kinds).index)
    if len(names) > 1:
        masks |= {name: np.array([kind == name for kind in kinds]) for name in names}
    return masks


def error_table(section: Section, kinds: Sequence[str], quantity: Quantity) -> Table:
    """Mean and median absolute errors of every method, a row for each kind of frame."""
    columns = ["frames", "number", *quantity.models]
    columns += [f"{name}, median" for name in quantity.models]
    baselines = [b for b in quantity.baselines if b != COMPOSITION] or list(quantity.baselines)
    columns += baselines
    rows: list[list[Cell]] = []
    for kind, mask in subsets(kinds).items():
        values = mask[quantity.owner]
        if not values.any():
            continue
        wrong = {m: np.abs(quantity.error(m)[values]) for m in quantity.predicted}
        row: list[Cell] = [kind, int(mask.sum())]
        row += [float(wrong[m].mean()) for m in quantity.models]
        row += [float(np.median(wrong[m])) for m in quantity.models]
        rows.append(row + [float(wrong[b].mean()) for b in baselines])
    digits = dict.fromkeys(columns[2:], quantity.digits)
    title = f"{quantity.label}, mean and median absolute errors"
    return Table(f"errors_{quantity.key}", title, columns, rows, digits)


def direction_table(kinds: Sequence[str], forces: Quantity) -> Table:
    """Softness and directions of the forces, a row for each kind of frame and method."""
    columns = ["frames", "potential", "slope", "size ratio", "mean angle (°)", "wrong way (%)"]
    rows: list[list[Cell]] = []
    true = forces.true.reshape(-1, 3)
    for kind, mask in subsets(kinds).items():
        atoms = mask[forces.owner[::3]]
        for method in forces.models:
            predicted = forces.predicted[method].reshape(-1, 3)[atoms]
            found = directions(true[atoms], predicted)
            cosine = compare_vectors(true[atoms], predicted)[1]
            wrong = 100 * float((cosine < 0).mean()) if len(cosine) else None
            rows.append([kind, method, found.slope, found.ratio, found.mean_angle, wrong])
    digits = {"slope": 3, "size ratio": 3, "mean angle (°)": 1, "wrong way (%)": 2}
    note = (
        "Slope of predicted on true components through the origin: below one is too soft. The "
        "others are of atoms with a true force of at least 50 meV/Å: median of predicted over true "
        "size, mean angle weighted by the force, share more than 90° off."
    )
    return Table("directions", "Directions and softness of the forces", columns, rows, digits, note)


def by_kind(section: Section, kinds: Sequence[str]) -> tuple[list[Table], dict[str, Any]]:
    """The tables of a section, and their rows of the first model as numbers by name."""
    tables = [error_table(section, kinds, quantity) for quantity in section.quantities]
    figures: dict[str, Any] = {}
    for quantity, table in zip(section.quantities, tables, strict=True):
        for row in table.rows:
            figures[f"{quantity.key} {row[0]}"] = dict(zip(table.columns[1:], row[1:], strict=True))
    forces = next((q for q in section.quantities if q.key == "forces"), None)
    if forces is not None:
        tables.append(direction_table(kinds, forces))
        for kind, method, *values in tables[-1].rows:
            figures[f"directions {kind} {method}"] = dict(
                zip(tables[-1].columns[2:], values, strict=True)
            )
    return tables, figures
