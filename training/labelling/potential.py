"""Labels by a potential of ours, many structures at once, in this process.

Structures are always put into the same batches, by their order in the input, so that a run that was
killed gives the same numbers as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlff2d import checkpoint, slab
from mlff2d.atoms import canonical_slab, not_finite, to_graph
from mlff2d.calculator import DTYPES
from mlff2d.compiled import use_compiled_code
from mlff2d.devices import pick_device
from mlff2d.errors import StructureError
from mlff2d.graph import Graph, collate
from mlff2d.potential import Potential

from .frames import pack
from .journal import DONE, FAILED

BATCH_ATOMS = 256
"""Atoms labelled at once: on one core five times as fast as one structure of four atoms after
another, and more are no faster."""

BATCH_ATOMS_GPU = 4096
"""The same on a GPU."""

HEIGHT = 15.0
"""Å, of the cell of a slab whose own has no volume; 10 Å and its thickness where that is more."""

Event = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True)
class ModelSettings:
    """Which potential labels, and how.

    Attributes
    ----------
    model : path of a model file, or name of a shipped one
    dtype : "float32" or "float64"
    device : None for a GPU where there is one
    """

    model: str
    dtype: str = "float32"
    device: str | None = None

    def resolved(self) -> dict[str, Any]:
        """All that decides about the labels. Raises ModelFileError where there is no such file."""
        path = checkpoint.locate(self.model)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"model": path.stem, "sha256": digest, "dtype": self.dtype}


class Labeller:
    """A potential that labels; a structure that it cannot label is passed over.

    Raises ModelFileError for a file that is no potential, ValueError for a device that is not
    there.
    """

    def __init__(self, settings: ModelSettings) -> None:
        device = pick_device(settings.device)
        potential = checkpoint.load(settings.model, device, DTYPES[settings.dtype])
        self._potential: Potential = potential.eval().requires_grad_(False)
        use_compiled_code(self._potential)
        self._device = device
        resolved = settings.resolved()
        self._info = {
            "level": f"{resolved['model']} {resolved['sha256'][:8]}",
            "settings": json.dumps(resolved),
        }

    @property
    def batch_atoms(self) -> int:
        """Atoms to label at once."""
        return BATCH_ATOMS if self._device.type == "cpu" else BATCH_ATOMS_GPU

    def graph(self, atoms: Atoms) -> Graph:
        """What a batch is made of. Raises StructureError for what the model cannot label."""
        self._potential.check_elements(atoms.numbers)
        return to_graph(atoms, self._potential.cutoff, self._potential.model.state)

    def label(self, batch: list[tuple[str, Atoms, Graph]]) -> Iterator[Event]:
        """What comes of structures with their keys and graphs, as arguments of `Journal.add`."""
        begun = time.process_time()
        try:
            graph = collate([graph for _, _, graph in batch]).to(self._device)
            prediction = self._potential(graph, create_graph=False)
            assert prediction.forces is not None
            assert prediction.virial is not None
            energy = prediction.energy.cpu().double().numpy()
            forces = prediction.forces.cpu().double().numpy()
            virial = prediction.virial.cpu().double().numpy()
        except (MemoryError, RuntimeError) as error:
            if len(batch) == 1:
                yield batch[0][0], FAILED, {"reason": " ".join(str(error).split())[:300]}
                return
            half = len(batch) // 2
            yield from self.label(batch[:half])
            yield from self.label(batch[half:])
            return
        seconds = round((time.process_time() - begun) / len(batch), 6)
        ends = np.cumsum([len(atoms) for _, atoms, _ in batch])[:-1]
        rows = np.split(forces, ends)
        for s, (key, atoms, _) in enumerate(batch):
            yield key, *self._event(atoms, float(energy[s]), rows[s], virial[s], seconds)

    def _event(
        self,
        atoms: Atoms,
        energy: float,
        forces: NDArray[np.float64],
        virial: NDArray[np.float64],
        seconds: float,
    ) -> tuple[str, dict[str, Any]]:
        there = with_volume(atoms)
        volume = abs(np.linalg.det(there.cell.array))
        stress = virial / volume if volume > 1e-6 else None
        try:
            frame = pack(there, energy, forces, stress, self._info)
        except StructureError:
            return FAILED, {"reason": not_finite(atoms.numbers), "cpu_s": seconds}
        return DONE, {"frame": frame, "cpu_s": seconds}


def with_volume(atoms: Atoms) -> Atoms:
    """A slab in one piece, not periodic along its vacuum, in a cell that has a volume."""
    canonical = canonical_slab(atoms)
    there = atoms.copy()
    there.positions, there.pbc = canonical.pos, canonical.pbc
    if canonical.axis is not None and abs(np.linalg.det(atoms.cell.array)) < 1e-6:
        n = slab.normal(atoms.cell.array, canonical.pbc)
        cell = atoms.cell.array.copy()
        cell[canonical.axis] = max(HEIGHT, float(np.ptp(canonical.pos @ n)) + 10.0) * n
        there.set_cell(cell)
    return there


def is_model(name: str) -> bool:
    """Whether what is to label is called as a model file or a shipped model is."""
    return name in checkpoint.shipped_models() or Path(name).suffix in (".pt", ".pth")


def set_threads(threads: int | None) -> None:
    """Of the CPU; None for what torch takes."""
    if threads is not None:
        torch.set_num_threads(threads)
