"""The in-plane cell filter: exact gradients, and nothing outside the plane."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import mx2
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixedPlane
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.errors import StructureError
from mlff2d.md.relaxation.filters import InPlaneCellFilter
from mlff2d.md.relaxation.settings import CELLS
from tests.standins import Morse, copper, rotated


def numeric_forces(movable: InPlaneCellFilter, step: float = 1e-5) -> np.ndarray:
    x = movable.get_positions()
    forces = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        energies = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            movable.set_positions(moved)
            energies.append(movable.get_potential_energy())
        forces[index] = (energies[1] - energies[0]) / (2 * step)
    movable.set_positions(x)
    return forces


@settings(max_examples=18, deadline=None)
@given(
    seed=st.integers(0, 1000),
    row=st.tuples(*[st.floats(-0.6, 0.6)] * 3),
    axis=st.integers(0, 2),
    pbc_c=st.booleans(),
    mode=st.sampled_from(sorted(CELLS)),
    pressure=st.sampled_from([0.0, 3.0, -2.0]),
)
def test_forces_are_the_gradient_at_any_strain(seed, row, axis, pbc_c, mode, pressure) -> None:
    """Of a potential whose energy, unlike that of EMT, does not jump at a cutoff."""
    atoms = rotated(copper(layers=1, seed=seed), seed)
    atoms.set_cell(np.roll(atoms.cell.array, axis + 1, axis=0))
    atoms.pbc = np.roll([True, True, pbc_c], axis + 1)
    atoms.calc = Morse()
    movable = InPlaneCellFilter(atoms, mode, pressure)
    x = movable.get_positions()
    x[-1] = movable.cell_factor * np.array(row) * 0.5
    movable.set_positions(x)
    forces = movable.get_forces()
    assert np.allclose(forces, numeric_forces(movable), atol=2e-6 * max(1, np.abs(forces).max()))
    assert mode != "fixed" or not forces[-1].any()


def test_with_symmetry_the_forces_are_the_gradient_too() -> None:
    """Along what is free; of a start made symmetric the rest is zero anyway, but for the cell."""
    for mode in ("full", "isotropic", "area"):
        atoms = mx2("MoS2", vacuum=6.0) * (2, 1, 1)
        atoms.pbc = (True, True, False)
        atoms.set_cell(atoms.cell.array * [1.01, 1, 1], scale_atoms=True)
        atoms.rattle(0.005, seed=1)
        atoms = rotated(atoms, 4)
        atoms.calc = Morse()
        movable = InPlaneCellFilter(atoms, mode, 0.7, symmetry=True)
        x = movable.get_positions()
        x[-1] = movable.cell_factor * np.array([0.03, 0.02, 0.05])
        movable.set_positions(x)
        forces, numeric = movable.get_forces(), numeric_forces(movable)
        assert np.abs(forces[:-1]).max() > 0.1
        assert np.allclose(forces[:-1], numeric[:-1], atol=1e-5)
        assert np.allclose(forces[-1], numeric[-1], atol=1e-5)
        assert np.linalg.matrix_norm(movable.basis.numpy()[0]).round(6).sum() == (mode != "area")


def test_symmetry_moves_the_atoms_to_it_and_says_how_far() -> None:
    atoms = mx2("MoS2", vacuum=6.0)
    atoms.pbc = (True, True, False)
    perfect = atoms.copy()
    atoms.positions[0] += [0.0, 0.0, 0.02]
    moved = atoms.copy()
    atoms.calc = Morse()
    movable = InPlaneCellFilter(atoms, symmetry=True)
    moves = atoms.positions - moved.positions
    assert movable.symmetrized == pytest.approx(np.linalg.norm(moves, axis=1).max())
    assert movable.symmetrized == pytest.approx(0.02 * 2 / 3)
    assert np.allclose(moves.mean(0), 0, atol=1e-12), "the layer as a whole stays"
    assert atoms.positions[:, 2].mean() - perfect.positions[:, 2].mean() == pytest.approx(0.02 / 3)


def test_gradient_across_the_boundary_of_a_tilted_vacuum_vector() -> None:
    atoms = copper()
    atoms.cell[2] = [1.1, 0.7, 14.0]
    atoms.pbc = True
    atoms.positions += [0, 0, 8.0 - atoms.positions[:, 2].min() + 5.0]
    atoms.wrap()
    assert np.ptp(atoms.positions[:, 2]) > 10, "the layer should be cut by the boundary"
    atoms.calc = Morse()
    movable = InPlaneCellFilter(atoms)
    x = movable.get_positions()
    x[-1] = movable.cell_factor * np.array([0.1, -0.05, 0.08])
    movable.set_positions(x)
    assert np.allclose(movable.get_forces(), numeric_forces(movable), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    row=st.tuples(*[st.floats(-2, 2)] * 3),
    axis=st.integers(0, 2),
    zero=st.booleans(),
)
def test_only_the_plane_is_deformed(seed, row, axis, zero) -> None:
    atoms = rotated(copper(seed=seed), seed)
    atoms.cell[2] = 0.0 if zero else atoms.cell[2] + 0.3 * atoms.cell[0]
    order = np.roll([0, 1, 2], axis)
    atoms.set_cell(atoms.cell.array[order])
    atoms.pbc = atoms.pbc[order]
    vacuum = int(np.flatnonzero(~atoms.pbc)[0])
    before, normal = atoms.copy(), np.cross(*atoms.cell.array[atoms.pbc])
    normal /= np.linalg.norm(normal)
    movable = InPlaneCellFilter(atoms)
    x = movable.get_positions()
    x[-1] = row
    movable.set_positions(x)
    assert np.array_equal(atoms.cell[vacuum], before.cell[vacuum])
    assert np.allclose(atoms.cell.array[atoms.pbc] @ normal, 0, atol=1e-12)
    assert np.allclose(atoms.positions @ normal, before.positions @ normal, atol=1e-12)
    growth = np.linalg.norm(np.cross(*atoms.cell.array[atoms.pbc])) / np.linalg.norm(
        np.cross(*before.cell.array[before.pbc])
    )
    assert growth == pytest.approx(np.exp((row[0] + row[1]) / movable.cell_factor))
    assert np.allclose(movable.get_positions(), x, atol=1e-12)


def test_same_minimum_as_ase() -> None:
    ours, theirs = copper(), copper()
    ours.calc, theirs.calc = EMT(), EMT()
    FIRE(InPlaneCellFilter(ours), logfile=None).run(fmax=1e-4, steps=500)
    mask = [True, True, False, False, False, True]
    FIRE(FrechetCellFilter(theirs, mask=mask), logfile=None).run(fmax=1e-4, steps=500)
    areas = [np.linalg.norm(np.cross(*a.cell.array[:2])) for a in (ours, theirs)]
    assert areas[0] == pytest.approx(areas[1], rel=1e-4)
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-6)


def test_fixed_atoms_keep_their_place_in_the_cell() -> None:
    atoms = copper()
    atoms.set_constraint(FixAtoms([0, 3]))
    atoms.calc = EMT()
    before, cell = atoms.get_scaled_positions(), atoms.cell.array.copy()
    movable = InPlaneCellFilter(atoms)
    FIRE(movable, logfile=None).run(fmax=1e-3, steps=300)
    assert not np.allclose(atoms.cell.array, cell, atol=1e-3)
    assert np.allclose(atoms.get_scaled_positions()[[0, 3]], before[[0, 3]], atol=1e-10)
    free = np.delete(np.arange(len(atoms) + 1), [0, 3])
    assert np.allclose(movable.get_forces()[free], numeric_forces(movable)[free], atol=1e-6)


def test_what_is_not_a_slab_is_refused() -> None:
    bulk = Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True)
    with pytest.raises(StructureError, match="vacuum"):
        InPlaneCellFilter(bulk)
    for pbc, word in ((False, "molecule"), ((True, False, False), "chain")):
        with pytest.raises(StructureError, match=word):
            InPlaneCellFilter(Atoms("Cu", cell=[2.5, 2.5, 12], pbc=pbc))
    held = copper()
    held.set_constraint(FixedPlane([0], [0, 0, 1]))
    with pytest.raises(StructureError, match="FixedPlane"):
        InPlaneCellFilter(held)
