"""The neighbour list against matscipy, and the skin list against fresh lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matscipy.neighbours import neighbour_list as matscipy_list

from mlff2d.neighbors import SkinList, neighbor_list
from mlff2d.slab import complete_cell
from tests.structures import mos2, random_crystal

PBCS = [(a, b, c) for a in (True, False) for b in (True, False) for c in (True, False)]


def as_set(edge_index: np.ndarray, shift: np.ndarray) -> set[tuple[int, ...]]:
    rows = np.concatenate([edge_index.T, shift], axis=1).tolist()
    assert len({tuple(r) for r in rows}) == len(rows), "an edge is listed twice"
    return {tuple(r) for r in rows}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 8),
    pbc=st.sampled_from(PBCS),
    cutoff=st.floats(1.6, 9.0),
)
def test_equals_matscipy(seed: int, n: int, pbc: tuple[bool, bool, bool], cutoff: float) -> None:
    atoms = random_crystal(np.random.default_rng(seed), n, pbc, [6, 16])
    cell, mask = atoms.cell.array, np.array(pbc)
    ours = neighbor_list(atoms.positions, cell, mask, cutoff)
    i, j, shift = matscipy_list(
        "ijS", positions=atoms.positions, cell=complete_cell(cell, mask), pbc=mask, cutoff=cutoff
    )
    assert as_set(*ours) == as_set(np.stack([i, j]), shift)
    assert (np.diff(ours[0][0]) >= 0).all(), "not sorted by receiver"


def test_rows_that_are_not_periodic_do_not_matter() -> None:
    atoms = mos2()
    expected = as_set(*neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 5.0))
    for third in ([0, 0, 0], [0, 0, 1.0], [9.0, -4.0, 2.0], [0, 0, -30.0]):
        cell = np.array([*atoms.cell.array[:2], third])
        assert as_set(*neighbor_list(atoms.positions, cell, atoms.pbc, 5.0)) == expected


@pytest.mark.parametrize("rows", [[[0, 0, 0], [0, 3, 0]], [[3, 0, 0], [6, 0, 0]]])
def test_degenerate_plane_is_refused(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="periodic lattice vector"):
        neighbor_list(
            np.zeros((1, 3)), np.array([*rows, [0, 0, 9.0]]), np.array([True, True, False]), 3.0
        )


def test_order_is_by_receiver_neighbour_and_shift() -> None:
    atoms = mos2()
    edge_index, shift = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
    rows = np.concatenate([edge_index.T, shift], axis=1).tolist()
    assert rows == sorted(rows)


def test_structures_that_exploded() -> None:
    """They are told or searched, where the search for neighbours alone would end the process."""
    atoms = mos2()
    cell, pbc = atoms.cell.array, np.array(atoms.pbc)
    near = as_set(*neighbor_list(atoms.positions[1:], cell, pbc, 5.0))
    for height in (99.0, 300.0, 5e4, -1e7):
        pos = np.array(atoms.positions)
        pos[0, 2] = height
        index, shift = neighbor_list(pos, cell, pbc, 5.0)
        of_rest = (index > 0).all(0)
        assert as_set(index[:, of_rest] - 1, shift[of_rest]) == near
        alone = as_set(index[:, ~of_rest], shift[~of_rest])
        assert {edge[:2] for edge in alone} == {(0, 0)}
    pos[0, 2] = 1e9
    with pytest.raises(ValueError, match="more than 1e\\+08 Å away"):
        neighbor_list(pos, cell, pbc, 5.0)
    wide = np.diag([4000.0, 3000.0, 1.0])
    expected = neighbor_list(atoms.positions, wide, np.zeros(3, bool), 5.0)
    assert as_set(*neighbor_list(atoms.positions, wide, pbc, 5.0)) == as_set(*expected)
    moved = atoms.positions - [0.01, 0.01, 0.0]  # across the corner of the wide cell
    index, shift = neighbor_list(moved + wide[0] * (moved[:, :1] < 0), wide, pbc, 5.0)
    assert as_set(index, 0 * shift) == as_set(*expected)
    with pytest.raises(ValueError, match="images within 5 Å"):
        neighbor_list(atoms.positions, np.diag([0.02, 0.02, 1.0]), pbc, 5.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), step=st.floats(0.0, 0.12), strain=st.floats(0.0, 0.02))
def test_skin_list_equals_a_fresh_list(seed: int, step: float, strain: float) -> None:
    """Also for images many cells away when the cell moves and hardly any atom does."""
    rng = np.random.default_rng(seed)
    atoms = mos2(seed=seed)
    skin_list = SkinList(9.0, skin=0.5)
    for _ in range(12):
        cell, pbc = atoms.cell.array, np.array(atoms.pbc)
        found = skin_list.get(atoms.positions, cell, pbc)
        assert as_set(*found) == as_set(*neighbor_list(atoms.positions, cell, pbc, 9.0))
        atoms.positions += rng.normal(0, step, atoms.positions.shape)
        deformation = np.eye(3)
        deformation[:2, :2] += rng.normal(0, strain, (2, 2))
        atoms.set_cell(cell @ deformation, scale_atoms=True)


def test_skin_list_is_kept_while_it_is_right() -> None:
    atoms = mos2()
    skin_list = SkinList(5.0, skin=0.5)
    for _ in range(5):
        skin_list.get(atoms.positions, atoms.cell.array, atoms.pbc)
        atoms.positions[0, 0] += 0.04
    assert skin_list.n_builds == 1
    atoms.positions[0, 0] += 0.3
    skin_list.get(atoms.positions, atoms.cell.array, atoms.pbc)
    assert skin_list.n_builds == 2
