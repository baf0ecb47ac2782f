"""What the parts of a card share: who is judged, on what, and what is kept between runs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mlff2d import checkpoint
from mlff2d.devices import pick_device
from mlff2d.errors import StructureError
from mlff2d.files import write_text
from mlff2d.md.relaxation.batch import relax_many
from mlff2d.md.relaxation.result import RelaxResult
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.potential import Potential
from mlff2d.training.console import make_console
from mlff2d.training.data.convert import file_digest, open_sources
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.splits import part_of, uniform_of
from mlff2d.training.evaluation.tables import Cell, Table
from mlff2d.training.lineage import material_key_for, trainings

TEACHER = "teacher"
MODEL = "model"


@dataclass(frozen=True)
class Options:
    """What the card is made of; see the help of `benchmarks.universal_card`."""

    model: str | None
    teacher: str
    data: list[Path]
    source: list[Path]
    pbe: list[Path]
    structures: list[Path]
    n_direct: int
    n_relax: int
    max_atoms: int
    n_strain: int
    n_md: int
    md_steps: int
    skip_teacher_md: bool
    dimer_step: float
    device: str
    threads: int


class Subject:
    """A potential that is measured: the model, or its teacher."""

    def __init__(self, name: str, file: str | None, device: str) -> None:
        self.name = name
        self.path = checkpoint.locate(file)
        self.sha256 = file_digest(self.path)
        self.content = checkpoint.read(file)
        self._device = pick_device(device)

    @property
    def training(self) -> dict[str, Any]:
        """What its file says of its origin."""
        training: dict[str, Any] = self.content["training"]
        return training

    @cached_property
    def single(self) -> Potential:
        """In float32."""
        return checkpoint.load(self.path, self._device, torch.float32)

    @cached_property
    def double(self) -> Potential:
        """In float64."""
        return checkpoint.load(self.path, self._device, torch.float64)


@dataclass
class PartResult:
    """A part of the card.

    Attributes
    ----------
    lines : sentences above its tables
    figures : its most important numbers by name
    images : names of the PNG files in the folder of the parts
    seconds, cpu_s : that it took by the clock, and of all cores together
    """

    title: str
    lines: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0


class Kept:
    """Measurements in a folder, each in a JSON file named by what it depends on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def path(self, what: str, key: Sequence[Any]) -> Path:
        """Where such a measurement lies."""
        digest = hashlib.blake2b(json.dumps(list(key)).encode(), digest_size=6).hexdigest()
        return self.folder / f"{what}-{digest}.json"

    def get(self, what: str, key: Sequence[Any], measure: Callable[[], Any]) -> Any:
        """What was kept, or else is measured now: primitives, with `seconds` that it took."""
        path = self.path(what, key)
        if not path.exists():
            began = time.perf_counter()
            found = measure()
            seconds = round(time.perf_counter() - began, 1)
            content = {"of": list(key), "seconds": seconds, "found": found}
            write_text(json.dumps(content, indent=1), path)
        return json.loads(path.read_text(encoding="utf-8"))["found"]


@dataclass(frozen=True)
class Job:
    """All that a part needs."""

    options: Options
    model: Subject
    teacher: Subject
    kept: Kept

    @property
    def subjects(self) -> tuple[Subject, Subject]:
        """The model and its teacher."""
        return self.model, self.teacher

    def note(self, text: str) -> None:
        """Say what is being done."""
        make_console().print(text)

    def dataset(self, files: list[Path], cutoff: float, labels: bool = True) -> Dataset:
        """Structures of files with the edges of a cutoff, converted once."""
        paths, _ = open_sources(files, self.kept.folder, self.material_key, labels=labels)
        return Dataset(paths, cutoff)

    @cached_property
    def material_key(self) -> str:
        """The entry of info that materials are named by."""
        return material_key_for(self.options.data, self.model.training)

    @cached_property
    def splits(self) -> list[dict[str, Any]]:
        """How every training behind the model split its data, those by material."""
        records = trainings(self.model.training)
        found = [record.get("settings", {}).get("split") for record in records]
        return [split for split in found if split and split.get("by", "material") == "material"]

    def is_held_out(self, material: str) -> bool:
        """Whether every training behind the model that split by material would test on one.

        A material that was in none of the data has a part as well: it depends on names alone.
        """
        return all(
            part_of(material, s.get("seed", 0), s.get("val", 0.1), s.get("test", 0.1)) == "test"
            for s in self.splits
        )

    @property
    def held_out(self) -> str:
        """What held-out means for this model, for a reader of the card."""
        if self.splits:
            return "of materials whose names are in the test part of every training of the model"
        return "of any materials: the model's file does not say which it was trained on"

    def starts(self, data: Dataset, limit: int, max_atoms: int) -> np.ndarray:
        """Places of structures of held-out materials, drawn by their names, ascending.

        Raises ValueError where there is none.
        """
        first = np.unique(data.material.codes, return_index=True)[1]
        unknown = set(range(1, 119)) - (
            set(self.model.single.elements) & set(self.teacher.single.elements)
        )
        good = [
            int(s)
            for s in first
            if data.n_atoms[s] <= max_atoms
            and self.is_held_out(data.material[int(s)])
            and not unknown & set(data.atoms_of("z", [s]).tolist())
        ]
        good.sort(key=lambda s: uniform_of(data.material[s], 0))
        if not good:
            raise ValueError(
                f"none of the {len(first):,} materials of {self.options.structures[0]} is held out "
                f"and has up to {max_atoms} atoms of elements that both potentials know"
            )
        return np.array(sorted(good[:limit]), dtype=np.int64)


def relaxer(
    structures: Sequence[Atoms], potential: Potential, *, fmax: float, smax: float, steps: int
) -> Iterator[tuple[int, RelaxResult | StructureError]]:
    """Relax structures in batches; the number of each and what became of it."""
    return relax_many(structures, potential, RelaxSettings(fmax, smax, steps))


def relaxed(
    structures: Sequence[Atoms], potential: Potential, fmax: float, smax: float
) -> list[RelaxResult | StructureError]:
    """What became of each structure, in their order."""
    found = dict(relaxer(structures, potential, fmax=fmax, smax=smax, steps=1000))
    return [found[k] for k in range(len(structures))]


def markdown(table: Table) -> str:
    """A table as Markdown, its title above and its note below."""
    rule = ["---:" if table.is_number(c) else "---" for c in range(len(table.columns))]
    rows = [[table.text(c, cell) for c, cell in enumerate(row)] for row in table.rows]
    lines = [table.columns, rule, *rows]
    text = f"{table.title}:\n\n" if table.title else ""
    text += "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    return text + (f"\n{table.note}\n" if table.note else "")


def number(value: float) -> float | None:
    """A number for JSON: None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def ratio(value: float, other: float) -> Cell:
    """The quotient, or nothing where there is none."""
    return float(value / other) if other else None
