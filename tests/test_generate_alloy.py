"""Cells of alloys and Janus layers: how many, of what size, under which names."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2

from mlff2d import slab
from mlff2d.errors import StructureError
from mlff2d.training.generation.alloys import (
    Alloy,
    Sublattice,
    compact,
    distinct,
    quasirandom,
    random_cells,
)
from mlff2d.training.generation.janus import swapped
from mlff2d.training.generation.layers import standard

pytest.importorskip("icet")


def parent(formula: str = "MoS2", a: float = 3.18, thickness: float = 3.12, **info: str) -> Atoms:
    atoms = mx2(formula, kind="2H", a=a, thickness=thickness, vacuum=6)
    atoms.pbc = (True, True, False)
    atoms.info = {"phase": "1H", **info}
    return atoms


def mows2() -> Alloy:
    ends = [parent("WS2", 3.30, 3.20)]
    return Alloy(parent(), [Sublattice("Mo", ("Mo", "W"))], ends)


def test_distinct_cells() -> None:
    found = list(distinct(mows2(), 4))
    configs = [atoms.info["config"] for atoms in found]
    assert len(set(configs)) == len(found) == 15
    assert configs[:4] == ["MoS2-1H", "WS2-1H", "MoWS2-1H-c2-000", "MoWS2-1H-c3-000"]
    sizes = [atoms.info["nfu"] for atoms in found]
    # Hexagonal binary cells; the same numbers as of the layers of close-packed metals.
    assert [sizes.count(n) for n in (1, 2, 3, 4)] == [2, 1, 4, 8]
    for atoms in found:
        info = atoms.info
        assert info["material"] == info["config"]
        assert info["phase"] == "1H"
        assert info["x"] == info["x_W"] == pytest.approx(1 - info["x_Mo"])
        assert list(atoms.symbols).count("W") == round(info["x"] * info["nfu"])
        assert 60 - 1e-3 <= atoms.cell.angles()[2] <= 120 + 1e-3
        assert atoms.info["system"] == (
            "MoWS2" if 0 < info["x"] < 1 else configs[int(info["x"])][:-3]
        )


def test_the_lattice_follows_vegard() -> None:
    for atoms in distinct(mows2(), 3):
        x = atoms.info["x"]
        a = np.sqrt(slab.area(atoms.cell.array, atoms.pbc) / atoms.info["nfu"] * 2 / np.sqrt(3))
        assert np.isclose(a, (1 - x) * 3.18 + x * 3.30)
        assert np.isclose(np.ptp(atoms.positions[:, 2]), (1 - x) * 3.12 + x * 3.20)


def test_radii_stand_in_for_an_end_member() -> None:
    alloy = Alloy(parent(), [Sublattice("Mo", ("Nb", "W"))])
    lattice = {atoms.info["system"]: atoms.cell.lengths()[0] for atoms in distinct(alloy, 1)}
    # Cordero's radii: Mo 1.54, Nb 1.64, W 1.62, S 1.05 Å.
    assert np.isclose(lattice["NbS2"], 3.18 * (1.64 + 1.05) / (1.54 + 1.05))
    assert np.isclose(lattice["WS2"], 3.18 * (1.62 + 1.05) / (1.54 + 1.05))


def test_two_sublattices() -> None:
    shared = [Sublattice("Mo", ("Mo", "W")), Sublattice("S", ("S", "Se"))]
    alloy = Alloy(parent(), shared)
    assert (alloy.system, alloy.n_sites) == ("MoW(SSe)2", 3)
    found = list(distinct(alloy, 3))
    # Two metals, and S2, SSe, Se2 on the chalcogen sites; the mirror makes SSe and SeS one.
    assert sorted(str(atoms.symbols.formula.format("metal")) for atoms in found) == sorted(
        ["MoS2", "MoSSe", "MoSe2", "WS2", "WSSe", "WSe2"]
    )
    assert "x" not in found[0].info
    with pytest.raises(StructureError, match="smallest cell has 3"):
        next(distinct(alloy, 2))


@pytest.mark.parametrize(
    ("shared", "ends", "word"),
    [
        ([Sublattice("W", ("Mo", "W"))], [], "MoS2 has no W"),
        ([Sublattice("Mo", ("Mo", "S"))], [], "S would stand on two kinds"),
        ([Sublattice("Mo", ("Mo", "w"))], [], "'w' is no element"),
        ([Sublattice("Mo", ("Mo", "W")), Sublattice("Mo", ("V", "Ti"))], [], "give each .* once"),
        ([Sublattice("Mo", ("Mo", "W"))], [parent("NbS2")], "NbS2 is no end member of MoWS2"),
        ([Sublattice("Mo", ("Mo", "W"))], [bulk("W")], "the end member W: it is no layer"),
    ],
)
def test_what_makes_no_alloy(shared, ends, word) -> None:
    with pytest.raises(StructureError, match=word):
        Alloy(parent(), shared, ends)


def test_random_cells_are_seeded_each_alone() -> None:
    few = list(random_cells(mows2(), 9, [1 / 3], 2, seed=5))
    many = list(random_cells(mows2(), 9, [1 / 3, 0.5], 3, seed=5))
    assert [a.info["config"] for a in few] == ["MoWS2-1H-r9-000", "MoWS2-1H-r9-001"]
    for one, other in zip(few, many, strict=False):
        assert list(one.symbols) == list(other.symbols)
    assert list(few[0].symbols) != list(few[1].symbols)
    assert all(list(atoms.symbols).count("W") == 3 for atoms in few)
    assert np.allclose(few[0].cell.lengths()[:2] / 3, (2 * 3.18 + 3.30) / 3), "3 x 3, not 1 x 9"


def test_compact_cells() -> None:
    square = Atoms("C", cell=[3, 3, 15], pbc=(True, True, False))
    for cells, shortest in ((4, 6.0), (5, 3 * 5**0.5), (7, 3 * 5**0.5)):
        supercell = compact(square, cells)
        assert len(supercell) == cells
        assert np.isclose(standard(supercell).cell.lengths()[0], shortest)


@pytest.mark.slow
def test_quasirandom_cells() -> None:
    found = list(quasirandom(mows2(), 4, [0.5], 2, seed=1))
    assert [atoms.info["config"] for atoms in found] == ["MoWS2-1H-sqs4-000", "MoWS2-1H-sqs4-001"]
    assert all(list(atoms.symbols).count("W") == 2 for atoms in found)
    no_whole, nothing, made = quasirandom(mows2(), 4, [0.3, 0.0, 0.5], 1, seed=1)
    assert "cannot be shared" in str(no_whole)
    assert "nothing to mix" in str(nothing)
    assert isinstance(made, Atoms)


def test_janus_layers() -> None:
    (full,) = swapped(parent(), ["Se"])
    assert full.info["config"] == full.info["material"] == "MoSSe-1H"
    assert full.info["mode"] == "janus"
    assert full.symbols[full.positions[:, 2].argmax()] == "Se"
    assert full.symbols[full.positions[:, 2].argmin()] == "S"
    assert full.info["x_Se"] == 0.5
    mixed = list(swapped(parent(), ["Se"], max_sites=3))[1:]
    for atoms in mixed:
        upper = atoms.symbols[atoms.positions[:, 2] > atoms.cell.array[2, 2] / 2 + 0.25]
        lower = atoms.symbols[atoms.positions[:, 2] < atoms.cell.array[2, 2] / 2 - 0.25]
        assert set(lower) == {"S"}
        assert set(upper) == {"S", "Se"}
    names = [atoms.info["config"] for atoms in mixed]
    assert len(set(names)) == len(names) == 5, "as many as of one site: 1 of two, 4 of three"
    assert names[0] == "MoSSe-1H-j2-000"


def test_janus_of_what_is_not_there() -> None:
    with pytest.raises(StructureError, match="no Mo on its upper side"):
        next(swapped(parent(), ["Se"], "Mo"))
    with pytest.raises(StructureError, match="S is in MoS2 already"):
        next(swapped(parent(), ["S"]))
