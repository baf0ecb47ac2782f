"""Recognising slabs, putting them together, and measuring in the plane."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, graphene, graphene_nanoribbon, mx2
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mlff2d import slab
from mlff2d.atoms import canonical_slab, vacuum_axis
from mlff2d.errors import StructureError
from mlff2d.md.slabs import require_slab
from tests.structures import mos2


def test_vacuum_axis() -> None:
    assert vacuum_axis(mos2()) == 2
    assert vacuum_axis(mx2("MoS2", vacuum=6.0)) == 2
    full = mos2()
    full.pbc = True
    assert vacuum_axis(full) == 2
    turned = full.copy()
    turned.set_cell(full.cell.array[[2, 0, 1]])
    assert vacuum_axis(turned) == 0
    assert vacuum_axis(bulk("Cu", cubic=True)) is None
    graphite = graphene(vacuum=1.675)
    graphite.pbc = True
    assert vacuum_axis(graphite) is None
    assert vacuum_axis(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])) is None
    assert vacuum_axis(fcc111("Xe", (1, 1, 1), a=8.0, vacuum=8.0)) == 2


@settings(max_examples=50, deadline=None)
@given(shift=st.floats(-60.0, 60.0), seed=st.integers(0, 1000))
def test_a_cut_layer_is_put_together(shift: float, seed: int) -> None:
    """However the layer lies across the boundary, it comes out in one piece."""
    for pbc in (True, [True, True, False]):
        atoms = mos2(seed=seed)
        thick = slab.thickness(atoms.positions, atoms.cell.array, atoms.pbc)
        atoms.positions[:, 2] += shift
        atoms.pbc = True
        atoms.wrap()
        atoms.pbc = pbc
        whole = canonical_slab(atoms)
        assert whole.pbc.tolist() == [True, True, False]
        assert slab.thickness(whole.pos, atoms.cell.array, whole.pbc) == pytest.approx(thick)


def test_positions_are_believed_where_nothing_says_they_were_wrapped() -> None:
    atoms = mos2()
    for third in ([0, 0, 0], [0, 0, 2.0], [0, 0, 4.0], [1.0, 2.0, 5.0]):
        atoms.cell[2] = third
        assert np.array_equal(canonical_slab(atoms).pos, atoms.positions)
    for shift in (9.0, -11.0, 33.0):  # across the boundary, but never wrapped
        moved = mos2()
        moved.positions[:, 2] += shift
        assert np.array_equal(canonical_slab(moved).pos, moved.positions)
    bilayer = mos2(30.0)
    upper = mos2(30.0)
    upper.positions[:, 2] += 6.5
    bilayer += upper
    assert np.array_equal(canonical_slab(bilayer).pos, bilayer.positions)


def test_plane_axes_follow_the_first_vector_off_z() -> None:
    atoms = mos2()
    pbc = np.array([True, True, False])
    assert np.array_equal(slab.plane_axes(atoms.cell.array, pbc), np.eye(3)[:2])
    rotation = Rotation.random(rng=0).as_matrix()
    axes = slab.plane_axes(atoms.cell.array @ rotation.T, pbc)
    assert axes @ axes.T == pytest.approx(np.eye(2))
    first = atoms.cell.array[0] @ rotation.T
    assert axes[0] == pytest.approx(first / np.linalg.norm(first))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_projector_is_the_one_of_the_span(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.normal(size=(8, 3, 3))
    pbcs = np.array([[(k >> b) & 1 for b in range(3)] for k in range(8)], dtype=bool)
    projectors = slab.batched_projector(torch.tensor(cells), torch.tensor(pbcs)).numpy()
    for cell, pbc, projector in zip(cells, pbcs, projectors, strict=True):
        rows = cell[pbc]
        expected = np.linalg.pinv(rows) @ rows if len(rows) else np.zeros((3, 3))
        assert projector == pytest.approx(expected, abs=1e-8)


def test_batched_stress_agrees_with_the_single_one_and_is_nan_off_slabs() -> None:
    rng = np.random.default_rng(0)
    virial = rng.normal(size=(3, 3))
    virial = virial + virial.T
    atoms = mos2()
    cells = torch.tensor(np.stack([atoms.cell.array] * 2))
    pbc = torch.tensor([[True, True, False], [True, True, True]])
    batched = slab.batched_stress_2d(torch.tensor(np.stack([virial] * 2)), cells, pbc).numpy()
    single = slab.stress_2d(virial, atoms.cell.array, np.array([True, True, False]))
    assert batched[0][[0, 1, 0], [0, 1, 1]] == pytest.approx(single)
    assert np.isnan(batched[1]).all()
    # 1 eV of strain energy derivative over 10 Å² is 1.602 N/m.
    square = np.diag([2.0, 5.0, 0.0])
    stress = slab.stress_2d(np.diag([1.0, 0, 0]), square, np.array([True, True, False]))
    assert stress == pytest.approx([1.602176634, 0, 0])


def test_vacuum_along_two_axes_is_no_slab() -> None:
    """Nobody can tell the plane of a ribbon in a fully periodic box."""
    ribbon = graphene_nanoribbon(2, 2, type="zigzag", saturated=True, vacuum=5.0)
    ribbon.pbc = True
    assert slab.empty_axes(ribbon.positions, ribbon.cell.array) == [0, 1]
    assert vacuum_axis(ribbon) is None
    with pytest.raises(StructureError, match="vacuum along more than one"):
        require_slab(ribbon)
