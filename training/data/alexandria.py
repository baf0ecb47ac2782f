"""Geometry optimisations as the Alexandria database publishes them.

J. Schmidt et al., Adv. Mater. 35, 2210788 (2023). The files (alex_go_*.json.bz2) hold

    {material: [{"steps": [{"structure", "energy", "forces", "stress"}, ...], ...}, ...], ...}

with a list of relaxation runs for each material. A structure is a dictionary of pymatgen's
Structure, energies are in eV, forces in eV/Å, stresses in kbar with VASP's sign. A single run
without its list and a list of steps without its run are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal

import ijson
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

from mlff2d.errors import StructureError
from mlff2d.reading import ARCHIVE_ERRORS, one_line, open_bytes

from .record import VASP_STRESS, Fault

_NOT_A_NUMBER = re.compile(rb"(?<=[:,\[\s])-?(?:NaN|Infinity)(?=[,\]}\s]|$)")
_CHUNK = 1 << 16  # bytes


def json_layout(path: Path) -> Literal["trajectories", "entries", "database"] | None:
    """What a JSON file holds by its first keys: trajectories of Alexandria, its final structures
    ("entries"), or a database of ASE; None for anything else and for what cannot be read."""
    depth = 0
    try:
        with open_bytes(path) as file:
            for event, value in ijson.basic_parse(_Numbers(file)):
                depth += event.startswith("start_") - event.startswith("end_")
                if event != "map_key":
                    continue
                if depth == 1 and value == "entries":
                    return "entries"
                if depth <= 3 and value in ("steps", "structure"):
                    return "trajectories"
                if depth <= 2 and value in ("numbers", "unique_id", "ids", "nextid"):
                    return "database"
    except (ijson.JSONError, *ARCHIVE_ERRORS):
        pass
    return None


def iter_trajectories(path: Path) -> Iterator[tuple[str, Atoms | Fault]]:
    """Place and structure or fault of every step in order, one material at a time in memory.

    `atoms.info` gets the material, and as trajectory the material with the number of its run. Of a
    file that is damaged or cut off come the materials before that place, then a fault.
    """
    material = ""
    try:
        with open_bytes(path) as file:
            for material, value in ijson.kvitems(_Numbers(file), "", use_float=True):
                yield from _material(material, value)
    except (ijson.JSONError, *ARCHIVE_ERRORS) as error:
        where = f"behind {material}" if material else "at its beginning"
        yield (
            where,
            Fault("file cut off or damaged", f"nothing more can be read ({one_line(error)})"),
        )


def _material(material: str, value: Any) -> Iterator[tuple[str, Atoms | Fault]]:
    try:
        runs = _runs(value)
    except (KeyError, TypeError):
        yield material, Fault("not a trajectory", "it has no list of steps with structures")
        return
    for run, steps in enumerate(runs):
        for number, step in enumerate(steps):
            where = f"{material}, run {run}, step {number}"
            try:
                atoms = _atoms(step)
            except (KeyError, TypeError, ValueError) as error:
                missing = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
                yield where, Fault("cannot be read", missing)
                continue
            atoms.info |= {"material": material, "trajectory": f"{material}/{run}"}
            yield where, atoms


def _runs(value: Any) -> list[list[Any]]:
    """The steps of each run of a material."""
    if isinstance(value, dict):
        value = [value]
    if value and "structure" in value[0]:
        return [value]
    return [list(run["steps"]) for run in value]


def _atoms(step: dict[str, Any]) -> Atoms:
    """A step with its labels; raises KeyError, TypeError or ValueError where it is malformed."""
    structure = step["structure"]
    symbols = [_element(site["species"]) for site in structure["sites"]]
    atoms = Atoms(
        symbols,
        cell=structure["lattice"]["matrix"],
        scaled_positions=np.array([site["abc"] for site in structure["sites"]], dtype=float),
        pbc=structure["lattice"].get("pbc", True),
    )
    labels = {key: step.get(key) for key in ("energy", "forces", "stress")}
    if labels["stress"] is not None:
        stress = np.array(labels["stress"], dtype=float)
        if stress.shape != (3, 3):
            raise ValueError(f"its stress has the shape {stress.shape}, not (3, 3)")
        labels["stress"] = stress * VASP_STRESS
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results = {key: label for key, label in labels.items() if label is not None}
    return atoms


def _element(species: list[dict[str, Any]]) -> str:
    if len(species) != 1 or species[0].get("occu", 1) != 1:
        raise ValueError("a site is not occupied by one whole atom")
    symbol = str(species[0]["element"])
    if symbol not in atomic_numbers:
        raise ValueError(f"{symbol!r} is no element")
    return symbol


class _Numbers:
    """A file whose NaN and Infinity, which Python's json writes and JSON lacks, are texts."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file, self._rest = file, b""

    def read(self, size: int = -1) -> bytes:
        """Some bytes, none at the end only; pieces end before a comma, never inside a number."""
        if size == 0:
            return b""
        while True:
            piece = self._file.read1(_CHUNK)  # read would lose what it has where the file is cut
            text = self._rest + piece
            cut = text.rfind(b",") if piece else len(text)
            if cut > 0 or not piece:
                self._rest = text[cut:]
                return _NOT_A_NUMBER.sub(b'"NaN"', text[:cut])
            self._rest = text


def refuse_entries(path: Path) -> StructureError:
    """The error for Alexandria's files of final structures, which are no trajectories."""
    return StructureError(
        f"{path}: these are final structures of the Alexandria database (a list of entries); give "
        "its geometry optimisations, files called alex_go_*.json.bz2"
    )
