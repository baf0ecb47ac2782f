"""Errors after relaxation: what is compared with what, and a killed evaluation that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d import checkpoint, cli
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.potential import Potential
from mlff2d.training.evaluation.evaluate import JOURNAL
from mlff2d.training.evaluation.journal import Journal, Relaxed
from tests.judging import judge, potential_file
from tests.training_helpers import METALS, monolayer

LATTICE = {"Cu": 3.6, "Ag": 4.0, "Au": 4.1, "Ni": 3.5, "Pd": 3.8, "Pt": 3.9}


pytestmark = pytest.mark.usefixtures("pairnet")


@dataclass
class Result:
    """What a stand-in for the relaxer returns."""

    atoms: Atoms
    status: str = "converged"
    met: bool = True
    reason: str = ""
    steps: int = 7
    energy: float = 0.0
    area_after: float = 0.0
    thickness: float = 0.0


class Relaxer:
    """Scales the cell in the plane to a lattice constant; counts, fails and dies where told to."""

    def __init__(self, scale: float = 1.0, dies_after: int = 10**9) -> None:
        self.scale, self.calls, self.dies_after = scale, 0, dies_after

    def __call__(
        self, structures: Sequence[Atoms], potential: Potential, **thresholds: float
    ) -> Iterator[tuple[int, Result | StructureError]]:
        """The second before the first and so on: the order in which they are done is any."""
        calculator = MLFF2DCalculator(potential, device="cpu")
        for k in sorted(range(len(structures)), key=lambda k: k ^ 1):
            if self.calls == self.dies_after:
                raise KeyboardInterrupt
            self.calls += 1
            yield k, self.relaxed(structures[k], calculator)

    def relaxed(self, atoms: Atoms, calculator: MLFF2DCalculator) -> Result | StructureError:
        symbols = set(atoms.symbols)
        if symbols == {"Pt"}:
            return StructureError("platinum is not relaxed here")
        relaxed = atoms.copy()
        a = self.scale * np.mean([LATTICE[s] for s in atoms.symbols])
        relaxed.set_cell([a, a, 15.0], scale_atoms=True)
        energy = float(calculator.get_potential_energy(relaxed))
        status = {"Ni": "max-steps", "Au": "rebuilt"}.get(atoms.symbols[0], "converged")
        return Result(
            relaxed,
            status,
            met=status != "max-steps",
            reason="" if status == "converged" else "as it is",
            energy=energy,
            area_after=a * a / len(atoms),
            thickness=float(np.ptp(relaxed.positions[:, 2])),
        )


def trajectories(path: Path) -> Path:
    """Three steps of each pure metal by EMT; the second is at its lattice constant."""
    frames = []
    rng = np.random.default_rng(0)
    for metal in METALS:
        for stretch, force in ((1.05, 0.5), (1.0, 0.01), (1.02, 0.2)):
            atoms = monolayer(metal, metal, rng)
            a = stretch * LATTICE[metal]
            atoms.set_cell([a, a, 15.0], scale_atoms=True)
            atoms.calc = EMT()
            energy = atoms.get_potential_energy()
            forces = np.zeros((2, 3))
            forces[0, 0], forces[1, 0] = force, -force
            atoms.calc = SinglePointCalculator(
                atoms, energy=energy, forces=forces, stress=np.zeros(6)
            )
            atoms.info["material"] = metal
            frames.append(atoms)
    ase.io.write(path, frames)
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    return trajectories(tmp_path / "runs.extxyz")


@pytest.fixture
def model(tmp_path) -> Path:
    return potential_file(tmp_path / "models" / "mine.pt")


def relax(folder: Path, model: Path, data: Path, relaxer: Callable[..., Any], **options):
    return judge(folder, model, data, relaxer=relaxer, **options).sections[1]


def by_key(section: Any) -> dict[str, Any]:
    return {q.key: q for q in section.quantities}


def test_minima_are_compared_with_the_frame_of_lowest_force(model, data, tmp_path) -> None:
    section = relax(tmp_path / "report", model, data, Relaxer(scale=1.1))
    found = by_key(section)
    metals = [m for m in METALS if m not in ("Ni", "Pt")]
    assert [section.population.data.material[s] for s in section.population.ids] == metals
    areas = np.array([LATTICE[m] ** 2 / 2 for m in metals])
    np.testing.assert_allclose(found["area"].true, areas)
    np.testing.assert_allclose(found["area"].predicted["mine"], 1.21 * areas)
    np.testing.assert_allclose(found["area"].predicted["start geometry"], 1.05**2 * areas)
    (table,) = section.tables
    (row,) = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert (row["structures"], row["converged"], row["failed"], row["max-steps"]) == (6, 4, 1, 1)
    assert row["converged, rebuilt"] == 1
    assert "rebuilt" not in row
    assert row["share (%)"] == pytest.approx(400 / 6)


def test_energies_are_those_at_each_minimum(data, tmp_path) -> None:
    """The model at what it relaxed to, with the reference energies that all frames were fitted."""
    model = potential_file(tmp_path / "models" / "mine.pt", data)
    options = {"part": "all", "energies": "given"}
    section = relax(tmp_path / "report", model, data, Relaxer(), **options)
    energy = by_key(section)["energy"]
    potential = checkpoint.load(model)
    references = potential.references.as_dict()
    calculator = MLFF2DCalculator(model, device="cpu")
    frames = ase.io.read(data, ":")
    for k, s in enumerate(section.population.ids):
        z = int(frames[s].numbers[0])
        lowest = frames[s + 1]
        truth = lowest.get_potential_energy() / 2
        assert energy.true[k] == pytest.approx(1000 * (truth - references[z]), abs=0.01)
        mine = frames[s].copy()
        a = LATTICE[lowest.get_chemical_symbols()[0]]
        mine.set_cell([a, a, 15.0], scale_atoms=True)
        predicted = calculator.get_potential_energy(mine) / 2
        assert energy.predicted["mine"][k] == pytest.approx(
            1000 * (predicted - references[z]), abs=0.05
        )


def test_trajectories_without_a_relaxed_frame_are_left_out(model, data, tmp_path) -> None:
    frames = ase.io.read(data, ":")
    for atoms in frames[:3]:
        forces = np.array([[0.5, 0, 0], [-0.5, 0, 0]])
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    ase.io.write(data, frames)
    section = relax(tmp_path / "report", model, data, Relaxer())
    assert "5 trajectories (1 others have none" in section.lines[0]
    assert any(line.startswith("ENERGIES MOVED: the reference") for line in section.lines)
    with pytest.raises(ValueError, match=r"below 0\.001 eV/Å.*--reference"):
        relax(tmp_path / "strict", model, data, Relaxer(), reference_fmax=0.001)


def test_a_frame_without_forces_is_not_taken_for_the_relaxed_one(model, data, tmp_path) -> None:
    frames = ase.io.read(data, ":")
    for atoms in frames[2::3]:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy())
    ase.io.write(data, frames)
    area = by_key(relax(tmp_path / "report", model, data, Relaxer()))["area"]
    wanted = [LATTICE[metal] ** 2 / 2 for metal in METALS if metal not in ("Ni", "Pt")]
    assert sorted(area.true) == pytest.approx(sorted(wanted))


def test_a_reference_potential_equal_to_the_model_leaves_no_error(model, data, tmp_path) -> None:
    section = relax(tmp_path / "report", model, data, Relaxer(), reference=str(model))
    for q in section.quantities:
        np.testing.assert_allclose(q.predicted["mine"], q.true, atol=1e-3)
    assert [row[0] for row in section.tables[0].rows] == ["mine (reference)", "mine"]


def test_a_killed_evaluation_goes_on(model, data, tmp_path) -> None:
    whole = relax(tmp_path / "whole", model, data, Relaxer())
    with pytest.raises(KeyboardInterrupt):
        relax(tmp_path / "report", model, data, Relaxer(dies_after=4))
    journal = tmp_path / "report" / JOURNAL
    assert len(journal.read_text().splitlines()) == 4
    with journal.open("a") as file:
        file.write('{"key": "cut off in the mid')
    rest = Relaxer()
    section = relax(tmp_path / "report", model, data, rest)
    assert rest.calls == 2
    assert len(section.population) == len(whole.population)
    for ours, theirs in zip(section.quantities, whole.quantities, strict=True):
        # The calculator reuses neighbour lists, so that the order of sums depends on the past.
        np.testing.assert_allclose(ours.predicted["mine"], theirs.predicted["mine"], rtol=1e-6)
    again = Relaxer()
    relax(tmp_path / "report", model, data, again)
    assert again.calls == 0
    relax(tmp_path / "report", model, data, again, fmax=0.01)
    assert again.calls == 6  # other thresholds are other relaxations


def test_a_limit_takes_the_same_structures_each_time(model, data, tmp_path) -> None:
    some, more = Relaxer(), Relaxer()
    relax(tmp_path / "report", model, data, some, limit=3)
    assert some.calls == 3
    relax(tmp_path / "report", model, data, more, limit=5)
    assert more.calls == 2


def test_journal_survives_nonsense(tmp_path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(
        'nonsense\n[1]\n{"key": "a"}\n{"key": "b", "result": {"status": "x", "y": 1}}\n'
    )
    journal = Journal(path)
    assert "a" not in journal
    result = Relaxed("converged", True, energy=float("nan"), area=2.5)
    journal.add("c", "model", "structure", result)
    read = Journal(path)["c"]
    assert read.area == 2.5
    assert np.isnan(read.energy)


def test_all_failed_is_one_sentence(model, data, tmp_path) -> None:
    def fails(
        structures: Sequence[Atoms], potential: Potential, **thresholds: float
    ) -> Iterator[tuple[int, StructureError]]:
        for k in range(len(structures)):
            yield k, StructureError("it is not to be")

    with pytest.raises(ValueError, match=r"no structure was relaxed .*it is not to be"):
        relax(tmp_path / "report", model, data, fails)


def test_the_program_relaxes_with_md(tmp_path) -> None:
    """The shipped model against itself: no error, and the page has the section."""
    frames = [ase.io.read(Path(__file__).parents[2] / "examples" / "monolayers.extxyz", index=0)]
    atoms = frames[0]
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    ase.io.write(tmp_path / "one.extxyz", atoms)
    argv = ["evaluate", "universal", tmp_path / "one.extxyz", "--relax", "--reference", "universal"]
    assert cli.main([*map(str, argv), "-o", str(tmp_path / "report")]) == 0
    numbers = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert numbers["relaxed"]["area"]["universal"]["mae"] == 0
    assert numbers["relaxed"]["relaxations"][0]["converged"] == 1
    assert "After relaxation" in (tmp_path / "report" / "index.html").read_text()
