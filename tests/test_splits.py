"""Split by material: no material in two parts, and data added later move nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.training.data.splits import PARTS, part_of, split_by_material, uniform_of

MATERIALS = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=60)
SHARES = st.tuples(st.floats(0, 0.5), st.floats(0, 0.49))
SEEDS = st.integers(0, 2**31)


@settings(deadline=None)
@given(materials=MATERIALS, shares=SHARES, seed=SEEDS)
def test_every_frame_is_in_one_part_and_materials_never_cross(materials, shares, seed):
    ids = np.arange(len(materials))
    split = split_by_material(materials, seed, *shares, ids)
    parts = [getattr(split, name) for name in PARTS]
    assert sorted(np.concatenate(parts).tolist()) == ids.tolist()
    names = [{materials[i] for i in part} for part in parts]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]


@settings(deadline=None)
@given(materials=MATERIALS, more=MATERIALS, shares=SHARES, seed=SEEDS)
def test_added_data_move_nothing(materials, more, shares, seed):
    before = split_by_material(materials, seed, *shares, np.arange(len(materials)))
    together = materials + more
    after = split_by_material(together, seed, *shares, np.arange(len(together)))
    for name in PARTS:
        assert set(getattr(before, name)) <= set(getattr(after, name))


@settings(deadline=None)
@given(materials=MATERIALS, shares=SHARES, seed=SEEDS, data=st.data())
def test_left_out_frames_are_in_no_part_and_move_nothing(materials, shares, seed, data):
    everything = np.arange(len(materials))
    kept = np.array(sorted(data.draw(st.sets(st.sampled_from(everything.tolist())))), dtype=int)
    full = split_by_material(materials, seed, *shares, everything)
    part = split_by_material(materials, seed, *shares, kept)
    for name in PARTS:
        assert getattr(part, name).tolist() == [i for i in getattr(full, name) if i in set(kept)]


@settings(deadline=None)
@given(seed=SEEDS, val=st.floats(0, 0.5), more=st.floats(0, 0.2), material=st.text())
def test_a_larger_validation_share_keeps_its_materials(seed, val, more, material):
    if part_of(material, seed, val, 0.1) == "val":
        assert part_of(material, seed, val + more, 0.1) == "val"
    assert (part_of(material, seed, val, 0.1) == "test") == (uniform_of(material, seed) < 0.1)


def test_shares_come_out_and_depend_on_the_seed():
    materials = [f"M{k}X2" for k in range(20_000)]
    ids = np.arange(len(materials))
    split = split_by_material(materials, 1, 0.1, 0.05, ids)
    assert len(split.val) / len(ids) == pytest.approx(0.1, abs=0.01)
    assert len(split.test) / len(ids) == pytest.approx(0.05, abs=0.01)
    other = split_by_material(materials, 2, 0.1, 0.05, ids)
    assert len(set(split.val) & set(other.val)) < 0.2 * len(split.val)


def test_split_is_the_same_on_every_machine():
    """Written down once: a model file names its seed, and others rebuild its split from that."""
    numbers = [uniform_of(material, 0) for material in ("MoS2", "WS2", "BN")]
    assert numbers == pytest.approx([0.327918, 0.466314, 0.006555], abs=1e-6)
    assert uniform_of("MoS2", 1) == pytest.approx(0.442203, abs=1e-6)
