"""Splits: nothing that shall not be split is in two parts, and data added later move nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.training.data.compositions import compositions_of
from mlff2d.training.data.splits import PARTS, Split, part_of, split, uniform_of
from mlff2d.training.sections import SplitConfig
from tests.frame_table import FrameTable

BY = ("material", "chemistry", "composition", "prototype", "frame")
FORMULAS = ("MoS2", "WS2", "MoSe2", "Mo2S4", "MoS", "BN", "C2", "BC3", "GaAs", "MoWS4")
SEEDS = st.integers(0, 2**31)
CONFIGS = st.builds(
    SplitConfig,
    by=st.sampled_from(BY),
    val=st.floats(0.1, 0.5),
    test=st.floats(0, 0.45),
    seed=SEEDS,
)


@st.composite
def frames(draw: st.DrawFn, mixed: bool = False) -> list[tuple[str, str, int, int]]:
    """Material, formula, layer group, fingerprint; `mixed` frames of a material differ in these."""
    n = draw(st.integers(1, 12))
    of_material = [
        (draw(st.sampled_from(FORMULAS)), draw(st.sampled_from((0, 1, 78)))) for _ in range(n)
    ]
    rows = []
    for _ in range(draw(st.integers(1, 40))):
        m = draw(st.integers(0, n - 1))
        formula, group = of_material[m]
        if mixed:
            formula = draw(st.sampled_from((formula, *FORMULAS)))
            group = draw(st.sampled_from((0, 1, 78)))
        rows.append((f"m{m}", formula, group, draw(st.integers(0, 2**64 - 1))))
    return rows


def table(rows: list[tuple[str, str, int, int]]) -> FrameTable:
    materials, formulas, groups, prints = zip(*rows, strict=True)
    return FrameTable(
        formulas, materials=materials, layer_groups=list(groups), fingerprints=list(prints)
    )


def parts_of(rows: list[tuple[str, str, int, int]], config: SplitConfig) -> list[str]:
    """The part of each frame, 'left_out' for one in none."""
    data = table(rows)
    found = split(data, config, np.arange(len(data)))
    names = np.full(len(data), "", dtype=object)
    for name in (*PARTS, "left_out"):
        ids = getattr(found, name)
        assert (np.diff(ids) > 0).all()
        assert (names[ids] == "").all()
        names[ids] = name
    assert (names != "").all()
    return names.tolist()


@settings(deadline=None, max_examples=60)
@given(rows=frames(), more=frames(), config=CONFIGS, data=st.data())
def test_subsets_supersets_and_orders_move_nothing(rows, more, config, data):
    before = dict(zip(rows, parts_of(rows, config), strict=True))
    more = [(f"other-{m}", *rest) for m, *rest in more]
    kept = data.draw(st.lists(st.sampled_from(rows), unique=True))
    changed = data.draw(st.permutations([*kept, *more]))
    after = zip(changed, parts_of(changed, config), strict=True)
    for row, part in after:
        assert before.get(row, part) == part


@settings(deadline=None, max_examples=60)
@given(rows=frames(mixed=True), more=frames(mixed=True), config=CONFIGS)
def test_frames_appended_move_nothing_even_in_mixed_materials(rows, more, config):
    assert parts_of(rows + more, config)[: len(rows)] == parts_of(rows, config)


@settings(deadline=None, max_examples=60)
@given(rows=frames(mixed=True), config=CONFIGS)
def test_what_is_never_split_is_in_one_part(rows, config):
    data = table(rows)
    made_of = compositions_of(data, np.arange(len(data)))
    per_frame = {
        "material": list(data.material),
        "chemistry": [made_of.chemistries[row] for row in made_of.of],
        "composition": [made_of.formulas[row] for row in made_of.of],
        "frame": data.fingerprint.tolist(),
    }
    watched = {config.by, "material"} if config.by != "frame" else {"frame"}
    parts = np.array(parts_of(rows, config), dtype=object)
    for by in watched & per_frame.keys():
        names = np.array(per_frame[by], dtype=object)
        inside = [set(names[parts == part]) for part in PARTS]
        assert not inside[0] & inside[1]
        assert not inside[0] & inside[2]
        assert not inside[1] & inside[2]


@settings(deadline=None, max_examples=60)
@given(rows=frames(mixed=True), config=CONFIGS, data=st.data())
def test_filtered_frames_are_in_no_part_and_move_nothing(rows, config, data):
    everything = np.arange(len(rows))
    kept = np.array(sorted(data.draw(st.sets(st.sampled_from(everything.tolist())))), dtype=int)
    full, less = split(table(rows), config, everything), split(table(rows), config, kept)
    for name in (*PARTS, "left_out"):
        assert getattr(less, name).tolist() == [i for i in getattr(full, name) if i in set(kept)]


def test_prototype_is_the_kind_of_compound_and_the_symmetry_of_the_first_frame():
    rows = [
        ("1H-MoS2", "MoS2", 78, 1),
        ("1H-MoS2", "MoS2", 1, 2),  # rattled
        ("1H-WSe2", "W2Se4", 78, 3),  # the same prototype in a larger cell
        ("1T-WSe2", "WSe2", 72, 4),
    ]
    for seed in range(40):
        parts = parts_of(rows, SplitConfig(by="prototype", val=0.3, test=0.3, seed=seed))
        assert parts[0] == parts[1] == parts[2]
        expected = [part_of(f"AB2-{group}", seed, 0.3, 0.3) for group in (78, 72)]
        assert [parts[0], parts[3]] == expected


def test_a_frame_with_the_chemistry_of_another_part_is_left_out():
    rows = [("a", "MoS2", 0, 1), ("a", "WS2", 0, 2), ("b", "WS2", 0, 3)]
    seen = set()
    for seed in range(60):
        parts = parts_of(rows, SplitConfig(by="chemistry", val=0.3, test=0.3, seed=seed))
        together = parts[0] == parts[2]
        assert parts[1] == (parts[0] if together else "left_out")
        seen.add(together)
    assert seen == {True, False}


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, val=st.floats(0, 0.5), more=st.floats(0, 0.2), material=st.text())
def test_a_larger_validation_share_keeps_its_materials(seed, val, more, material):
    if part_of(material, seed, val, 0.1) == "val":
        assert part_of(material, seed, val + more, 0.1) == "val"
    assert (part_of(material, seed, val, 0.1) == "test") == (uniform_of(material, seed) < 0.1)


@pytest.mark.parametrize("by", ["material", "frame"])
def test_shares_come_out_and_depend_on_the_seed(by):
    names = [f"M{k}X2" for k in range(20_000)]
    data = FrameTable(["C"] * len(names), materials=names)
    ids = np.arange(len(names))

    def found(seed: int) -> Split:
        return split(data, SplitConfig(by=by, val=0.1, test=0.05, seed=seed), ids)

    assert len(found(1).val) / len(ids) == pytest.approx(0.1, abs=0.01)
    assert len(found(1).test) / len(ids) == pytest.approx(0.05, abs=0.01)
    assert len(set(found(1).val) & set(found(2).val)) < 0.2 * len(found(1).val)


def test_split_is_the_same_on_every_machine():
    """Written down once: a model file names its seed, and others rebuild its split from that."""
    numbers = [uniform_of(material, 0) for material in ("MoS2", "WS2", "BN")]
    assert numbers == pytest.approx([0.327918, 0.466314, 0.006555], abs=1e-6)
    assert uniform_of("MoS2", 1) == pytest.approx(0.442203, abs=1e-6)
