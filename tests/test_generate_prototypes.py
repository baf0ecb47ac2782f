"""Prototypes: symmetry as stated, elements that make compounds, lattices near the known ones."""

from itertools import islice
from math import gcd

import moyopy
import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.cli import main
from mlff2d.contacts import BONDED, Contacts
from mlff2d.errors import StructureError
from mlff2d.symmetry import MIN_LATTICE_VECTOR, layer_group, layer_symmetry
from mlff2d.training.generation.decorate import choices, decorated, drawn, make
from mlff2d.training.generation.duplicates import Known
from mlff2d.training.generation.elements import (
    ELEMENTS,
    ionic_radius,
    oxidation_states,
)
from mlff2d.training.generation.filters import falls_apart, too_close
from mlff2d.training.generation.guess import Shape
from mlff2d.training.generation.prototypes import (
    build,
    expand,
    find_prototypes,
    plane_vectors,
    prototypes,
)

ALL = prototypes()
NAMES = list(ALL)


def reference(name: str) -> Atoms:
    layer = expand(ALL[name])
    return build(layer.slots, ALL[name].reference, layer.positions(), ALL[name].lattice)


def compound(name: str, *elements: str) -> Atoms:
    return make(Shape(ALL[name]), elements)


def shortest(atoms: Atoms, one: str, other: str) -> float:
    i, j, d = neighbor_list("ijd", atoms, 5.0)
    return float(d[(atoms.symbols[i] == one) & (atoms.symbols[j] == other)].min())


def group_of(atoms: Atoms) -> int:
    return layer_group(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 0.01)


@pytest.mark.parametrize("name", NAMES)
def test_layer_group_is_that_stated(name: str) -> None:
    assert group_of(reference(name)) == ALL[name].layer_group


@pytest.mark.parametrize("name", NAMES)
def test_wyckoff_positions_are_those_stated(name: str) -> None:
    prototype, layer = ALL[name], expand(ALL[name])
    height = np.ptp(layer.positions()[:, 2]) + 20
    cell = np.diag([0.0, 0.0, height])
    cell[:2, :2] = plane_vectors(*prototype.lattice)
    numbers = [list(prototype.slots).index(slot) + 1 for slot in layer.slots]
    positions = layer.positions() / [1, 1, height]
    found = moyopy.MoyoLayerDataset(
        moyopy.Cell(cell.tolist(), positions.tolist(), numbers), symprec=0.01
    )
    assert np.allclose(found.std_origin_shift, 0, atol=1e-3)  # else letters are others
    stated = [site.wyckoff for site in prototype.sites for _ in range(int(site.wyckoff[:-1]))]
    assert found.wyckoffs == [wyckoff[-1] for wyckoff in stated]


def test_formulas_are_those_of_the_sites() -> None:
    for prototype in ALL.values():
        counts = prototype.counts
        divisor = gcd(*counts.values())
        text = "".join(s + (str(n // divisor) if n > divisor else "") for s, n in counts.items())
        assert prototype.formula == text, prototype.name


def test_names_and_aliases_mean_one_prototype_each() -> None:
    words = [word for p in ALL.values() for word in (p.name, *p.aliases)]
    assert len(words) == len(set(words))
    assert len(ALL) >= 40


def test_slots_bonds_and_examples_fit_together() -> None:
    for p in ALL.values():
        assert {site.slot for site in p.sites} == set(p.slots), p.name
        assert {slot for bond in p.bonds for slot in bond} <= set(p.slots), p.name
        for elements in (tuple(p.reference.values()), *p.examples):
            for symbol, slot in zip(elements, p.slots.values(), strict=True):
                assert symbol in slot.elements, (p.name, elements)
            if p.neutral:
                assert p.balance(dict(zip(p.slots, elements, strict=True))), (p.name, elements)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_is_its_own_guess(name: str) -> None:
    prototype = ALL[name]
    guess = Shape(prototype).guess(prototype.reference, prototype.balance(prototype.reference))
    assert guess.lattice == pytest.approx(prototype.lattice, rel=1e-6)
    assert guess.misfit < 1e-6


def test_guessed_lattices_are_near_the_known_ones() -> None:
    errors = []
    for p in ALL.values():
        shape = Shape(p) if p.examples else None
        for elements, known in p.examples.items():
            symbols = dict(zip(p.slots, elements, strict=True))
            if shape is None or symbols == p.reference:
                continue
            lattice = shape.guess(symbols, p.balance(symbols)).lattice
            errors += [abs(lattice[k] / known[k] - 1) for k in range(2)]
    assert len(errors) > 200
    assert np.mean(errors) < 0.03
    assert np.max(errors) < 0.15  # Ca2N, an electride, and GeS are farthest off


@pytest.mark.parametrize(
    ("name", "elements", "one", "other", "length"),
    [
        ("graphene", "C", "C", "C", 1.42),
        ("hBN", "B N", "B", "N", 1.45),
        ("1H", "W Se", "W", "Se", 2.55),  # with PBE, as those that follow
        ("1T", "Zr S", "Zr", "S", 2.57),
        ("1T", "Mg Cl", "Mg", "Cl", 2.51),
        ("BiI3", "Cr Cl", "Cr", "Cl", 2.37),
        ("MPX3", "Cd P S", "P", "P", 2.22),
        ("M(OH)2", "Ca O H", "O", "H", 0.97),
        ("A2BX4", "K Ni F", "Ni", "F", 2.00),
    ],
)
def test_bonds_have_known_lengths(
    name: str, elements: str, one: str, other: str, length: float
) -> None:
    assert shortest(compound(name, *elements.split()), one, other) == pytest.approx(
        length, rel=0.03
    )


def test_every_bond_of_a_decorated_layer_has_the_ratio_of_its_radii() -> None:
    shape = Shape(ALL["1H"])
    mos2, nbte2 = make(shape, ["Mo", "S"]), make(shape, ["Nb", "Te"])
    ratio = (ionic_radius("Nb", 4) + ionic_radius("Te", -2)) / (
        ionic_radius("Mo", 4) + ionic_radius("S", -2)
    )
    assert shortest(nbte2, "Nb", "Te") / shortest(mos2, "Mo", "S") == pytest.approx(ratio, rel=1e-3)


def test_all_elements_are_reached() -> None:
    used = {s for p in ALL.values() for c in choices(p, ELEMENTS, False) for s in c}
    assert used == set(ELEMENTS)


def test_choices_are_neutral() -> None:
    for p in ALL.values():
        for choice in islice(choices(p, ELEMENTS, False), 0, None, 37) if p.neutral else ():
            total = {0}
            for symbol, (letter, slot) in zip(choice, p.slots.items(), strict=True):
                charges = {
                    (q - slot.like_bonds if q > 0 else q + slot.like_bonds) * p.counts[letter]
                    for q in oxidation_states(symbol)
                }
                total = {t + c for t in total for c in charges}
            assert 0 in total, (p.name, choice)


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("1T", ("Na", "S")),
        ("1H", ("Mo", "Cl")),
        ("BiI3", ("Mg", "Cl")),
        ("ABX3", ("Sr", "Al", "O")),
    ],
)
def test_what_is_not_neutral_is_made_only_when_anything_may_be(
    name: str, elements: tuple[str, ...]
) -> None:
    assert elements not in set(choices(ALL[name], elements, False))
    assert elements in set(choices(ALL[name], elements, True))


TWO_ALIKE = [n for n in NAMES if ALL[n].alike]


def exchanged(name: str, a: str, b: str) -> list[Atoms]:
    """A prototype with S and Se in two slots, and the other way round."""
    shape = Shape(ALL[name])
    made = []
    for one, other in (("S", "Se"), ("Se", "S")):
        symbols = {**ALL[name].reference, a: one, b: other}
        guess = shape.guess(symbols, None)
        made.append(build(shape.layer.slots, symbols, guess.positions, guess.lattice))
    return made


@pytest.mark.parametrize("name", TWO_ALIKE)
def test_alike_slots_have_alike_surroundings(name: str) -> None:
    a, b = ALL[name].alike
    # What is bonded to what only: the geometry of the reference need not have the symmetry.
    first, second = (coordination(atoms) for atoms in exchanged(name, a, b))
    assert first == second


def coordination(atoms: Atoms) -> list[tuple[str, str]]:
    """Elements of bonded atoms, one entry for each bond in either direction."""
    contacts = Contacts(atoms, atoms.pbc)
    symbols = np.array(atoms.symbols)
    bonded = contacts.ratio < BONDED
    return sorted(zip(symbols[contacts.i[bonded]], symbols[contacts.j[bonded]], strict=True))


def test_slots_that_are_not_alike_make_two_structures() -> None:
    for name, a, b in (("FeSe", "M", "X"), ("PbFCl", "Y", "X"), ("GaSe", "M", "X")):
        known = Known()
        assert [known.add(atoms, name) for atoms in exchanged(name, a, b)] == [None, None]


def test_alike_slots_of_equal_radii_make_one_structure() -> None:
    known = Known()
    first, second = exchanged("hBN", "A", "B")
    assert known.add(first, "first") is None
    assert known.add(second, "second") == "first"


def test_exchanged_slots_give_one_structure_and_one_choice() -> None:
    known = Known()
    assert known.add(compound("Janus-1H", "Mo", "S", "Te"), "first") is None
    made = list(choices(ALL["Janus-1H"], ["Mo", "S", "Te"], False))
    assert made == [("Mo", "S", "Te")]
    assert ("S", "Te") in set(choices(ALL["hBN"], ["S", "Te"], True))
    assert ("Te", "S") not in set(choices(ALL["hBN"], ["S", "Te"], True))


def test_a_draw_repeats_itself_and_holds_nothing_twice() -> None:
    prototype = ALL["FeOCl"]
    first = list(islice(drawn(prototype, ELEMENTS, False, 3), 50))
    assert first == list(islice(drawn(prototype, ELEMENTS, False, 3), 50))
    assert first != list(islice(drawn(prototype, ELEMENTS, False, 4), 50))
    assert len(set(first)) == 50
    wild = list(islice(drawn(ALL["MNP2X6"], ELEMENTS, True, 3), 200))
    assert len(set(wild)) == 200
    assert sorted(drawn(ALL["1T"], ELEMENTS, False, 5)) == sorted(
        choices(ALL["1T"], ELEMENTS, False)
    )


def materials(made: list[Atoms | StructureError]) -> list[str]:
    return [atoms.info["material"] for atoms in made if isinstance(atoms, Atoms)]


def test_prototypes_give_alike_and_do_not_change_each_other() -> None:
    both = materials(list(decorated(find_prototypes(["1T", "FeOCl"]), n=8, seed=1)))
    alone = materials(list(decorated(find_prototypes(["FeOCl"]), n=4, seed=1)))
    assert [m for m in both if m.endswith("-FeOCl")] == alone
    assert len(set(both)) == 8


def test_a_prototype_that_has_no_more_leaves_its_share_to_the_others() -> None:
    made = materials(list(decorated(find_prototypes(["graphyne", "1T"]), n=20)))
    assert len(made) == 20
    assert sum(m.endswith("-graphyne") for m in made) == 3


def test_info_and_form_of_what_is_made() -> None:
    (atoms,) = decorated(find_prototypes(["CrI3"]), ["Ru", "Cl"])
    assert atoms.info == {"material": "RuCl3-BiI3", "mode": "prototype", "prototype": "BiI3"}
    assert atoms.pbc.tolist() == [True, True, False]
    heights = atoms.positions[:, 2]
    assert atoms.cell[2, 2] >= max(15, np.ptp(heights) + 10)
    assert (heights.min() + heights.max()) / 2 == pytest.approx(atoms.cell[2, 2] / 2)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NAMES), st.integers(0, 10**6))
def test_whatever_is_drawn_keeps_symmetry_and_composition(name: str, seed: int) -> None:
    prototype = ALL[name]
    choice = next(drawn(prototype, ELEMENTS, False, seed))
    try:
        atoms = make(Shape(prototype), choice)
    except StructureError:  # too unlike; that is said in a test of its own
        return
    counts = atoms.symbols.formula.count()
    assert counts == dict(zip(choice, prototype.counts.values(), strict=True))
    assert np.isfinite(atoms.positions).all()
    if min(atoms.cell.lengths()[:2]) < MIN_LATTICE_VECTOR:  # carbon as borophene
        return
    found = layer_symmetry(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 0.01)
    order = len(moyopy.operations_from_layer_number(prototype.layer_group, primitive=True))
    assert found is not None
    assert len(found) >= order
    assert len(found) % order == 0


def test_few_of_a_sample_are_no_layers() -> None:
    made = [a for a in decorated(list(ALL.values()), n=150, seed=2) if isinstance(a, Atoms)]
    assert len(made) == 150
    assert sum(bool(too_close(a) or falls_apart(a)) for a in made) <= 5


def test_elements_that_do_not_fit_are_said_to() -> None:
    with pytest.raises(StructureError, match=r"do not fit, a bond would be off by"):
        compound("A3B2X7", "S", "Nd", "Si")


def test_nothing_to_make_is_said() -> None:
    with pytest.raises(StructureError, match="Nothing can be made of these elements"):
        next(decorated(find_prototypes(["1T"]), ["Mo"]))


def test_command_writes_structures(tmp_path) -> None:
    out = tmp_path / "tmds.extxyz"
    words = ["--prototypes", "2H", "CdI2", "--elements", "Mo", "Ti", "S", "Se"]
    assert main(["generate", "prototypes", *words, "-o", str(out)]) == 0
    found = {atoms.info["material"] for atoms in read(out, ":")}
    assert found == {
        f"{m}{x}2-{t}" for m in ("Mo", "Ti") for x in ("S", "Se") for t in ("1H", "1T")
    }


def test_command_names_the_nearest_prototype(tmp_path, capsys) -> None:
    argv = ["generate", "prototypes", "-o", str(tmp_path / "x.extxyz")]
    assert main([*argv, "--prototypes", "graphenee"]) == 2
    assert "Did you mean graphene" in capsys.readouterr().err
    assert main([*argv, "--any"]) == 2
    assert "say with --n" in capsys.readouterr().err


def test_command_lists_prototypes(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["generate", "prototypes", "--list"])
    assert end.value.code == 0
    assert "1H: MX2, layer group 78" in capsys.readouterr().out
