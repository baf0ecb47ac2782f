"""VASP runs, a step at a time: vasprun.xml and OUTCAR, and where they lie below a folder.

ASE's own readers end at the first step that cannot be parsed, hold a whole vasprun.xml in memory
and do not tell steps whose electrons did not converge; so files are cut into steps here. What an
OUTCAR says of a step is parsed by ASE. Both files give stress in kbar, compression positive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.io.vasp_parsers import vasp_outcar_parsers as outcar
from numpy.typing import NDArray

from mlff2d.reading import ARCHIVE_ERRORS, one_line, open_bytes, without_compression

from .record import VASP_STRESS, Fault

Step = Atoms | Fault

UNREADABLE = "VASP run without a readable step"
INCOMPLETE = "step that VASP did not finish"
NOT_CONVERGED = "SCF not converged"
NO_ELECTRONS = "step without electronic steps"
UNDER_PRESSURE = "run under external pressure"

_UNFINISHED = Fault(INCOMPLETE, "the file ends before the run does; the steps so far are taken")

_CHUNK = 1 << 18  # bytes
_IONIC_END = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
_ITERATION = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
_TOTEN = re.compile(r"free\s+energy\s+TOTEN\s*=\s*(\S+)")
_NELM = re.compile(r"\bNELM\s*=\s*(\d+)")


def is_vasp(path: Path) -> bool:
    """Whether a file is called vasprun.xml or OUTCAR, numbers and compression aside."""
    return _kind_and_label(path) is not None


@dataclass(frozen=True)
class Run:
    """One run of VASP: its folder, what tells it from others there, its files in order of trust."""

    folder: Path
    label: str
    files: tuple[Path, ...]


def runs_of(files: list[Path]) -> list[Run]:
    """The runs that VASP's files of one folder make, in the order in which they were done.

    vasprun.xml.1 and OUTCAR.1 are one run, OUTCAR.2 the next, and those without a number the last,
    as restarts leave them.
    """
    grouped: dict[str, list[tuple[str, Path]]] = {}
    for path in files:
        if found := _kind_and_label(path):
            grouped.setdefault(found[1], []).append((found[0], path))
    runs = []
    for label in sorted(grouped, key=lambda label: (label == "", natural(label))):
        # By their kinds vasprun.xml comes before OUTCAR: it has more digits.
        ordered = sorted(grouped[label], key=lambda pair: (pair[0] == "OUTCAR", pair[1].name))
        runs.append(Run(files[0].parent, label, tuple(path for _, path in ordered)))
    return runs


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts run2 before run10."""
    parts = re.findall(r"\d+|\D+", text)
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]


def _kind_and_label(path: Path) -> tuple[str, str] | None:
    name = without_compression(path).name
    for kind, pattern in (("vasprun", r"vasprun(.*)\.xml"), ("OUTCAR", "OUTCAR")):
        if re.search(pattern, name):
            return kind, re.sub(pattern, r"\1" if "(" in pattern else "", name).strip("._-")
    return None


def iter_run(run: Run) -> Iterator[tuple[Path, int, Step]]:
    """File, number from 0 and structure or fault of each step.

    The second file is only opened where the first holds no usable step.
    """
    for trust, path in enumerate(run.files, 1):
        faults: list[tuple[Path, int, Step]] = []
        usable = False
        for number, step in enumerate(iter_steps(path)):
            if isinstance(step, Fault) and not usable:
                faults.append((path, number, step))
                continue
            usable = True
            yield from faults
            faults.clear()
            yield path, number, step
        if usable or trust == len(run.files):
            yield from faults
            return


def iter_steps(path: Path) -> Iterator[Step]:
    """The ionic steps of a vasprun.xml or OUTCAR in order, of which one at least is yielded.

    Labels: the free energy (which belongs to the forces) in eV, forces in eV/Å, stress in eV/Å³,
    tension positive. A step that is incomplete, not converged or not parsable is a fault, and
    reading goes on behind it where there is more.
    """
    found = _kind_and_label(path)
    empty = True
    try:
        with open_bytes(path) as file:
            for step in _vasprun(file) if found and found[0] == "vasprun" else _outcar(file):
                empty = False
                yield step
    except ARCHIVE_ERRORS as error:  # not the archive that its name says
        yield Fault(UNREADABLE, one_line(error))
        return
    if empty:
        yield Fault(UNREADABLE, "it ends before its first ionic step is complete")


def _with_labels(atoms: Atoms, energy: float, forces: Any, stress: Any) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, free_energy=energy, forces=forces, stress=stress)
    return atoms


def _pieces(file: BufferedIOBase) -> Iterator[bytes]:
    """The content up to where an archive is broken."""
    while True:
        try:
            piece = file.read1(_CHUNK)  # read would lose what it has when it meets the damage
        except ARCHIVE_ERRORS:
            return
        if not piece:
            return
        yield piece


# --- vasprun.xml -------------------------------------------------------------------------------


@dataclass
class _Header:
    species: tuple[str, ...] = ()
    nelm: int | None = None
    pstress: float = 0.0

    def read(self, element: ElementTree.Element) -> None:
        """Take what a part of the file says before the first step."""
        if element.tag == "atominfo":
            rows = element.findall("array[@name='atoms']/set/rc")
            self.species = tuple((row[0].text or "").strip() for row in rows)
        elif element.tag == "parameters":
            # A second NELM, of response functions, means something else.
            nelm = element.find(".//separator[@name='electronic convergence']/i[@name='NELM']")
            pstress = element.find(".//separator[@name='ionic']/i[@name='PSTRESS']")
            self.nelm = None if nelm is None else int(nelm.text or "")
            self.pstress = 0.0 if pstress is None else float(pstress.text or "")


def _vasprun(file: BufferedIOBase) -> Iterator[Step]:
    parser: Any = ElementTree.XMLPullParser(("start", "end"))  # typed for other events as well
    header = _Header()
    begun = inside = False
    try:
        for piece in _pieces(file):
            parser.feed(piece)
            for event, element in parser.read_events():
                if element.tag == "calculation":
                    begun, inside = True, event == "start"
                if event == "start":
                    continue
                if element.tag == "calculation":
                    yield _calculation(element, header)
                    element.clear()
                elif not inside:
                    header.read(element)
        parser.close()
    except ElementTree.ParseError:
        if begun:
            yield _UNFINISHED
    except ValueError as error:
        yield Fault(UNREADABLE, f"its header cannot be read ({one_line(error)})")


def _calculation(element: ElementTree.Element, header: _Header) -> Step:
    """One ionic step. What VASP calls e_fr_energy is the free energy."""
    n_electronic = len(element.findall("scstep"))
    if fault := _electronic_fault(n_electronic, header.nelm):
        return fault
    if header.pstress:
        return Fault(
            UNDER_PRESSURE,
            f"PSTRESS is {header.pstress:g} kbar, and a vasprun.xml then holds the enthalpy in "
            "place of the energy; give the OUTCAR of the run alone",
        )
    try:
        cell = _rows(element, "structure/crystal/varray[@name='basis']", 3)
        fractions = _rows(element, "structure/varray[@name='positions']", len(header.species))
        forces = _rows(element, "varray[@name='forces']", len(header.species))
        energy = element.find("energy/i[@name='e_fr_energy']")
        if energy is None:
            raise ValueError("it has no energy")
        stress = None
        if element.find("varray[@name='stress']") is not None:
            kbar = _rows(element, "varray[@name='stress']", 3)
            stress = kbar * VASP_STRESS
        atoms = Atoms(_known(header.species), cell=cell, scaled_positions=fractions, pbc=True)
        return _with_labels(atoms, float(energy.text or ""), forces, stress)
    except ValueError as error:
        return Fault("cannot be read", one_line(error))


def _electronic_fault(n_steps: int, nelm: int | None) -> Fault | None:
    if n_steps == 0:
        reason = "no electron was moved: a step of a force field that VASP learns has no DFT labels"
        return Fault(NO_ELECTRONS, reason)
    if nelm is not None and n_steps >= nelm:
        reason = f"the {nelm} electronic steps that NELM allows were all used"
        return Fault(NOT_CONVERGED, reason)
    return None


def _rows(element: ElementTree.Element, where: str, count: int) -> NDArray[np.float64]:
    """(count, 3) numbers of a varray; raises ValueError for any other number of them."""
    array = element.find(where)
    words = [] if array is None else " ".join(row.text or "" for row in array).split()
    if len(words) != 3 * count:
        raise ValueError(f"{where.rpartition('=')[2].strip(']')} has {len(words)} numbers")
    return np.array(words, dtype=float).reshape(count, 3)


def _known(species: tuple[str, ...]) -> tuple[str, ...]:
    for symbol in species:
        if symbol not in atomic_numbers:
            raise ValueError(f"{symbol!r} is no element")
    return species


# --- OUTCAR ------------------------------------------------------------------------------------


def _outcar(file: BufferedIOBase) -> Iterator[Step]:
    lines = _lines(file)
    head = []
    for line in lines:
        head.append(line)
        if "Iteration" in line:
            break
    else:
        return
    try:
        parsers = [outcar.SpeciesTypes(), outcar.IonsPerSpecies()]
        header = outcar.OutcarHeaderParser(parsers).build(head)
    except Exception as error:  # ASE's parsers raise whatever they trip over
        yield Fault(UNREADABLE, f"its header cannot be read ({one_line(error)})")
        return
    nelm = _NELM.search("".join(head))
    chunk = [head[-1]]
    for line in lines:
        chunk.append(line)
        if _IONIC_END in line:
            chunk += islice(lines, 4)
            yield _ionic_step(chunk, header, int(nelm[1]) if nelm else None)
            chunk = []
    if not any("General timing" in line for line in chunk):
        yield _UNFINISHED


def _lines(file: BufferedIOBase) -> Iterator[str]:
    """Lines as text, up to where an archive is broken."""
    rest = b""
    for piece in _pieces(file):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace") + "\n"


def _ionic_step(lines: list[str], header: dict[str, Any], nelm: int | None) -> Step:
    counts = [int(m[1]) for line in lines if "Iteration" in line and (m := _ITERATION.search(line))]
    if fault := _electronic_fault(max(counts, default=0), nelm):
        return fault
    parsers = [outcar.Cell(), outcar.PositionsAndForces(), outcar.Stress()]
    try:
        atoms = outcar.OutcarChunkParser(header, parsers).build(lines)
        energy = _TOTEN.search("".join(lines[-4:]))
        if energy is None:
            raise ValueError("it has no energy")
        results = atoms.calc.results
        return _with_labels(atoms, float(energy[1]), results["forces"], results.get("stress"))
    except Exception as error:  # ASE's parsers raise whatever they trip over
        return Fault("cannot be read", one_line(error))
