"""The elements of generated structures: places in the periodic table, classes, distances."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlff2d.checkpoint import load
from mlff2d.errors import StructureError
from mlff2d.training.generation.elements import (
    CLASSES,
    ELEMENTS,
    chemical_distance,
    chosen_elements,
    group,
    ionic_radius,
    neighbours,
    oxidation_states,
    period,
)


def test_elements_are_those_of_the_universal_model() -> None:
    assert [*range(1, 84), *range(89, 95)] == list(load(None).elements)
    assert len(ELEMENTS) == 89
    assert len(set(ELEMENTS)) == 89


@pytest.mark.parametrize(
    ("symbol", "column", "row"),
    [
        ("H", 1, 1),
        ("He", 18, 1),
        ("C", 14, 2),
        ("Mo", 6, 5),
        ("W", 6, 6),
        ("Hf", 4, 6),
        ("Bi", 15, 6),
    ],
)
def test_columns_and_rows(symbol: str, column: int, row: int) -> None:
    assert (group(symbol), period(symbol)) == (column, row)


def test_series_follow_in_the_third_column() -> None:
    assert group("La") == group("Ac") == group("Y") == 3
    assert [group(s) for s in ("La", "Ce", "Gd", "Lu")] == sorted(
        group(s) for s in ("La", "Ce", "Gd", "Lu")
    )
    assert group("Lu") < 4
    assert group("Th") == group("Ce")


def test_classes_hold_what_their_names_say() -> None:
    assert CLASSES["halogen"] == {"F", "Cl", "Br", "I"}
    assert CLASSES["chalcogen"] == {"O", "S", "Se", "Te"}
    assert len(CLASSES["lanthanide"]) == 15
    assert CLASSES["transition"] & CLASSES["lanthanide"] == set()
    assert {"Sc", "Zn", "Hf", "Hg"} <= CLASSES["transition"]
    assert not CLASSES["metal"] & (CLASSES["halogen"] | CLASSES["chalcogen"] | CLASSES["noble"])
    every = set().union(*CLASSES.values())
    assert every == set(ELEMENTS) - {"H"}


@given(st.sampled_from(ELEMENTS), st.sampled_from(ELEMENTS))
def test_chemical_distance_is_a_distance(one: str, other: str) -> None:
    distance = chemical_distance(one, other)
    assert distance == chemical_distance(other, one)
    assert (distance == 0) == (one == other)
    assert (other in neighbours(one, 2.0)) == (0 < distance <= 2)


def test_neighbours_are_what_a_chemist_expects() -> None:
    assert set(neighbours("S", 1.0)) == {"O", "Se", "P", "Cl"}
    assert "Eu" in neighbours("Gd", 0.5)
    assert chemical_distance("H", "F") == 1


def test_words_for_elements() -> None:
    assert chosen_elements(["Mo", "halogen"], ["I"]) == ("F", "Cl", "Br", "Mo")
    assert chosen_elements([], []) == ELEMENTS
    with pytest.raises(StructureError, match="Did you mean 'halogen'"):
        chosen_elements(["halogens"], [])
    with pytest.raises(StructureError, match="No element is left"):
        chosen_elements(["Mo"], ["transition"])


def test_ions_of_higher_charge_are_smaller() -> None:
    for symbol in ELEMENTS:
        positive = sorted(q for q in oxidation_states(symbol) if q > 0)
        radii = [ionic_radius(symbol, q) for q in positive]
        assert radii == sorted(radii, reverse=True), symbol


def test_the_lanthanides_contract() -> None:
    radii = [ionic_radius(s, 3) for s in ELEMENTS if s in CLASSES["lanthanide"]]
    assert radii == sorted(radii, reverse=True)
