"""Substitution: whole elements by their kin, the lattice by the radii, names that tell."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, mx2
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.cli import main
from mlff2d.errors import StructureError
from mlff2d.symmetry import layer_group
from mlff2d.training.generation.decorate import make
from mlff2d.training.generation.elements import (
    chemical_distance,
    covalent_radius,
    oxidation_states,
)
from mlff2d.training.generation.guess import Shape
from mlff2d.training.generation.layers import standard
from mlff2d.training.generation.prototypes import prototypes
from mlff2d.training.generation.substitute import replace, substituted

from .shared import DATA, needs_data


def mos2() -> Atoms:
    atoms = mx2("MoS2", a=3.18, thickness=3.13, vacuum=8.0)
    atoms.info = {"material": "MoS2-1H", "prototype": "1H", "energy_sigma0": 1.0}
    return atoms


def bond(atoms: Atoms) -> float:
    """Å, between the first two atoms."""
    return float(atoms.get_distance(0, 1, mic=True))


def group_of(atoms: Atoms) -> int:
    return layer_group(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 0.01)


def sums(one: str, other: str) -> float:
    return covalent_radius(one) + covalent_radius(other)


def test_bonds_grow_as_the_radii_do() -> None:
    made = replace(mos2(), {"Mo": "W", "S": "Te"})
    growth = sums("W", "Te") / sums("Mo", "S")
    assert bond(made) / bond(mos2()) == pytest.approx(growth, rel=1e-6)
    assert made.cell.lengths()[0] / 3.18 == pytest.approx(growth, rel=1e-6)
    assert np.ptp(made.positions[:, 2]) / 3.13 == pytest.approx(growth, rel=1e-6)


def test_a_flat_layer_stays_flat() -> None:
    flat = graphene(vacuum=8.0)
    made = replace(flat, {"C": "Si"})
    assert np.ptp(made.positions[:, 2]) < 1e-9
    growth = covalent_radius("Si") / covalent_radius("C")
    assert made.cell.lengths()[0] / flat.cell.lengths()[0] == pytest.approx(growth, rel=1e-6)


def test_plane_and_heights_follow_the_bonds_that_lie_in_them() -> None:
    # Bonds M-X are nearly in the plane, M-M upright: only the latter change much with M and X
    # exchanged for a larger and a smaller element of the same sum.
    gase = make(Shape(prototypes()["GaSe"]), ["Ga", "Se"])
    made = replace(gase, {"Ga": "In", "Se": "S"})
    wider = made.cell.lengths()[0] / gase.cell.lengths()[0]
    taller = np.ptp(made.positions[:, 2]) / np.ptp(gase.positions[:, 2])
    in_plane = sums("In", "S") / sums("Ga", "Se")
    upright = covalent_radius("In") / covalent_radius("Ga")
    assert abs(np.log(wider / in_plane)) < abs(np.log(upright / in_plane)) / 2
    assert taller > wider


def test_names_and_parent() -> None:
    made = replace(mos2(), {"Mo": "W"})
    assert made.info == {
        "material": "WS2-1H",
        "mode": "substituted",
        "parent": "MoS2-1H",
        "prototype": "1H",
    }
    atoms = mos2()
    atoms.info = {"material": "2dm-17"}
    assert replace(atoms, {"Mo": "W"}).info["material"] == "WS2-2dm-17"
    atoms.info = {}
    assert replace(atoms, {"Mo": "W"}).info["material"] == "WS2-MoS2"


def test_the_parent_is_left_as_it_was() -> None:
    atoms = mos2()
    before = atoms.copy()
    list(substituted(atoms, n=3))
    assert atoms == before
    assert atoms.info == before.info


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_all_atoms_of_an_element_become_one_neighbour(seed: int, share: float) -> None:
    parent = standard(mos2())
    (made,) = substituted(parent, share=share, seed=seed)
    assert len(made) == len(parent)
    assert group_of(made) == group_of(parent)
    pairs = {(a, b) for a, b in zip(parent.symbols, made.symbols, strict=True)}
    assert len(pairs) == 2
    assert len({b for _, b in pairs}) == 2
    changed = [(a, b) for a, b in pairs if a != b]
    assert changed
    for a, b in changed:
        assert chemical_distance(a, b) <= 2
        assert set(oxidation_states(a)) & set(oxidation_states(b))


def test_a_share_of_one_replaces_the_whole_compound() -> None:
    for made in substituted(mos2(), n=10, share=1.0):
        assert not {"Mo", "S"} & set(made.symbols)
    for made in substituted(mos2(), n=10, share=0.0):
        assert len({"Mo", "S"} & set(made.symbols)) == 1


def test_any_element_comes_in_where_it_may() -> None:
    far = [
        made
        for made in substituted(mos2(), n=40, share=0.0, any_share=1.0)
        if chemical_distance(*(set(made.symbols) ^ {"Mo", "S"})) > 2
    ]
    assert len(far) > 20


def test_draws_are_different_layers_and_repeat_themselves() -> None:
    names = [made.info["material"] for made in substituted(mos2(), n=12, seed=1)]
    assert len(set(names)) == 12
    assert names == [made.info["material"] for made in substituted(mos2(), n=12, seed=1)]
    assert names != [made.info["material"] for made in substituted(mos2(), n=12, seed=2)]


def test_only_what_may_come_in_does() -> None:
    made = list(substituted(mos2(), n=50, elements=("W", "Se")))
    assert sorted(str(atoms.symbols) for atoms in made) == ["MoSe2", "WS2", "WSe2"]
    with pytest.raises(StructureError, match="no element of MoS2-1H has a neighbour"):
        list(substituted(mos2(), elements=("Na",)))


def test_what_is_no_layer_is_refused() -> None:
    with pytest.raises(StructureError, match="it is no layer"):
        list(substituted(Atoms("Cu", cell=[2.5] * 3, pbc=True)))


def test_command(tmp_path) -> None:
    write(tmp_path / "mos2.extxyz", mos2())
    out = tmp_path / "out.extxyz"
    argv = ["generate", "substitute", str(tmp_path / "mos2.extxyz"), "-o", str(out)]
    assert main([*argv, "--n", "4", "--share", "1"]) == 0
    made = read(out, ":")
    assert len(made) == 4
    for atoms in made:
        assert atoms.info["parent"] == "MoS2-1H"
        assert atoms.pbc.tolist() == [True, True, False]
    again = tmp_path / "again.extxyz"
    assert main([*argv[:-1], str(again), "--n", "4", "--share", "1"]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_command_refuses_what_is_no_share(tmp_path, capsys) -> None:
    argv = ["generate", "substitute", "x.extxyz", "-o", str(tmp_path / "out.extxyz")]
    with pytest.raises(SystemExit):
        main([*argv, "--share", "1.5"])
    assert "is not a number from 0 to 1" in capsys.readouterr().err


@needs_data
def test_real_layers_can_be_substituted() -> None:
    for parent in read(DATA / "monolayers_2dmatpedia.extxyz.gz", "0:200:10"):
        for made in substituted(parent, n=2, share=0.7, any_share=0.3):
            assert len(made) == len(standard(parent))
            assert np.isfinite(made.positions).all()
            assert 0.4 < made.cell.lengths()[0] / standard(parent).cell.lengths()[0] < 2.5
