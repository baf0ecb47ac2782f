"""Our potentials in torch-sim: the same numbers as the calculator's, and slabs that stay slabs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mlff2d import MLFF2DCalculator, checkpoint
from mlff2d.errors import ModelFileError, StructureError
from tests.potentials import random_potential
from tests.structures import mos2, variant

torch_sim = pytest.importorskip(
    "torch_sim", reason="torch-sim is not installed: pip install 'mlff2d[torch-sim]'"
)
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from mlff2d.torchsim import MLFF2DModel  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> MLFF2DModel:
    return MLFF2DModel(random_potential("m3gnet"))


def state_of(structures: list[Atoms], dtype: torch.dtype = torch.float64) -> object:
    return torch_sim.io.atoms_to_state(structures, CPU, dtype)


def periodic(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.pbc = True
    return atoms


def test_it_is_the_calculator(model: MLFF2DModel) -> None:
    """Slabs written in several ways and a crystal, in one batch; the vacuum bears no stress."""
    slabs = [
        variant(name)[0]
        for name in ("vacuum of 27 Å TTT", "rotated", "straddling TTT", "tilted TTT")
    ]
    structures = [*map(periodic, slabs), bulk("Cu", cubic=True), periodic(mos2(seed=5))]
    found = model(state_of(structures))
    calculator = MLFF2DCalculator(model.potential, device="cpu", dtype="float64")
    first = 0
    for k, atoms in enumerate(structures):
        atoms.calc = calculator
        own = slice(first, first + len(atoms))
        first += len(atoms)
        assert float(found["energy"][k]) == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(found["forces"][own], atoms.get_forces(), atol=1e-9)
        stress = atoms.get_stress(voigt=False)
        np.testing.assert_allclose(found["stress"][k], stress, atol=1e-11)
        assert np.abs(stress).max() > 1e-5
    normal = found["stress"][0] @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert normal.abs().max() < 1e-15


def test_torch_sim_finds_nothing_wrong_with_it() -> None:
    model = MLFF2DModel(None, device="cpu", dtype=torch.float64)
    validate_model_outputs(model, CPU, torch.float64)


def test_systems_come_and_go(model: MLFF2DModel) -> None:
    """What was computed before has no say in what is found now."""
    many = [periodic(mos2(seed=seed)) for seed in range(4)]
    model(state_of(many))
    other = [many[2], bulk("Cu", cubic=True), many[0]]
    fresh = MLFF2DModel(model.potential)(state_of(other))
    for name, value in model(state_of(other)).items():
        np.testing.assert_allclose(value, fresh[name], atol=1e-9)


def test_relaxed_by_torch_sim_the_vacuum_stays() -> None:
    potential = checkpoint.load(dtype=torch.float64)
    structure = periodic(mos2(rattle=0.05))
    structure.set_cell(structure.cell * [[1.02], [1.0], [1.0]], scale_atoms=True)
    model = MLFF2DModel(potential)
    assert model.dtype == torch.float64
    final = torch_sim.optimize(
        [structure],
        model,
        optimizer=torch_sim.frechet_cell_fire,
        convergence_fn=torch_sim.generate_force_convergence_fn(0.02, include_cell_forces=True),
        max_steps=300,
    )
    relaxed = final.to_atoms()[0]
    calculator = MLFF2DCalculator(potential, device="cpu", dtype="float64")
    relaxed.calc = calculator
    assert np.abs(relaxed.get_forces()).max() < 0.02
    assert np.abs(calculator.results["stress_2d"]).max() < 0.1
    assert relaxed.cell[2] == pytest.approx(structure.cell[2], abs=1e-9)
    assert relaxed.cell[0, 0] != pytest.approx(structure.cell[0, 0], abs=1e-3)


def test_a_layer_that_lost_its_periodicity_is_refused(model: MLFF2DModel) -> None:
    with pytest.raises(StructureError, match=r"makes pbc .* False"):
        model(state_of([mos2()]))
    lone = molecule("CH4")
    found = model(state_of([lone]))
    calculator = MLFF2DCalculator(model.potential, device="cpu", dtype="float64")
    lone.calc = calculator
    assert float(found["energy"][0]) == pytest.approx(lone.get_potential_energy(), abs=1e-9)
    assert found["stress"].isnan().all()


def test_what_is_wrong_with_a_structure_is_said(model: MLFF2DModel) -> None:
    with pytest.raises(StructureError, match="Au"):
        model(state_of([bulk("Au")]))
    overlapping = periodic(mos2())
    overlapping.positions[1] = overlapping.positions[0]
    with pytest.raises(StructureError, match="closer than any bond"):
        model(state_of([overlapping]))


def test_models_from_files(tmp_path: Path) -> None:
    model = MLFF2DModel("universal", device="cpu")
    assert model.dtype == torch.float32
    found = model(state_of([periodic(mos2())], torch.float32))
    assert {value.dtype for value in found.values()} == {torch.float32}
    with pytest.raises(ModelFileError, match="univresal"):
        MLFF2DModel("univresal")


def test_a_model_with_a_state_is_refused() -> None:
    potential = random_potential("megnet")
    potential.model.state = ("temperature",)
    with pytest.raises(ModelFileError, match="temperature"):
        MLFF2DModel(potential)
