"""The cell in which a slab is computed, and the way back to the structure given."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2
from ase.calculators.lj import LennardJones
from hypothesis import given
from hypothesis import strategies as st

from mlff2d import slab
from mlff2d.atoms import canonical_slab
from mlff2d.errors import StructureError
from mlff2d.training.labelling.geometry import faces_differ, grid, prepare, reduction
from tests.structures import mos2, turn, variant

VARIANTS = [
    *("vacuum of 12 Å", "vacuum of 27 Å TTT", "no third vector", "short third vector"),
    *("tilted", "tilted TTT"),
    *("left-handed", "swapped", "vacuum first", "vacuum second TTT", "straddling"),
    *("straddling TTT", "another in-plane cell", "rotated", "axes permuted"),
]


def labels(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and stress (3, 3) of a pair potential that no symmetry hides."""
    atoms = atoms.copy()
    atoms.calc = LennardJones(sigma=2.2, epsilon=0.3, rc=5.0, smooth=True)
    return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)


@pytest.mark.parametrize("name", VARIANTS)
def test_labels_come_back_to_the_structure_given(name) -> None:
    atoms, _ = variant(name)
    setting = prepare(atoms, height=15.0, vacuum=10.0)
    computed = setting.atoms
    assert computed.pbc.tolist() == [True, True, False]
    a, b, c = computed.cell.array
    assert c == pytest.approx([0, 0, 15.0])
    assert a[1:] == pytest.approx([0, 0], abs=1e-9)
    assert b[1] > 0
    assert abs(a @ b) <= (0.5 + 1e-6) * min(a @ a, b @ b)
    assert computed.positions[:, 2].min() > 4
    assert computed.positions[:, 2].max() < 11

    energy, forces, stress = labels(computed)
    there, forces, stress = setting.back(computed, forces, stress)
    expected = labels(there)
    assert expected[0] == pytest.approx(energy, abs=1e-9)
    assert expected[1] == pytest.approx(forces, abs=1e-9)
    assert expected[2] == pytest.approx(stress, abs=1e-9)

    # It is the structure given: its lattice in the plane, and every atom where it was in the layer.
    given = canonical_slab(atoms)
    kept = given.pbc
    assert there.cell.array[kept] == pytest.approx(atoms.cell.array[kept])
    moved = there.positions - given.pos
    assert moved == pytest.approx(np.broadcast_to(moved[:1], moved.shape), abs=1e-9)
    assert np.cross(moved[0], slab.normal(atoms.cell.array, kept)) == pytest.approx(0, abs=1e-9)


def test_a_relaxed_cell_comes_back_too() -> None:
    atoms, _ = variant("another in-plane cell")
    turn(atoms)
    setting = prepare(atoms, 15.0, 10.0)
    strain = np.array([[1.02, 0.01, 0], [0.01, 0.97, 0], [0, 0, 1]])
    relaxed = setting.atoms.copy()
    relaxed.set_cell(relaxed.cell.array @ strain, scale_atoms=True)
    relaxed.rattle(0.02, seed=1)
    energy, forces, stress = labels(relaxed)
    there, forces, stress = setting.back(relaxed, forces, stress)
    assert labels(there)[0] == pytest.approx(energy, abs=1e-9)
    assert labels(there)[1] == pytest.approx(forces, abs=1e-9)
    assert labels(there)[2] == pytest.approx(stress, abs=1e-9)
    assert slab.area(there.cell.array, there.pbc) == pytest.approx(
        slab.area(atoms.cell.array, there.pbc) * np.linalg.det(strain)
    )


def test_what_is_fine_is_left_as_it_is() -> None:
    atoms = mx2("MoS2", vacuum=None)
    atoms.set_cell([*atoms.cell[:2], [0, 0, 15.0]])
    atoms.center(axis=2)
    atoms.rattle(0.1, seed=0)
    atoms.pbc = (True, True, False)
    setting = prepare(atoms, 15.0, 10.0)
    assert np.array_equal(setting.frame.positions, atoms.positions)
    assert np.array_equal(setting.frame.cell.array, atoms.cell.array)
    assert setting.atoms.positions == pytest.approx(atoms.positions, abs=1e-12)


def test_thick_layers_get_a_higher_cell() -> None:
    atoms = mos2() + mos2()
    atoms.positions[6:, 2] += 6.2
    setting = prepare(atoms, 15.0, 10.0)
    assert setting.atoms.cell.lengths()[2] == pytest.approx(np.ptp(atoms.positions[:, 2]) + 10.0)


def test_bulk_crystals_are_computed_as_they_stand() -> None:
    atoms = bulk("Cu")
    setting = prepare(atoms, 15.0, 10.0)
    assert setting.atoms == atoms
    assert grid(setting.atoms, 27.0) == (11, 11, 11)


@pytest.mark.parametrize("pbc", [(False, False, False), (True, False, False), (True, True, True)])
def test_what_is_neither_layer_nor_crystal_is_refused(pbc) -> None:
    atoms = Atoms("H2", [(0, 0, 0), (0, 0, 0.74)], cell=[9, 9, 9], pbc=pbc)
    with pytest.raises(StructureError, match="which axis is the vacuum cannot be told"):
        prepare(atoms, 15.0, 10.0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=4), st.floats(1.0, 3.0))
def test_every_cell_of_a_lattice_is_reduced(steps, ratio) -> None:
    best = np.array([[1.0, 0, 0], [0.3, ratio, 0]])
    plane = best.copy()
    for k, times in enumerate(steps):
        plane[k % 2] += times * plane[1 - k % 2]
    combination = reduction(plane)
    assert abs(round(np.linalg.det(combination))) == 1
    reduced = combination @ plane
    a, b = reduced
    assert abs(a @ b) <= (0.5 + 1e-5) * min(a @ a, b @ b)
    lengths = np.sort(np.linalg.norm(reduced, axis=1))
    assert lengths == pytest.approx(np.sort(np.linalg.norm(best, axis=1)))


def test_k_points_by_lengths() -> None:
    atoms = Atoms("C", cell=[3.0, 13.5, 15.0], pbc=(True, True, False))
    assert grid(atoms, 27.0) == (9, 2, 1)
    atoms.cell[0, 0] = 3.0 - 1e-12
    assert grid(atoms, 27.0) == (9, 2, 1)


def test_faces() -> None:
    both = mx2("MoS2", kind="1T", vacuum=6.0)
    assert not faces_differ(both)
    janus = both.copy()
    janus.numbers[1] = 34
    assert faces_differ(janus)
    for seed in range(10):
        rattled = mx2("MoS2", vacuum=6.0)
        rattled.rattle(0.1, seed=seed)
        assert not faces_differ(rattled)
    lean = both * (2, 2, 1)
    del lean[2]  # a vacancy on one side
    assert faces_differ(lean)
