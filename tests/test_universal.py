"""The model that ships: it is there, it is exact, and its physics is that of 2D materials."""

import csv
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, mx2

from benchmarks.lattice_constants import PBE, monolayer
from benchmarks.slab_checks import derivative_errors, spread
from mlff2d import MLFF2DCalculator, checkpoint
from mlff2d.cli import relax_main
from mlff2d.md.dynamics.result import FINISHED, STOPPED
from mlff2d.md.dynamics.run import run_md
from mlff2d.md.dynamics.settings import MDSettings
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.reading import iter_structures
from tests.shared import DATA, needs_data
from tests.structures import mos2

PACKAGE = Path(checkpoint.__file__).parent


@pytest.fixture(scope="module")
def calculator() -> MLFF2DCalculator:
    return MLFF2DCalculator(dtype="float64")


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert checkpoint.shipped_models() == ["universal"]
    assert (PACKAGE / "data" / "universal.pt").stat().st_size < 5e6
    card = (PACKAGE / "data" / "universal.md").read_text()
    for word in ("Origin", "Licence", "Seed", "held-out", "Limits"):
        assert word.lower() in card.lower(), word
    content = checkpoint.read()
    assert content["training"]["metrics"].keys() >= {"test", "test baseline"}
    assert len(content["elements"]) >= 64


def test_names_of_the_same_model(calculator: MLFF2DCalculator) -> None:
    atoms = mos2()
    energy = calculator.get_potential_energy(atoms)
    for model in ("universal", PACKAGE / "data" / "universal.pt"):
        again = MLFF2DCalculator(model, dtype="float64").get_potential_energy(atoms)
        assert again == energy
    single = MLFF2DCalculator().get_potential_energy(atoms)
    assert single == pytest.approx(energy, abs=1e-4)


@pytest.mark.parametrize("atoms", [mos2(), graphene(vacuum=8.0, size=(2, 1, 1))], ids=str)
def test_derivatives_with_trained_weights(calculator: MLFF2DCalculator, atoms: Atoms) -> None:
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=0)
    forces, virial = derivative_errors(calculator, atoms)
    assert forces < 1e-6
    assert virial < 1e-6


def test_one_slab_one_answer_with_trained_weights(calculator: MLFF2DCalculator) -> None:
    energy, forces, stress = spread(calculator)
    assert energy < 1e-9
    assert forces < 1e-9
    assert stress < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MoS2", "WSe2", "hBN", "graphene"])
def test_lattice_constants_are_near_pbe(calculator: MLFF2DCalculator, name: str) -> None:
    """What it reaches is within 1 %; the table of all is benchmarks.lattice_constants."""
    result = relax(monolayer(name), calculator, RelaxSettings(fmax=0.01, smax=0.02))
    assert result.status == "converged"
    assert result.atoms.cell.lengths()[0] == pytest.approx(PBE[name][0], rel=0.01)


def test_atoms_pushed_together_repel(calculator: MLFF2DCalculator) -> None:
    """Down to half the bond length the energy rises steeply: no hole to fall into."""
    energies = []
    for scale in (1.0, 0.85, 0.7, 0.55):
        atoms = mx2("MoS2", a=3.18, thickness=3.13, vacuum=8.0)
        atoms.set_cell(atoms.cell.array * [[scale], [scale], [1]], scale_atoms=True)
        energies.append(calculator.get_potential_energy(atoms))
    assert (np.diff(energies) > 1.0).all()


@pytest.mark.slow
def test_dynamics_stays_in_what_the_model_knows_and_nonsense_does_not() -> None:
    """Hot layers it knows, and no MoS2 whose atoms are thrown about at random.

    Of carbon it cannot tell: it has so many surroundings in the training set that hardly any are
    farther from them than those of the training atoms are from each other.
    """
    slabs = [
        mx2("MoS2", a=3.2, vacuum=8.0, size=(2, 2, 1)),
        graphene(a=2.467, vacuum=8.0, size=(2, 2, 1)),
    ]
    hot = MDSettings(
        temperature=1000.0,
        timestep=1.5,
        steps=60,
        thermostat_time=20.0,
        unguarded=("temperature", "close", "layer"),
    )
    moved = run_md(slabs, None, hot, tell=print)
    assert [replica.status for replica in moved.replicas] == [FINISHED] * 2
    assert moved.log["temperature"][-2:].min() > 400
    thrown = [slabs[0].copy() for _ in range(3)]
    for seed, slab in enumerate(thrown):
        slab.rattle(0.6, seed=seed)
    shaken = run_md(thrown, None, replace(hot, steps=1), tell=print)
    for replica in shaken.replicas:
        assert replica.status == STOPPED
        assert "as far from the training set" in replica.reason


@needs_data
@pytest.mark.parametrize("file", ["monolayers_2dmatpedia", "mxene_pbe_relaxed"])
def test_relaxing_real_structures(file: str, tmp_path: Path, monkeypatch) -> None:
    """Third-party cells: oddly chosen lattices, pbc TTT, layers across the boundary."""
    monkeypatch.chdir(tmp_path)
    frames = [a for k, a in iter_structures(DATA / f"{file}.extxyz.gz") if k % 500 == 0]
    small = [a for a in frames if isinstance(a, Atoms) and len(a) <= 12][:6]
    ase.io.write("in.extxyz", small)
    assert relax_main(["in.extxyz", "--steps", "300"]) == 0
    with open("in-relaxed.csv") as table:
        rows = list(csv.DictReader(table))
    assert [row["formula"] for row in rows] == [a.get_chemical_formula("metal") for a in small]
    assert sum(row["status"] == "converged" for row in rows) >= len(rows) - 1
    relaxed = ase.io.read("in-relaxed.extxyz", ":")
    for row, before, after in zip(rows, small, relaxed, strict=True):
        assert row["status"] != "failed", row["reason"]
        assert np.allclose(before.cell.array[2], after.cell.array[2], rtol=0, atol=1e-8)
        if row["status"] == "converged":
            forces = after.get_forces()
            assert np.linalg.norm(forces, axis=1).max() <= 0.0201
