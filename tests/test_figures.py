"""Figures: what is drawn is what was given, in one style, without a trace in matplotlib."""

from __future__ import annotations

from io import BytesIO

import matplotlib
import numpy as np
import pytest
from ase.data import atomic_numbers, chemical_symbols
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import image
from matplotlib.figure import Figure

from mlff2d.training.figures.histogram import Bins, bars, histogram
from mlff2d.training.figures.periodic_table import N_ELEMENTS, periodic_table, place_of
from mlff2d.training.figures.style import new_figure, png, save, styled

VALUES = arrays(
    np.float64,
    st.integers(1, 50),
    elements=st.floats(-1e6, 1e6) | st.just(float("nan")) | st.just(float("inf")),
)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_element_has_its_place():
    places = {z: place_of(z) for z in range(1, N_ELEMENTS + 1)}
    assert len(set(places.values())) == N_ELEMENTS
    # Groups as IUPAC numbers them.
    groups = {1: "H Li Na K Rb Cs Fr", 6: "Cr Mo W Sg", 13: "B Al Ga In Tl", 18: "He Ne Ar Kr Og"}
    for group, names in groups.items():
        assert {places[atomic_numbers[x]][1] for x in names.split()} == {group - 1}
    assert [places[z] for z in (1, 2, 3, 5, 21, 42, 72, 118)] == [
        (0, 0),
        (0, 17),
        (1, 0),
        (1, 12),
        (3, 2),
        (4, 5),
        (5, 3),
        (6, 17),
    ]
    assert [places[z] for z in (57, 71, 89, 103)] == [(7.4, 2), (7.4, 16), (8.4, 2), (8.4, 16)]


def test_table_shows_each_value_once_and_grey_without():
    figure = periodic_table({8: 12.345, 42: 2_500_000, 16: np.nan, 26: 31_400}, "Title", "meV")
    written = texts(figure)
    assert [written.count(text) for text in ("12.3", "2.5M", "31.4k", "nan")] == [1, 1, 1, 0]
    assert all(written.count(symbol) == 1 for symbol in chemical_symbols[1 : N_ELEMENTS + 1])
    colours = [patch.get_facecolor() for patch in figure.axes[0].patches]
    assert len(set(colours)) == 4
    assert max(colours.count(colour) for colour in colours) == N_ELEMENTS - 3
    (bar,) = figure.axes[0].child_axes
    assert bar.get_xlabel() == "meV"


@pytest.mark.parametrize(
    "values", [{}, {1: np.nan}, {6: 3.0}, {6: 0.0, 7: 5.0}, {6: -1.0, 7: 5.0}, {6: 1.0, 7: 1.0}]
)
def test_table_of_hardly_anything(values):
    picture = image.imread(BytesIO(png(periodic_table(values, "Title", "eV", log=True), dpi=30)))
    assert picture.min() < 0.6 < picture.max()


def test_table_refuses_what_is_no_element():
    with pytest.raises(ValueError, match="119 is no atomic number"):
        periodic_table({119: 1.0}, "Title", "eV")


@settings(deadline=None, max_examples=80)
@given(values=VALUES, whole=st.booleans())
def test_no_finite_value_gets_lost(values, whole):
    if whole:
        values = np.rint(values[np.isfinite(values)])
    bins = (Bins.whole_numbers if whole else Bins.over)(values)
    assert (np.diff(bins.edges) > 0).all()
    counts = bins.count(values)
    assert counts.sum() == np.isfinite(values).sum()
    assert len(counts) == len(bins.edges) + 1
    if whole:
        assert (np.diff(bins.edges) == bins.edges[1] - bins.edges[0]).all()
        assert len(counts) <= 62


def test_outliers_do_not_hide_the_rest():
    values = np.random.default_rng(0).normal(size=10_000)
    values[:5] = 1e4
    bins = Bins.over(values)
    assert bins.edges[-1] < 10
    assert bins.count(values)[-1] == 5
    assert Bins.whole_numbers([1, 2, 2, 4]).edges.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]


@pytest.mark.parametrize("log", [False, True])
def test_histogram_draws_the_counts(log):
    bins = Bins(np.array([0.0, 1.0, 2.0, 3.0]))
    counts = {"a": bins.count([0.5, 0.5, 2.5, 7.0]), "b": bins.count([-1.0])}
    figure = histogram(counts, bins, "error (eV)", title="Errors", log=log)
    (axes,) = figure.axes
    drawn = [patch.get_data().values.tolist() for patch in axes.patches]
    assert drawn == [[2, 0, 1], [0, 0, 0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert axes.get_title("right") == "1 below, 1 above"
    assert axes.get_xlabel() == "error (eV)"
    assert axes.get_yscale() == ("log" if log else "linear")


def test_bars_are_labelled():
    figure = bars(["72", "78"], [1200, 3], "layer group")
    assert texts(figure) == ["1,200", "3"]
    assert [bar.get_height() for bar in figure.axes[0].patches] == [1200, 3]


def test_pictures_are_the_same_each_time_and_leave_no_trace(tmp_path):
    before = dict(matplotlib.rcParams)
    bins = Bins.over([1.0, 2.0])
    first, second = (histogram({"a": bins.count([1.0])}, bins, "x") for _ in range(2))
    path = save(first, tmp_path / "new" / "v1.0")
    assert path == tmp_path / "new" / "v1.0.png"
    assert save(first, tmp_path / "again.png").read_bytes() == path.read_bytes() == png(second)
    assert dict(matplotlib.rcParams) == before


def test_a_figure_that_fails_leaves_no_trace():
    before = dict(matplotlib.rcParams)

    @styled
    def broken() -> None:
        new_figure()
        assert matplotlib.rcParams["axes.grid"]
        raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert dict(matplotlib.rcParams) == before
