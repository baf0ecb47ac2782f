"""Random layers have the symmetry and the composition that were drawn."""

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d import cli
from mlff2d.errors import StructureError
from mlff2d.symmetry import layer_symmetry
from mlff2d.training.generation import random_crystals
from mlff2d.training.generation.filters import falls_apart, too_close
from mlff2d.training.generation.random_crystals import (
    CLOSEST,
    N_GROUPS,
    Drawn,
    Given,
    group,
    random_layers,
)

DRAWN = Drawn(("Mo", "Ti", "S", "Se", "C"), (1, 3), (2, 8))


def one(number: int, seed: int = 0) -> Atoms:
    (found,) = random_layers(DRAWN, 1, [number], seed)
    assert isinstance(found, Atoms), found
    return found


@pytest.mark.parametrize("number", [1, 7, 10, 18, 26, 37, 48, 55, 61, 65, 74, 78])
def test_the_group_drawn_is_in_the_group_found(number) -> None:
    atoms = one(number)
    found = layer_symmetry(
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, symprec=0.01
    )
    assert found is not None
    n_drawn = len(group(number).flip)
    # Lagrange: the operations in one cell are a multiple of a subgroup's.
    assert len(found) % n_drawn == 0
    if len(found) == n_drawn:
        assert found.number == number
    assert falls_apart(atoms) is None
    assert too_close(atoms, 0.999 * CLOSEST) is None


def test_no_group_is_left_out() -> None:
    for number in range(1, N_GROUPS + 1):
        chosen = group(number)
        assert len(chosen.plane) == len(chosen.flip) == len(chosen.shift)
        lattice = chosen.lattice(np.random.default_rng(number))
        metric = lattice @ lattice.T
        assert np.allclose([w @ metric @ w.T for w in chosen.plane], metric)
        assert np.isclose(np.linalg.det(lattice), 1)


@given(seed=st.integers(0, 10_000), low=st.integers(1, 6), more=st.integers(0, 6))
@settings(max_examples=50, deadline=None)
def test_compositions_keep_to_their_limits(seed, low, more) -> None:
    counts = Drawn(("Mo", "W", "S", "Se"), (2, 3), (low + 2, low + 2 + more))(
        np.random.default_rng(seed)
    )
    assert low + 2 <= sum(counts.values()) <= low + 2 + more
    assert 2 <= len(counts) <= 3


def test_given_formulas() -> None:
    for atoms in random_layers(Given(("MoS2", "Ti2C"), (3, 6)), 4, [1, 2, 3], seed=1):
        assert isinstance(atoms, Atoms)
        assert atoms.symbols.formula.reduce()[0].format("metal") in ("MoS2", "Ti2C")
        assert len(atoms) in (3, 6)
    for word in ("Mox", "MoX"):
        with pytest.raises(StructureError, match=f"'{word}' is no formula"):
            Given((word,), (3, 6))
    with pytest.raises(StructureError, match="no whole number of MoS2 has 4 to 5 atoms"):
        Given(("MoS2",), (4, 5))


def test_each_is_seeded_alone() -> None:
    few = list(random_layers(DRAWN, 2, [1, 2, 10], seed=4))
    many = list(random_layers(DRAWN, 3, [1, 2, 10], seed=4))
    assert all(isinstance(atoms, Atoms) for atoms in many)
    for a, b in zip(few, many, strict=False):
        assert np.array_equal(a.positions, b.positions)
        assert a.info == b.info
    assert len({atoms.info["config"] for atoms in many}) == 3


def test_what_fits_nowhere_is_told(monkeypatch) -> None:
    monkeypatch.setattr(random_crystals, "_GROUPS_TRIED", 2)
    # Glide planes leave no position of which a cell has one.
    (found,) = random_layers(lambda rng: {"Mo": 1, "S": 1}, 1, [5], seed=0)
    assert isinstance(found, StructureError)
    assert "no connected layer" in str(found)


def test_more_kinds_than_elements_are_refused(tmp_path, capsys) -> None:
    options = ["generate", "random", "--elements", "Mo", "--n", "1", "-o", str(tmp_path / "o.xyz")]
    assert cli.main(options) == 2
    assert "--kinds asks for 2 different elements, and there are 1" in capsys.readouterr().err
    assert cli.main([*options, "--kinds", "1"]) == 0
