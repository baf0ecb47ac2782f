"""The ASE calculator: conventions of ASE, reuse on many structures, refusals."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.calculators.calculator import PropertyNotImplementedError

from mlff2d import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.models import build_model
from mlff2d.potential import Potential
from tests.potentials import ELEMENTS, SMALL, random_potential
from tests.structures import mos2

N_PER_M = 16.02176634


@pytest.fixture(scope="module")
def calculator() -> MLFF2DCalculator:
    return MLFF2DCalculator(random_potential("nequip"), dtype="float64")


def test_results_have_the_shapes_and_relations_of_ase(calculator: MLFF2DCalculator) -> None:
    atoms = mos2()
    atoms.calc = calculator
    n = len(atoms)
    assert atoms.get_potential_energy() == calculator.results["free_energy"]
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
    assert atoms.get_forces().shape == (n, 3)
    assert np.abs(atoms.get_forces().sum(0)).max() < 1e-10
    stress = atoms.get_stress()
    assert stress.shape == (6,)
    assert stress[2:5] == pytest.approx(np.zeros(3))
    height = atoms.cell[2, 2]
    assert calculator.results["stress_2d"] == pytest.approx(stress[[0, 1, 5]] * height * N_PER_M)


def test_stress_has_the_sign_of_ase(calculator: MLFF2DCalculator) -> None:
    """Positive stress: the energy rises with strain."""
    atoms = mos2()
    atoms.calc = calculator
    stress, volume = atoms.get_stress(voigt=False), atoms.get_volume()
    step, cell = 1e-5, atoms.cell.array.copy()
    energies = []
    for sign in (1, -1):
        atoms.set_cell(cell @ np.diag([1 + sign * step, 1, 1]), scale_atoms=True)
        energies.append(atoms.get_potential_energy())
    slope = (energies[0] - energies[1]) / (2 * step)
    assert slope / volume == pytest.approx(stress[0, 0], rel=1e-6)


def test_one_calculator_on_many_structures_in_turn(calculator: MLFF2DCalculator) -> None:
    structures = [mos2(), graphene(vacuum=7.0), mos2(seed=5), molecule("CH4"), bulk("Cu")]
    structures += [s.copy() for s in structures[:2]]
    structures[-1].cell[2] = 0
    shared, fresh = [], []
    for atoms in structures:
        atoms.calc = calculator
        shared.append((atoms.get_potential_energy(), atoms.get_forces()))
        atoms.calc = MLFF2DCalculator(random_potential("nequip"), dtype="float64")
        fresh.append((atoms.get_potential_energy(), atoms.get_forces()))
    for (e1, f1), (e2, f2) in zip(shared, fresh, strict=True):
        assert e1 == pytest.approx(e2, abs=1e-9)
        assert f1 == pytest.approx(f2, abs=1e-9)


def test_a_moved_cell_is_seen(calculator: MLFF2DCalculator) -> None:
    """Many small steps of the cell with the atoms at rest in it, against fresh calculators."""
    atoms = mos2()
    atoms.calc = calculator
    for _ in range(12):
        atoms.set_cell(atoms.cell.array * [[0.985], [0.985], [1]], scale_atoms=True)
        fresh = MLFF2DCalculator(random_potential("nequip"), dtype="float64")
        assert atoms.get_potential_energy() == pytest.approx(
            fresh.get_potential_energy(atoms.copy()), abs=1e-9
        )


def test_stress_where_there_is_no_volume_or_no_plane(calculator: MLFF2DCalculator) -> None:
    flat = mos2()
    flat.cell[2] = 0
    flat.calc = calculator
    flat.get_potential_energy()
    assert "stress_2d" in calculator.results
    with pytest.raises(PropertyNotImplementedError):
        flat.get_stress()
    boxed = molecule("CH4")
    boxed.cell = [12, 12, 12]
    boxed.calc = calculator
    assert np.array_equal(boxed.get_stress(), np.zeros(6))
    assert "stress_2d" not in calculator.results
    solid = bulk("Cu")
    solid.calc = calculator
    assert np.abs(solid.get_stress()[:3]).min() > 0


def test_float32_is_close_to_float64() -> None:
    atoms = mos2()
    results = {}
    for dtype in ("float32", "float64"):
        atoms.calc = MLFF2DCalculator(random_potential("m3gnet"), dtype=dtype)
        results[dtype] = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())
    for single, double in zip(results["float32"], results["float64"], strict=True):
        assert np.abs(np.subtract(single, double)).max() < 2e-4


def broken(kind: str) -> Atoms:
    atoms = mos2()
    if kind == "nan":
        atoms.positions[1, 2] = np.nan
    elif kind == "overlap":
        atoms.positions[1] = atoms.positions[4]
    elif kind == "image":
        atoms = atoms[:1]
        atoms.cell[0] = (0.2, 0, 0)
    elif kind == "zero vector":
        atoms.cell[1] = 0
    elif kind == "parallel":
        atoms.cell[1] = 2 * atoms.cell[0]
    elif kind == "nan cell":
        atoms.cell[0, 0] = np.nan
    elif kind == "ghost":
        atoms.symbols[0] = "X"
    elif kind == "unknown":
        atoms.symbols[0] = "U"
    elif kind == "empty":
        atoms = Atoms()
    return atoms


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nan", r"atom 1 \(S\) has a position that is NaN"),
        ("overlap", r"atoms 1 \(S\) and 4 \(S\) are 0.000 Å apart"),
        ("image", r"and its periodic image are 0.200 Å apart"),
        ("zero vector", "lattice vector is zero"),
        ("parallel", "linearly dependent"),
        ("nan cell", "cell holds NaN"),
        ("ghost", "atom 0 is no element"),
        ("unknown", "never seen U"),
        ("empty", "no atoms"),
    ],
)
def test_bad_structures_get_a_sentence(calculator: MLFF2DCalculator, kind: str, says: str) -> None:
    with pytest.raises(StructureError, match=says):
        calculator.get_potential_energy(broken(kind))
    assert calculator.get_potential_energy(mos2()) < 0, "still usable afterwards"


def test_nan_from_the_model_is_an_error() -> None:
    potential = random_potential("nequip")
    next(potential.model.parameters()).data.fill_(np.nan)
    calculator = MLFF2DCalculator(potential, dtype="float64")
    with pytest.raises(StructureError, match="NaN or infinity for Mo2S4"):
        calculator.get_potential_energy(mos2())


def test_unknown_dtype() -> None:
    with pytest.raises(ValueError, match="'float32' or 'float64', not 'float16'"):
        MLFF2DCalculator(random_potential("nequip"), dtype="float16")


def test_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="the device 'gpu' cannot be used here"):
        MLFF2DCalculator(random_potential("nequip"), device="gpu")


def test_a_changed_state_is_a_change() -> None:
    torch.manual_seed(0)
    settings = SMALL["megnet"] | {"state": ("temperature",)}
    model = build_model("megnet", settings)
    atoms = mos2()
    atoms.calc = MLFF2DCalculator(Potential(model, dict.fromkeys(ELEMENTS, 0.0)), dtype="float64")
    with pytest.raises(StructureError, match="info has no 'temperature'"):
        atoms.get_potential_energy()
    energies = []
    for temperature in (0.3, 0.6, 0.3):
        atoms.info["temperature"] = temperature
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[2]
    assert abs(energies[0] - energies[1]) > 1e-6
