"""Choice of frames along trajectories, against the rule written out."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.training.data.selection import select
from mlff2d.training.sections import SelectionConfig
from tests.frame_table import FrameTable

NAN = float("nan")


def chosen(
    energies: list[float], config: SelectionConfig, trajectories: list[str] | None = None
) -> list[int]:
    """Frames taken of MoS2 with energies in eV/atom."""
    names = ["run"] * len(energies) if trajectories is None else trajectories
    data = FrameTable(
        ["MoS2"] * len(energies), energies=[3 * e for e in energies], trajectories=names
    )
    ids, removed = select(data, np.arange(len(data)), config)
    assert removed is not None
    assert removed.count == len(data) - len(ids)
    return ids.tolist()


def test_without_a_rule_all_are_taken():
    ids, removed = select(FrameTable(["C"] * 5), np.array([1, 3]), SelectionConfig())
    assert ids.tolist() == [1, 3]
    assert removed is None


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 2, 3]), (11, [0, 5, 10]), (12, [0, 6, 11])],
)
def test_a_large_e_cut_means_first_middle_last(n, expected):
    assert chosen([-float(k) for k in range(n)], SelectionConfig(e_cut=1e6)) == expected
    assert chosen([NAN] * n, SelectionConfig(steps=(0, 0.5, 1))) == expected


def test_places_of_wang():
    """[0, N/3, N] of Wang et al. (2022)."""
    config = SelectionConfig(steps=(0, 0.333, 1))
    assert chosen([0.0] * 31, config) == [0, 10, 30]
    assert chosen([0.0] * 4, config) == [0, 1, 3]
    assert chosen([0.0] * 2, config) == [0, 1]


def test_steps_before_a_change_are_taken_and_the_last_is_not():
    energies = [-1.0, -1.5, -1.51, -1.6, -1.6001]
    assert chosen(energies, SelectionConfig(e_cut=0.02)) == [0, 2]
    assert chosen(energies, SelectionConfig(e_cut=0.0)) == [0, 1, 2, 3]


def test_a_step_without_energy_is_passed_over():
    config = SelectionConfig(e_cut=0.02)
    assert chosen([-1.0, NAN, -1.01, -2.0], config) == [2]
    assert chosen([-1.0, NAN, -1.5, -1.5], config) == [0]
    assert chosen([NAN, NAN, NAN, NAN, NAN], config) == [0, 2, 4]


def test_trajectories_may_be_interleaved_and_are_judged_apart():
    names = ["a", "b", "a", "b", "a", "b"]
    energies = [-1.0, -2.0, -1.5, -2.0, -1.5, -2.0]
    assert chosen(energies, SelectionConfig(e_cut=0.1), names) == [0, 1, 3, 5]


def test_only_the_frames_handed_in_count():
    data = FrameTable(["C"] * 6, energies=[0.0, 9.0, 0.01, 0.02, 7.0, 0.03], trajectories=["r"] * 6)
    without_outliers = np.array([0, 2, 3, 5])
    ids, removed = select(data, without_outliers, SelectionConfig(e_cut=0.5))
    assert ids.tolist() == [0, 3, 5]
    assert removed.count == 1
    assert removed.example == "frame 2 (C)"
    assert "0.5 eV/atom" in removed.rule


def written_out(
    rows: list[tuple[str, float]], e_cut: float | None, places: tuple[float, ...]
) -> list[int]:
    """The rule, one trajectory after another."""
    taken = []
    for name in {name for name, _ in rows}:
        steps = [k for k, (other, _) in enumerate(rows) if other == name]
        found = []
        if e_cut is not None:
            known = [k for k in steps if not math.isnan(rows[k][1])]
            for here, following in pairwise(known):
                if abs(rows[here][1] - rows[following][1]) > e_cut:
                    found.append(here)
        if not found:
            found = [steps[math.floor(place * (len(steps) - 1) + 0.5)] for place in places]
        taken += found
    return sorted(set(taken))


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from((0.0, 0.25, 0.5, 2.0, NAN))),
        min_size=1,
        max_size=40,
    ),
    e_cut=st.none() | st.sampled_from((0.0, 0.3, 1.0, 1e6)),
    places=st.lists(st.sampled_from((0.0, 0.25, 0.5, 0.9, 1.0)), min_size=1, max_size=4),
)
def test_against_the_rule_written_out(rows, e_cut, places):
    config = SelectionConfig(e_cut=e_cut, steps=tuple(places))
    names, energies = zip(*rows, strict=True)
    data = FrameTable(["C"] * len(rows), energies=energies, trajectories=names)
    ids, _ = select(data, np.arange(len(data)), config)
    assert ids.tolist() == written_out(rows, e_cut, tuple(places))
