"""Forces and stress against the energies along trajectories: what is right passes in silence, and
each wrong sign or unit is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from ase.units import Bohr, GPa, Hartree, Rydberg, kcal, mol

from mlff2d.training.data.consistency import TrajectoryCheck
from mlff2d.training.data.record import Keys, Record, to_record
from tests.relaxations import labelled, relaxation

KBAR = 0.1 * GPa


@cache
def records() -> tuple[Record, ...]:
    """The steps of four relaxations of cell and atoms, among them cells of another size."""
    found = []
    for number, (metal, seed) in enumerate([("Ag", 0), ("Au", 1), ("Pt", 2), ("Ni", 3)]):
        for atoms in relaxation(25, metal, seed):
            repeated = atoms
            if number % 2:
                repeated = labelled(atoms * (2, 1, 1))
            repeated.info["trajectory"] = f"run {number}"
            found.append(to_record(len(found), repeated, Keys()))
    return tuple(found)


def checked(source: str, steps: Iterator[Record] | tuple[Record, ...]) -> TrajectoryCheck:
    check = TrajectoryCheck(source)
    for record in steps:
        check.add(record)
    return check


def changed(energy: float = 1.0, forces: float = 1.0, stress: float = 1.0) -> Iterator[Record]:
    """The records with labels multiplied, as those of a file in other units are."""
    for r in records():
        yield replace(
            r, energy=energy * r.energy, forces=forces * r.forces, virial=stress * r.virial
        )


def test_right_labels_have_the_slope_one_and_nothing_is_said():
    check = checked("good.extxyz", records())
    forces, stress = check.slopes()
    assert (forces.label, stress.label) == ("forces", "stress")
    assert forces.value == pytest.approx(1, abs=0.02)
    assert stress.value == pytest.approx(1, abs=0.02)
    assert forces.n_steps > 60
    assert check.sentences() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forces": -1}, ["forces", "wrong sign", "by -1 "]),
        ({"forces": Bohr / Rydberg}, ["forces", "Ry/Bohr", "25.7"]),
        ({"forces": Bohr / Hartree}, ["forces", "Hartree/Bohr", "51.4"]),
        ({"forces": mol / kcal}, ["forces", "kcal/mol", "0.0433"]),
        ({"forces": 1000}, ["forces", "meV/Å", "0.001"]),
        ({"stress": -1}, ["stress", "wrong sign", "by -1 "]),
        ({"stress": 1 / GPa}, ["stress", "is in GPa;", "0.0062"]),
        ({"stress": -1 / GPa}, ["stress", "GPa, compression", "-0.0062"]),
        ({"stress": 1 / KBAR}, ["stress", "is in kbar;", "0.00062"]),
        ({"stress": -1 / KBAR}, ["stress", "as VASP writes it", "-0.00062"]),
        ({"stress": Bohr**3 / Rydberg}, ["stress", "Ry/Bohr³", "91.8"]),
        ({"energy": 1 / Hartree}, ["energies", "in Hartree", "27.2"]),
        ({"energy": 1 / Rydberg}, ["energies", "in Rydberg", "13.6"]),
        ({"energy": 1000}, ["energies", "in meV", "0.001"]),
        ({"forces": 3.0}, ["forces", "no unit known"]),
    ],
)
def test_each_wrong_sign_or_unit_is_named(change, words):
    (sentence,) = checked("wrong.extxyz", changed(**change)).sentences()
    assert sentence.startswith("wrong.extxyz: ")
    assert "multiply" in sentence
    for word in words:
        assert word in sentence


def test_both_may_be_wrong():
    sentences = checked("vasp.json", changed(forces=-1, stress=-1 / KBAR)).sentences()
    assert ["forces say" in s for s in sentences] == [True, False]
    assert "as VASP writes it" in sentences[1]


def test_atomic_units_throughout():
    labels = changed(energy=1 / Hartree, forces=Bohr / Hartree, stress=Bohr**3 / Hartree)
    sentences = checked("atomic", labels).sentences()
    assert "Hartree or Rydberg per Bohr" in sentences[0]


def test_energies_per_atom_are_named():
    steps = (replace(r, energy=r.energy / len(r.z)) for r in records())
    (sentence,) = checked("per-atom.db", steps).sentences()
    assert "the energies are per atom" in sentence
    assert "multiply the energies by the number of atoms" in sentence


def test_a_virial_given_as_stress_is_named():
    steps = (replace(r, virial=r.virial * abs(np.linalg.det(r.cell))) for r in records())
    (sentence,) = checked("virial.extxyz", steps).sentences()
    assert "virial in eV" in sentence


def test_the_advice_mends_the_labels():
    """What the sentence says to multiply by gives slopes of one."""
    (sentence,) = checked("kbar", changed(stress=-1 / KBAR)).sentences()
    factor = float(sentence.partition("multiply the stress by ")[2].split()[0])
    mended = checked("kbar", changed(stress=factor * -1 / KBAR))
    assert mended.sentences() == []
    assert mended.slopes()[1].value == pytest.approx(1, abs=0.02)


def test_outliers_change_nothing():
    rng = np.random.default_rng(0)
    steps = [
        replace(r, energy=r.energy + (rng.random() < 0.1) * rng.normal(scale=20)) for r in records()
    ]
    check = checked("outliers", tuple(steps))
    assert check.sentences() == []
    assert all(abs(slope.value - 1) < 0.05 for slope in check.slopes())


def test_random_rattles_of_a_material_make_no_false_alarm():
    """Frames that follow no path, mixed over the materials, as a teacher labels them."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(15):
        for metal in ("Ag", "Au", "Pt", "Ni"):
            atoms = relaxation(25, metal, 0)[-1].copy()
            atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
            strain = np.eye(3)
            strain[:2, :2] += rng.normal(scale=0.01, size=(2, 2))
            atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
            found.append(to_record(len(found), labelled(atoms), Keys()))
    check = checked("rattled", tuple(found))
    assert check.sentences() == []
    (forces, *_) = check.slopes()
    assert forces.n_steps > 30
    assert forces.value == pytest.approx(1, abs=0.2)


def test_unrelated_frames_and_few_steps_say_nothing():
    rng = np.random.default_rng(0)
    wild = tuple(
        replace(r, pos=r.pos + rng.normal(scale=1.0, size=r.pos.shape), forces=-r.forces)
        for r in records()
    )
    assert checked("wild", wild).sentences() == []
    few = tuple(changed(forces=-1))[:15]
    assert checked("few", few).sentences() == []
    assert checked("none", ()).sentences() == []


@pytest.mark.parametrize("absent", ["forces", "virial", "energy"])
def test_absent_labels_are_no_fault(absent):
    steps = (replace(r, **{absent: getattr(r, absent) * np.nan}) for r in records())
    check = checked("sparse", steps)
    assert check.sentences() == []


def test_a_fixed_cell_tells_of_forces_alone():
    found = []
    for seed in range(3):
        atoms = relaxation(25)[-1].copy()
        rng = np.random.default_rng(seed)
        direction = rng.normal(size=atoms.positions.shape)
        for _ in range(12):
            atoms.positions += 0.02 * direction
            atoms.info["trajectory"] = str(seed)
            found.append(to_record(len(found), labelled(atoms), Keys()))
    check = checked("fixed", tuple(found))
    (forces,) = check.slopes()
    assert (forces.label, forces.n_steps > 20) == ("forces", True)
    assert forces.value == pytest.approx(1, abs=0.05)
    (sentence,) = checked("fixed", (replace(r, forces=-r.forces) for r in found)).sentences()
    assert "wrong sign" in sentence


@pytest.mark.parametrize("vacuum", [None, 40.0])
def test_the_vacuum_and_whole_moves_change_nothing(vacuum):
    """Drifting through the cell's boundary, or another height of it, is no motion of atoms."""
    found = []
    for number, atoms in enumerate(relaxation(40)):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.translate([0.9 * number, 0.4 * number, 1.3 * number])
        moved.wrap()
        moved.info["trajectory"] = "drift"
        record = to_record(number, moved, Keys())
        if vacuum:
            cell = record.cell.copy()
            cell[2] = [0.3 * number, 0, vacuum + number]
            record = replace(record, cell=cell)
        found.append(record)
    check = checked("drift", tuple(found))
    assert all(abs(slope.value - 1) < 0.05 for slope in check.slopes())
    assert {slope.label for slope in check.slopes()} == {"forces", "stress"}


def test_memory_does_not_grow(monkeypatch):
    monkeypatch.setattr("mlff2d.training.data.consistency._ROWS", 40)
    monkeypatch.setattr("mlff2d.training.data.consistency._TRAJECTORIES", 3)
    check = TrajectoryCheck("long")
    for repeat in range(5):
        for r in changed(forces=-1):
            check.add(replace(r, trajectory=f"{r.trajectory} {repeat}"))
    assert len(check._rows) == 40
    assert len(check._last) == 3
    assert "wrong sign" in check.sentences()[0]
