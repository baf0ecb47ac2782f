"""A screen whose relaxations are made up, quick, and depend on who is relaxed beside whom."""

import math
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.errors import StructureError
from mlff2d.md.relaxation.result import CONVERGED, MAX_STEPS, RelaxResult
from mlff2d.md.screen.block import Report, run_block, silent
from mlff2d.md.screen.compose import Outputs, compose
from mlff2d.md.screen.run_folder import RunFolder, open_run
from mlff2d.md.screen.summary import Summary
from mlff2d.sources import Sources
from tests import standins

IDENTITY = {"model": "wandering", "fmax": 0.02}
CAPACITY = 4
LONGEST = 17


def sheet(scale: float = 1.0) -> Atoms:
    atoms = standins.sheet(1, 1, 3.6 * scale)
    atoms.info = {"material": f"sheet {scale}"}
    return atoms


def write_sheets(path: Path, number: int) -> Path:
    """Sheets, of which every fifth is a molecule and refused."""
    for k in range(number):
        atoms = sheet(1 + 0.01 * k)
        atoms.pbc = atoms.pbc if k % 5 != 3 else False
        ase.io.write(path, atoms, append=True)
    return path


def outputs_in(folder: Path) -> Outputs:
    return Outputs(folder / "out.extxyz", folder / "out.csv")


def assert_same(folder: Path, whole: Path) -> None:
    for ours, theirs in zip(outputs_in(folder).paths, outputs_in(whole).paths, strict=True):
        assert ours.read_bytes() == theirs.read_bytes(), ours.name


class Killed(BaseException):
    """Stands in for a kill: nothing in the program may catch it."""


class Wandering:
    """A relaxer whose numbers depend on all that is in flight, killed after so many turns."""

    def __init__(self, turns: float = math.inf, one_by_one: bool = False) -> None:
        self.turns, self.one_by_one = turns, one_by_one
        self.structure_steps = 0
        self.begun: list[int] = []
        self.notes: list[str] = []
        self._next, self._flight = 0, []

    def start(self) -> "Wandering":
        self.structure_steps = 0
        return self

    def run(self, structures, snapshot=None):
        self._next, self._flight = 0, []
        if snapshot:
            self._next, self.structure_steps = snapshot["next"], snapshot["structure_steps"]
            self._flight = [list(entry) for entry in snapshot["flight"]]
        while self._next < len(structures) or self._flight:
            yield self._turn(dict(structures), structures)

    def _turn(self, atoms, structures):
        self.turns -= 1
        if self.turns < 0:
            raise Killed
        finished = []
        capacity = 1 if self.one_by_one else CAPACITY
        while self._next < len(structures) and len(self._flight) < capacity:
            key, entering = structures[self._next]
            self._next += 1
            self.begun.append(key)
            if not entering.pbc.any():
                finished.append((key, StructureError("it is a molecule, not a slab")))
            else:
                self.entered(key, entering)
                self._flight.append([key, float(entering.cell[0, 0]), 0])
        total = math.fsum(x for _, x, _ in self._flight)
        for entry in self._flight:
            entry[1] += math.sin(7 * entry[1] + total)
            entry[2] += 1
            self.structure_steps += 1
        for key, x, steps in self._flight:
            if steps >= 1 + key * 5 % LONGEST:
                finished.append((key, result_of(atoms[key], x, steps)))
        done = {key for key, _ in finished}
        self._flight = [entry for entry in self._flight if entry[0] not in done]
        return finished

    def entered(self, key: int, atoms: Atoms) -> None:
        """For those that trip over a structure."""

    def snapshot(self) -> dict:
        return {
            "next": self._next,
            "structure_steps": self.structure_steps,
            "flight": [list(entry) for entry in self._flight],
        }


def result_of(atoms: Atoms, energy: float, steps: int) -> RelaxResult:
    returned = atoms.copy()
    returned.calc = SinglePointCalculator(returned, energy=energy, forces=np.zeros((len(atoms), 3)))
    status = CONVERGED if steps < LONGEST - 1 else MAX_STEPS
    return RelaxResult(
        atoms=returned,
        status=status,
        reason="" if status == CONVERGED else f"not converged after {steps} steps",
        met=status == CONVERGED,
        steps=steps,
        energy=energy,
        fmax=0.01,
        stress_2d=np.zeros(3),
        smax=0.0,
        area_before=5.0,
        area_after=5.1,
        thickness=0.0,
        symmetrized=0.0,
        layer_group_before=80,
        layer_group_after=80,
        lattice_before="hexagonal",
        lattice_after="hexagonal",
    )


def open_folder(source: Path, outputs: Outputs, **kwargs) -> tuple[RunFolder, Sources]:
    sources = Sources([source])
    identity = {"input": sources.digest, **IDENTITY}
    return open_run(outputs.frames, outputs.paths, identity, len(sources), **kwargs), sources


def screen(
    source: Path,
    outputs: Outputs,
    work: Wandering | None = None,
    shard: tuple[int, int] | None = None,
    report: Report = silent,
    **kwargs,
) -> Summary:
    folder, sources = open_folder(source, outputs, **kwargs)
    for k in folder.plan.share(shard):
        run_block(folder, k, sources.read(*folder.plan.span(k)), work or Wandering(), report)
    return compose(folder, outputs)
