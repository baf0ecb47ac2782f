"""Which structures count as the same, and which are no structures worth a calculation."""

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, make_supercell, mx2
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.training.generation.duplicates import Known, difference
from mlff2d.training.generation.filters import falls_apart, too_close, too_many
from mlff2d.training.generation.layers import standard
from mlff2d.training.generation.options import TOLERANCE
from tests.structures import VARIANTS, mos2, turn, variant

CELLS = [
    np.array(m) for m in ([[1, 0], [1, 1]], [[0, 1], [-1, 0]], [[2, 1], [1, 1]], [[2, 0], [1, 1]])
]


def flat(atoms: Atoms) -> Atoms:
    atoms.center(vacuum=8, axis=2)
    atoms.pbc = (True, True, False)
    return atoms


def strip(colours: tuple[int, ...], kind: str = "1T") -> Atoms:
    """MoS2, a row of cells of which some have W."""
    atoms = flat(mx2("MoS2", kind=kind, a=3.18)) * (len(colours), 1, 1)
    metals = np.flatnonzero(atoms.numbers == 42)
    atoms.numbers[metals[np.array(colours) == 1]] = 74
    return atoms


def same(one: Atoms, other: Atoms) -> bool:
    known = Known()
    assert known.add(one, "one") is None
    return known.add(other, "other") == "one"


@given(
    seed=st.integers(0, 1000),
    cell=st.sampled_from(CELLS),
    mirror=st.sampled_from([(1, 1, 1), (-1, 1, 1), (1, 1, -1), (-1, -1, -1)]),
    size=st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=25, deadline=None)
def test_the_same_layer_written_otherwise(seed, cell, mirror, size) -> None:
    rng = np.random.default_rng(seed)
    start = mos2(rattle=size, seed=seed)
    matrix = np.eye(3, dtype=int)
    matrix[:2, :2] = cell
    other = make_supercell(start, matrix)
    other.set_cell(other.cell.array * mirror)
    other.positions = other.positions * mirror + [*rng.uniform(-9, 9, 2), 0.0]
    other = other[rng.permutation(len(other))]
    turn(other, seed)
    assert same(start, other)
    assert same(other, start)
    assert difference(start, other) < 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_conventions_of_a_slab_do_not_count(name) -> None:
    assert same(mos2(), variant(name)[0])


@given(seed=st.integers(0, 1000), atom=st.integers(0, 5), direction=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_a_moved_atom_makes_another(seed, atom, direction) -> None:
    start = mos2(seed=seed)
    other = start.copy()
    other.positions[atom, direction] += 0.06
    assert not same(start, other)
    other.positions[atom, direction] -= 0.06 - 0.002
    assert same(start, other)


def test_hard_cases_are_told_apart() -> None:
    sheet = flat(graphene())
    buckled = sheet.copy()
    buckled.positions[0, 2] += 0.06
    assert not same(sheet, buckled), "distances hardly differ, heights do"
    trigonal, octahedral = (flat(mx2("MoS2", kind=kind)) for kind in ("2H", "1T"))
    assert not same(trigonal, octahedral)
    strained = sheet.copy()
    strained.set_cell(sheet.cell.array * [[1.01], [1.01], [1]], scale_atoms=True)
    assert not same(sheet, strained)
    swapped = mos2(rattle=0.0)
    swapped.numbers = [16, 42, 42, 16, 42, 42]
    assert not same(mos2(rattle=0.0), swapped), "another composition"


def test_colourings_that_look_alike_nearby() -> None:
    one, other = (0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1), (0, 0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1)
    assert difference(strip(one), strip(other)) < TOLERANCE
    assert not same(strip(one), strip(other))
    assert same(strip(one), strip(one[4:] + one[:4]))
    assert same(strip(one), strip(one[7::-1] + one[:7:-1]))


@pytest.mark.parametrize(("kind", "expected"), [("1T", 13), ("2H", 14)])
def test_all_colourings_of_a_row_stay(kind, expected) -> None:
    """Necklaces of six beads: 14; where the layer's inversion reverses them, 13."""
    known, found = Known(), 0
    for colours in product((0, 1), repeat=6):
        found += known.add(strip(colours, kind), str(colours)) is None
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["2H", "1T"])
def test_no_enumerated_cell_is_dropped(kind) -> None:
    enumerate_structures = pytest.importorskip("icet.tools").enumerate_structures
    parent, known, n = flat(mx2("MoS2", kind=kind, a=3.18)), Known(), 0
    for atoms in enumerate_structures(parent, range(1, 6), [["Mo", "W"], ["S"], ["S"]]):
        assert known.add(standard(atoms), str(n)) is None
        n += 1
    assert n == 27


def test_filters_say_why() -> None:
    layer = mos2()
    assert too_many(layer, 6) is None
    assert too_many(layer, 5) == "6 atoms, more than 5"
    assert too_close(layer) is None
    assert falls_apart(layer) is None
    close = layer.copy()
    close.positions[1] = close.positions[0] + [0, 0, 1.2]
    assert "1.20 Å apart" in (too_close(close) or "")
    wide = layer.copy()
    wide.set_cell(wide.cell.array * [[1], [2], [1]])
    assert falls_apart(wide) == "it is a chain, not connected to its images"
    wide.set_cell(wide.cell.array * [[3], [1], [1]])
    assert falls_apart(wide) == "it is a molecule, not connected to its images"
    bilayer = layer + layer
    bilayer.positions[6:, 2] += 6.5
    assert falls_apart(bilayer) == "it is 2 pieces"


def test_a_connection_through_the_cell_boundary_counts() -> None:
    atoms = Atoms("C", [[0.1, 0, 7.5]], cell=[1.8, 1.9, 15], pbc=(True, True, False))
    assert falls_apart(atoms) is None
    atoms.set_cell([1.8, 2.6, 15])
    assert falls_apart(atoms) == "it is a chain, not connected to its images"


@pytest.mark.parametrize("name", [name for name in VARIANTS if "third" not in name])
def test_the_standard_form(name) -> None:
    layer = standard(variant(name)[0])
    cell = layer.cell.array
    assert np.allclose(cell[[0, 0, 1, 2, 2], [1, 2, 2, 0, 1]], 0, atol=1e-9)
    assert np.linalg.det(cell) > 0
    assert layer.pbc.tolist() == [True, True, False]
    heights = layer.positions[:, 2]
    assert np.isclose((heights.min() + heights.max()) / 2, cell[2, 2] / 2)
    assert cell[2, 2] >= max(15.0, np.ptp(heights) + 10.0) - 1e-9
    assert same(layer, mos2())
    again = standard(layer)
    assert np.allclose(again.cell.array, cell)
    assert np.allclose(again.positions, layer.positions)


@pytest.mark.parametrize("kind", ["2H", "1T"])
def test_colouring_every_supercell_leaves_the_cells_that_icet_enumerates(kind) -> None:
    parent, known, found = flat(mx2("MoS2", kind=kind, a=3.18)), Known(), [0, 0, 0, 0]
    for n in (1, 2, 3):
        for rows in (k for k in range(1, n + 1) if n % k == 0):
            for slant in range(n // rows):
                cell = make_supercell(parent, [[rows, slant, 0], [0, n // rows, 0], [0, 0, 1]])
                metals = np.flatnonzero(cell.numbers == 42)
                for colours in product((42, 74), repeat=n):
                    cell.numbers[metals] = colours
                    found[n] += known.add(cell, str(n)) is None
    assert found[1:] == [2, 1, 4]
