"""`mlff2d data stats`: what is in the data, as a table, figures and the numbers behind them.

Of every frame only a few numbers are held; positions and forces are read a block at a time.

Axes: N atoms, S structures.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..console import watched
from ..figures.histogram import Bins, bars, histogram
from ..figures.periodic_table import periodic_table
from ..figures.style import save
from ..sections import Config
from .choice import split_data
from .compositions import compositions_of
from .dataset import Dataset
from .references import explained, find_references, fit_references, print_references
from .splits import PARTS

_BLOCK = 4096  # structures read at a time
_QUANTILES = {"1 %": 0.01, "median": 0.5, "99 %": 0.99}


@dataclass(frozen=True)
class Quantity:
    """One distribution.

    Attributes
    ----------
    name : of its files
    title : of its figure
    label : of the axis and in the table, with the unit
    values : (n,) or (n, components); NaN where absent
    of : what is counted
    log : whether the figure counts on a logarithmic scale
    whole : whether the values are whole numbers
    """

    name: str
    title: str
    label: str
    values: NDArray[Any]
    of: str = "frames"
    log: bool = False
    whole: bool = False

    def row(self) -> list[str]:
        """Cells of the table: how many there are and are not, range and quantiles."""
        finite = self.values[np.isfinite(self.values)]
        present = np.isfinite(self.values.reshape(len(self.values), -1)).all(axis=1).sum()
        cells = [self.label, f"{present:,}", f"{len(self.values) - present:,}"]
        if len(finite) == 0:
            return cells + ["-"] * 5
        middle = np.quantile(finite, list(_QUANTILES.values()))
        return cells + [f"{x:.4g}" for x in (finite.min(), *middle, finite.max())]


def print_stats(data: Dataset, folder: Path, config: Config | None, console: Console) -> None:
    """Show what is in the data, and write figures (PNG) and their numbers (CSV) into a folder.

    With a config also what its filters and selection leave out, and its split. Raises ConfigError
    where that leaves no training or no validation part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    above = _above_references(data)
    blocks = _Blocks(data)
    found = _quantities(data, above, blocks)
    _print_summary(found, folder, data, console)
    if len(data.sources) > 1:
        _print_sources(data, above, console)
    for quantity in found:
        if np.isfinite(quantity.values).any():
            _draw(quantity, folder)
    if blocks.forces.sum():
        label, title = "force components (eV/Å)", "Forces"
        _save_histogram(
            folder / "forces", blocks.forces, blocks.bins, label, title, "components", log=True
        )
    _elements(data, folder)
    _layer_groups(data, folder)
    if config is not None:
        _print_choice(data, config, console)
    console.print(f"Figures, and the numbers behind them as CSV: {folder}", soft_wrap=True)


def _above_references(data: Dataset) -> NDArray[np.float64]:
    """(S,) eV/atom above the reference energies that fit all of the data."""
    ids = np.arange(len(data))
    return data.energy / data.n_atoms - explained(data, ids, fit_references(data, ids))


class _Blocks:
    """What has to be read frame by frame.

    Attributes
    ----------
    area : (S,) Å² per atom of slabs
    thickness : (S,) Å between the outermost nuclei of slabs
    bins, forces : of force components, and how many are in each, see `Bins.count`
    """

    def __init__(self, data: Dataset) -> None:
        self.area, self.thickness = (np.full(len(data), np.nan) for _ in range(2))
        known = data.max_force[np.isfinite(data.max_force)]
        limit = max(float(np.quantile(known, 0.998)) if len(known) else 0.0, 1e-3)
        self.bins = Bins(np.linspace(-limit, limit, 82))
        self.forces = self.bins.count([])
        starts = range(0, len(data), _BLOCK)
        for start in watched(starts, "reading structures"):
            ids = np.arange(start, min(start + _BLOCK, len(data)))
            self.forces += self.bins.count(data.atoms_of("forces", ids))
            self._measure(data, ids)

    def _measure(self, data: Dataset, ids: NDArray[np.int64]) -> None:
        """Area and thickness of the slabs among some structures."""
        pbc = data.rows_of("pbc", ids)
        slab = pbc.sum(axis=1) == 2
        ids, pbc = ids[slab], pbc[slab]
        if len(ids) == 0:
            return
        plane = data.rows_of("cell", ids)[pbc].reshape(-1, 2, 3)
        normal = np.cross(plane[:, 0], plane[:, 1])
        area = np.linalg.norm(normal, axis=1)
        n_atoms = data.n_atoms[ids]
        self.area[ids] = area / n_atoms
        each = np.repeat(normal / area[:, None], n_atoms, axis=0)
        height = np.einsum("nx,nx->n", data.atoms_of("pos", ids), each)
        first = np.cumsum(n_atoms) - n_atoms
        self.thickness[ids] = np.maximum.reduceat(height, first) - np.minimum.reduceat(
            height, first
        )


def _quantities(data: Dataset, above: NDArray[np.float64], blocks: _Blocks) -> list[Quantity]:
    steps = np.bincount(data.trajectory.codes)
    q = Quantity
    found = [
        q("energy", "Energies", "energy (eV/atom)", data.energy / data.n_atoms),
        q(
            "above_references",
            "Energies beyond composition",
            "energy above references (eV/atom)",
            above,
        ),
        q("largest_force", "Largest force", "largest force (eV/Å)", data.max_force, log=True),
        q("stress", "Stress in the plane", "in-plane stress (N/m)", data.stress_2d, log=True),
        q("stress_kbar", "Stress", "largest stress (kbar)", data.max_stress_kbar, log=True),
        q("atoms", "Size", "atoms", data.n_atoms, whole=True),
        q("area", "Area", "area (Å²/atom)", blocks.area),
        q("thickness", "Thickness", "thickness (Å)", blocks.thickness),
        q("steps", "Trajectories", "steps", steps[steps > 0], of="trajectories", whole=True),
    ]
    targets = {json.loads(head)["target"] for head in data.frames.heads("keys")} - {None}
    if targets:
        name = " ".join(sorted(targets))
        found.append(Quantity("property", f"Property {name}", name, data.target))
    return found


def _print_summary(
    quantities: Sequence[Quantity], folder: Path, data: Dataset, console: Console
) -> None:
    console.print(
        f"{len(data):,} frames of {len(np.unique(data.material.codes)):,} materials in "
        f"{len(np.unique(data.trajectory.codes)):,} trajectories"
    )
    head = ["", "values", "absent", "min", *_QUANTILES, "max"]
    rows = [quantity.row() for quantity in quantities]
    table = Table(title="Distributions", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in head:
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    plain = [[cell.replace(",", "") if k else cell for k, cell in enumerate(r)] for r in rows]
    _write_csv(folder / "summary.csv", ["quantity", *head[1:]], plain)


def _print_sources(data: Dataset, above: NDArray[np.float64], console: Console) -> None:
    """Sources beside each other: different zeros of energy show in the last column."""
    table = Table("source", title="Sources")
    for column in ("frames", "materials", "mean energy above references (eV/atom)"):
        table.add_column(column, justify="right")
    for number, source in enumerate(data.sources):
        mine = data.source == number
        energies = above[mine & np.isfinite(above)]
        mean = f"{energies.mean():.3f}" if len(energies) else "-"
        materials = len(np.unique(data.material.codes[mine]))
        table.add_row(source["name"], f"{mine.sum():,}", f"{materials:,}", mean)
    console.print(table)


def _draw(quantity: Quantity, folder: Path) -> None:
    bins = (Bins.whole_numbers if quantity.whole else Bins.over)(quantity.values.ravel())
    counts = bins.count(quantity.values.ravel())
    of = quantity.of if quantity.values.ndim == 1 else "components"
    _save_histogram(
        folder / quantity.name, counts, bins, quantity.label, quantity.title, of, quantity.log
    )


def _save_histogram(
    path: Path,
    counts: NDArray[np.int64],
    bins: Bins,
    label: str,
    title: str,
    of: str,
    log: bool,
) -> None:
    save(histogram({title: counts}, bins, label, title=title, of=of, log=log), path)
    edges = [-np.inf, *bins.edges.tolist(), np.inf]
    rows = zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    _write_csv(path.with_suffix(".csv"), ["from", "to", of], rows)


def _elements(data: Dataset, folder: Path) -> None:
    """Number of materials that hold each element."""
    made_of = compositions_of(data, np.arange(len(data)))
    pairs = np.unique(data.material.codes.astype(np.int64) * len(made_of) + made_of.of)
    material, row = np.divmod(pairs, len(made_of))
    holds = made_of.counts > 0
    counts = {z: len(np.unique(material[holds[row, z]])) for z in made_of.elements}
    title = "Materials that hold each element"
    save(periodic_table(counts, title, "materials", log=True), folder / "elements")
    rows = [[z, chemical_symbols[z], n] for z, n in counts.items()]
    _write_csv(folder / "elements.csv", ["number", "symbol", "materials"], rows)


def _layer_groups(data: Dataset, folder: Path) -> None:
    """Number of materials in each layer group, by the first frame of each."""
    _, first = np.unique(data.material.codes, return_index=True)
    groups, counts = np.unique(data.layer_group[first], return_counts=True)
    names = [str(g) if g else "none" for g in groups.tolist()]
    title = "Layer groups of the materials (first frame)"
    save(bars(names, counts, "layer group", title=title, of="materials"), folder / "layer_groups")
    rows = zip(groups.tolist(), counts.tolist(), strict=True)
    _write_csv(folder / "layer_groups.csv", ["layer_group", "materials"], rows)


def _print_choice(data: Dataset, config: Config, console: Console) -> None:
    """What filters and selection leave out, the parts, and the reference energies."""
    split, removed = split_data(config, data)
    table = Table("left out because of", title="Filters, selection and split")
    table.add_column("frames", justify="right")
    table.add_column("for example")
    for rule in removed:
        table.add_row(rule.rule, f"{rule.count:,}", rule.example)
    console.print(table)
    for name in PARTS:
        ids = getattr(split, name)
        materials = len(np.unique(data.material.codes[ids]))
        console.print(f"{name}: {len(ids):,} frames of {materials:,} materials")
    if config.property is None and config.model.start is None:
        print_references(find_references(data, split.train, config.priors), console)


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
