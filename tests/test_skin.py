"""Neighbour lists of many slabs against fresh lists of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.md.skin import Neighbours, SkinLists
from mlff2d.md.slabs import Slabs, join, one_slab
from mlff2d.neighbors import neighbor_list
from tests.structures import mos2, variant

CUTOFF = 5.0


def slabs_of(*names: str) -> Slabs:
    return join([one_slab(variant(name)[0], 10 + k) for k, name in enumerate(names)])


def rows(index: np.ndarray, shift: np.ndarray) -> list[list[int]]:
    return np.concatenate([index.T, shift], axis=1).tolist()


def fresh(slabs: Slabs) -> list[list[int]]:
    """All edges, structure after structure, as rows i, j, shift."""
    found = []
    for s in range(slabs.n_structures):
        atoms = slabs.atoms_of(s)
        geometry = slabs.pos[atoms], slabs.cell[s], slabs.pbc[s]
        index, shift = neighbor_list(*(x.numpy() for x in geometry), CUTOFF)
        found += rows(index + atoms.start, shift)
    return found


def assert_same(found: Neighbours, expected: Neighbours) -> None:
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.shift, expected.shift)
    assert torch.equal(found.distance, expected.distance)
    assert torch.equal(found.count, expected.count)
    assert found.troubles == expected.troubles


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), step=st.floats(0.0, 0.1), strain=st.floats(0.0, 0.02))
def test_equal_to_fresh_lists_while_all_move_come_and_go(
    seed: int, step: float, strain: float
) -> None:
    rng = np.random.default_rng(seed)
    lists = SkinLists(CUTOFF)
    slabs = slabs_of("vacuum of 12 Å", "vacuum first", "no third vector", "rotated", "tilted TTT")
    for k in range(12):
        found = lists.get(slabs)
        assert rows(found.index.numpy(), found.shift.numpy()) == fresh(slabs)
        assert_same(found, SkinLists(CUTOFF).get(slabs))
        assert int(found.count.sum()) == found.index.shape[1]
        deformation = torch.from_numpy(
            np.eye(3) + rng.normal(0, strain, (slabs.n_structures, 3, 3))
        )
        pos = torch.bmm(slabs.pos.unsqueeze(1), deformation[slabs.batch]).squeeze(1)
        pos += torch.from_numpy(rng.normal(0, step, pos.shape))
        slabs = slabs.moved(pos, slabs.cell @ deformation)
        if k % 3 == 2:
            kept = torch.from_numpy(rng.random(slabs.n_structures) < 0.6)
            kept[0] = True
            new = one_slab(mos2(seed=seed + k), 100 + k)
            slabs = join([new, slabs.select(kept)] if k % 2 else [slabs.select(kept), new])


def test_only_the_lists_of_those_that_moved_are_made_again() -> None:
    slabs = slabs_of("vacuum of 12 Å", "rotated", "swapped")
    lists = SkinLists(CUTOFF)
    lists.get(slabs)
    assert lists.n_builds == 3
    pos = slabs.pos.clone()
    pos[slabs.atoms_of(1)] += 0.1  # 0.17 Å, below half of the skin
    lists.get(slabs.moved(pos))
    assert lists.n_builds == 3
    pos[slabs.atoms_of(1)] += 0.1
    lists.get(slabs.moved(pos))
    assert lists.n_builds == 4
    lists.get(slabs.moved(pos).select(torch.tensor([False, True, True])))
    assert lists.n_builds == 4
    shrunk = slabs.cell.clone()
    shrunk[2] *= 0.9  # the atoms stay as they are and images come nearer
    lists.get(slabs.moved(pos, shrunk).select(torch.tensor([False, True, True])))
    assert lists.n_builds == 5


def test_positions_may_be_moved_in_place() -> None:
    slabs = slabs_of("vacuum of 12 Å", "rotated")
    lists = SkinLists(CUTOFF)
    lists.get(slabs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        slabs.pos.add_(0.2 * torch.randn(slabs.pos.shape, generator=generator))
        slabs.cell[0].mul_(0.97)
        assert_same(lists.get(slabs), SkinLists(CUTOFF).get(slabs))


def test_a_key_may_come_again_with_another_structure() -> None:
    lists = SkinLists(CUTOFF)
    for atoms in (mos2(), mos2() * (2, 1, 1), mos2(seed=5), variant("vacuum first")[0]):
        slabs = one_slab(atoms, 7)
        assert_same(lists.get(slabs), SkinLists(CUTOFF).get(slabs))


def test_two_with_one_key_are_refused() -> None:
    slabs = slabs_of("vacuum of 12 Å", "rotated")
    with pytest.raises(ValueError, match="same key"):
        SkinLists(CUTOFF).get(replace(slabs, key=torch.tensor([3, 3])))
    with pytest.raises(ValueError, match="positive"):
        SkinLists(0.0)
    with pytest.raises(ValueError, match="skin"):
        SkinLists(4.0, -0.1)


@pytest.mark.parametrize("trouble", ["NaN", "infinite cell", "flat cell", "far away"])
def test_one_in_trouble_has_no_edges_and_leaves_the_others_alone(trouble: str) -> None:
    slabs = slabs_of("vacuum of 12 Å", "rotated", "vacuum first")
    lists = SkinLists(CUTOFF)
    before = lists.get(slabs)
    pos, cell = slabs.pos.clone(), slabs.cell.clone()
    if trouble == "NaN":
        pos[slabs.atoms_of(1).start, 2] = torch.nan
    elif trouble == "infinite cell":
        cell[1, 0, 0] = torch.inf
    elif trouble == "flat cell":
        cell[1, 1] = 2 * cell[1, 0]
    else:
        pos[slabs.atoms_of(1).start, 2] = 1e12
    for _ in range(2):  # also when it is known
        found = lists.get(slabs.moved(pos, cell))
        assert list(found.troubles) == [11]
        assert found.count.tolist() == [int(before.count[0]), 0, int(before.count[2])]
        kept = slabs.batch[before.index[0]] != 1
        assert torch.equal(found.index, before.index[:, kept])
    assert_same(lists.get(slabs), before)
