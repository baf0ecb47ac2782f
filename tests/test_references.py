"""Reference energies: fitted, of isolated atoms, given; and what a fit cannot know."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.formula import Formula
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mlff2d.models import REGISTRY
from mlff2d.training.config import ConfigError
from mlff2d.training.data.choice import choose_frames, split_data
from mlff2d.training.data.compositions import compositions_of
from mlff2d.training.data.convert import convert
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.record import Keys
from mlff2d.training.data.references import (
    elements_of,
    explained,
    find_references,
    fit_references,
    fit_scale,
    fit_spread,
    isolated_atoms,
    print_references,
    residual_of,
    undetermined,
)
from mlff2d.training.sections import Config, PriorConfig
from mlff2d.training.setup import prepare
from tests.frame_table import FrameTable
from tests.training_helpers import METALS, PairNet, monolayers, small_config


@pytest.fixture(autouse=True)
def pairnet(monkeypatch):
    monkeypatch.setitem(REGISTRY, "pairnet", PairNet)


FORMULAS = ("MoS2", "WS2", "MoSe2", "WSe2", "C", "C2", "BN", "B2N", "MoWS4", "H2O")
EXACT = {1: 2.5, 5: -7.0, 6: -9.0, 7: -8.5, 8: -5.0, 16: -4.1, 34: -3.5, 42: -11.0, 74: -13.0}


def total(formula: str) -> float:
    data = FrameTable([formula])
    return float(explained(data, np.arange(1), EXACT)[0] * data.n_atoms[0])


def of_formulas(formulas: list[str]) -> FrameTable:
    """Frames whose energies the references in EXACT explain."""
    return FrameTable(formulas, energies=[total(formula) for formula in formulas])


@settings(deadline=None, max_examples=60)
@given(formulas=st.lists(st.sampled_from(FORMULAS), min_size=1, max_size=30))
def test_compositions_are_those_of_the_formulas(formulas):
    data = FrameTable(formulas)
    ids = np.arange(len(formulas))
    found = compositions_of(data, ids)
    expected = [{"C2": "C"}.get(formula, formula) for formula in formulas]
    assert [found.formulas[row] for row in found.of] == [
        Formula(formula).format("hill") for formula in expected
    ]
    assert len(found) == len(set(expected))
    names = {"MoS2": "AB2", "C": "A", "BN": "AB", "MoWS4": "ABC4", "H2O": "AB2"}
    for formula, row in zip(expected, found.of, strict=True):
        assert found.anonymous[row] == names.get(formula, found.anonymous[row])
    assert found.fractions.sum(axis=1) == pytest.approx(1)
    assert found.elements == elements_of(data, ids)


def test_energies_that_explain_everything_are_found():
    data = of_formulas([*FORMULAS, "BN", "B", "H", "Mo"])
    ids = np.arange(len(data))
    for by in ("frame", "composition"):
        found = fit_references(data, ids, by=by)
        assert found == pytest.approx(EXACT, abs=1e-9)
        assert residual_of(data, ids, found) == pytest.approx(0, abs=1e-9)
    assert undetermined(compositions_of(data, ids)) == []
    data.energy[:] = np.nan
    assert fit_references(data, ids) == dict.fromkeys(EXACT, 0.0)


def test_a_fit_by_frame_is_the_least_squares_over_frames():
    rng = np.random.default_rng(0)
    formulas = [FORMULAS[k] for k in rng.integers(0, len(FORMULAS), 200)]
    data = of_formulas(formulas)
    data.energy += rng.normal(size=200) * data.n_atoms
    per_atom = data.energy / data.n_atoms
    elements = elements_of(data, np.arange(200))
    shares = np.array(
        [[np.mean(data.atoms_of("z", [s]) == z) for z in elements] for s in range(200)]
    )
    plain, *_ = np.linalg.lstsq(shares, per_atom - per_atom.mean(), rcond=1e-8)
    found = fit_references(data, np.arange(200))
    assert list(found.values()) == pytest.approx((plain + per_atom.mean()).tolist(), abs=1e-9)


def test_a_fit_by_composition_gives_each_of_them_one_vote():
    data = FrameTable(["C"] * 9 + ["C2"] + ["B"], energies=[-9.0] * 9 + [-20.0] + [-6.0])
    ids = np.arange(len(data))
    assert fit_references(data, ids)[6] == pytest.approx((9 * -9.0 - 10.0) / 10)
    tied = FrameTable(
        ["MoS", "MoS", "MoS", "MoS2"], energies=[2 * -5.0, 2 * -5.0, 2 * -5.3, 3 * -4.0]
    )
    found = fit_references(tied, np.arange(4), by="composition")
    assert (found[42] + found[16]) / 2 == pytest.approx(-5.1)
    many = FrameTable(
        ["Mo"] * 8 + ["S", "MoS", "MoS2"], energies=[-10.0] * 8 + [-4.0, -15.0, -21.0]
    )
    once = FrameTable(["Mo", "S", "MoS", "MoS2"], energies=[-10.0, -4.0, -15.0, -21.0])
    by_composition = fit_references(many, np.arange(11), by="composition")
    # The mean around which the least norm is taken plays no part where all is determined.
    assert by_composition == pytest.approx(fit_references(once, np.arange(4)))
    assert by_composition != pytest.approx(fit_references(many, np.arange(11)))


def test_elements_that_always_come_together_share_and_that_is_said():
    data = FrameTable(["CuAg"] * 4, energies=[-6.0, -6.0, -7.0, -5.0])
    found = find_references(data, np.arange(4), PriorConfig())
    assert found.energies == pytest.approx({29: -3.0, 47: -3.0})
    assert found.residual == pytest.approx(0.25)
    (note,) = found.notes
    assert "Cu and Ag apart" in note
    assert undetermined(compositions_of(FrameTable(["Cu", "Ag"]), np.arange(2))) == []


@pytest.mark.parametrize(
    ("formulas", "groups"),
    [
        (["MoS2", "MoS2", "C"], [(16, 42)]),
        (["MoS2", "WS2", "BN"], [(5, 7), (16, 42, 74)]),
        (["MoS2", "WS2", "WSe2", "MoSe2", "BN", "B"], [(16, 34, 42, 74)]),
        (["MoS2", "WS2", "MoS"], []),
        (["BN", "BNC", "C"], [(5, 7)]),
        (["H2O"], [(1, 8)]),
    ],
)
def test_what_compositions_leave_open(formulas, groups):
    data = FrameTable(formulas)
    assert undetermined(compositions_of(data, np.arange(len(data)))) == groups


@settings(deadline=None, max_examples=60)
@given(formulas=st.lists(st.sampled_from(FORMULAS), min_size=1, max_size=9))
def test_determined_elements_get_their_energy(formulas):
    """Whatever the rest is: an element outside the groups is known exactly, one inside is not."""
    data = of_formulas(formulas)
    ids = np.arange(len(data))
    found = fit_references(data, ids)
    open_ones = {z for group in undetermined(compositions_of(data, ids)) for z in group}
    for z, energy in found.items():
        assert (abs(energy - EXACT[z]) < 1e-6) or z in open_ones
    assert explained(data, ids, found) == pytest.approx(data.energy / data.n_atoms)


def test_given_energies_must_cover_the_data():
    data = FrameTable(["MoS2", "WS2"], energies=[-20.0, -22.0])
    ids = np.arange(2)
    found = find_references(
        data, ids, PriorConfig(references={"Mo": -11, "S": -4, "W": -13, "H": 1})
    )
    assert found.energies == {16: -4.0, 42: -11.0, 74: -13.0}
    assert found.residual == pytest.approx(1 / 3)
    with pytest.raises(ConfigError, match="names no S and W"):
        find_references(data, ids, PriorConfig(references={"Mo": -11}))


def test_no_energies_at_all_are_said():
    found = find_references(FrameTable(["BN"]), np.arange(1), PriorConfig())
    assert found.energies == {5: 0.0, 7: 0.0}
    assert np.isnan(found.residual)
    assert "no energies" in found.notes[0]
    some = FrameTable(["BN", "C"], energies=[-16.0, np.nan])
    found = find_references(some, np.arange(2), PriorConfig())
    assert found.energies[6] == pytest.approx(-8.0)
    assert "No frame with C has an energy" in found.notes[1]


def alone(symbol: str, energy: float | None, side: float = 12.0, pbc: bool = True) -> Atoms:
    """One atom in a cube, or without periodicity."""
    atoms = Atoms(symbol, [(1, 1, 1)], cell=[side] * 3, pbc=pbc)
    labels = {"forces": np.zeros((1, 3))} if energy is None else {"energy": energy}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def with_atoms(folder: Path, frames: list[Atoms]) -> Path:
    """The monolayers of the six metals, and other frames among them."""
    ase.io.write(folder / "data.traj", frames[:2] + monolayers(1) + frames[2:])
    return folder / "data.traj"


ALL_ALONE = [alone(symbol, -1.0 - 0.1 * k) for k, symbol in enumerate(METALS)]


def test_isolated_atoms_give_references_and_nothing_else(tmp_path):
    frames = [*ALL_ALONE, alone("Cu", -1.3, pbc=False), alone("Ni", 5.0, side=7.0), alone("H", 1.0)]
    config = small_config(tmp_path / "run", with_atoms(tmp_path, frames))
    config = config.model_copy(update={"priors": PriorConfig(zbl=False, references="isolated")})
    run = prepare(config)
    assert len(isolated_atoms(run.data)) == 8, "not the one whose images are 7 Å away"
    references = run.module.references.as_dict()
    assert references == pytest.approx({29: -1.3, 47: -1.1, 79: -1.2, 28: -1.3, 46: -1.4, 78: -1.5})
    (note,) = run.references.notes
    assert note.startswith("Cu has 2 isolated atoms, from -1.3000 to -1.0000 eV")
    parts = np.concatenate([run.split.train, run.split.val, run.split.test])
    assert run.data.n_atoms[parts].min() == 2
    assert [r.count for r in run.removed[:2]] == [8, 1]
    assert "isolated atom" in run.removed[0].rule
    assert run.removed[0].example.startswith("data.traj frame 0")
    # Fitted instead, they are frames like others, which the filter removes.
    ids, removed = choose_frames(run.data, small_config(tmp_path / "run", tmp_path))
    assert [r.count for r in removed] == [9, 0]
    assert run.data.n_atoms[ids].min() == 2


@pytest.mark.parametrize("last", [[], [alone("Pt", None)]])
def test_an_element_without_isolated_atom_is_named(tmp_path, last):
    config = small_config(tmp_path / "run", with_atoms(tmp_path, [*ALL_ALONE[:4], *last]))
    config = config.model_copy(update={"priors": PriorConfig(references="isolated")})
    with pytest.raises(ConfigError, match="no isolated atom with an energy of Pd and Pt"):
        prepare(config)


def test_what_is_printed():
    data = of_formulas(["MoS2", "WS2", "C"])
    console = Console(record=True, width=100)
    print_references(find_references(data, np.arange(3), PriorConfig()), console)
    text = console.export_text()
    assert "least squares on the compositions of 3 frames, one vote a frame" in text
    assert " C     -9.0000" in text
    assert "Alone they leave 0.0 meV/atom" in text
    assert "S, Mo and W apart" in text


def test_scale_is_the_force_or_else_the_spread_of_energies(tmp_path):
    frames = monolayers(1)
    for k in (3, 5):
        del frames[k].calc.results["forces"]
    ase.io.write(tmp_path / "data.traj", frames)
    convert([tmp_path / "data.traj"], tmp_path / "data.h5", Keys())
    data = Dataset(tmp_path / "data.h5", 4.0)
    ids = np.arange(len(data))
    references = fit_references(data, ids)
    forces = np.concatenate([a.get_forces() for k, a in enumerate(frames) if k not in (3, 5)])
    assert fit_scale(data, ids, references) == pytest.approx(np.sqrt((forces**2).mean()), rel=1e-5)
    no_forces = np.array([3, 5])
    assert fit_scale(data, no_forces, fit_references(data, no_forces)) == 1.0
    spread = FrameTable(["C", "C", "B"], energies=[-9.0, -11.0, -6.0])
    assert fit_spread(spread, np.arange(3), {6: -10.0, 5: -6.0}, spread.energy) == pytest.approx(
        np.sqrt(2 / 3)
    )


def test_an_empty_part_is_explained(tmp_path):
    config = small_config(tmp_path / "run", with_atoms(tmp_path, []))
    data = prepare(config).data
    config = config.model_copy(
        update={"split": config.split.model_copy(update={"by": "chemistry", "val": 1e-9})}
    )
    with pytest.raises(ConfigError, match=r"the val part is empty .* A material is never split"):
        split_data(config, data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"priors": {"references": {"Mo": -1, "Xx": 0}}}, "'Xx', which is no element"),
        ({"priors": {"references": {"Mo": float("nan")}}}, "finite number"),
        ({"model": {"from": "universal"}, "priors": {"references": "isolated"}}, "model.from"),
        ({"property": {"key": "gap"}, "priors": {"fit_by": "composition"}}, "priors.fit_by"),
        ({"property": {"key": "gap"}, "selection": {"e_cut": 1.0}}, "selection.e_cut"),
    ],
)
def test_settings_without_a_meaning_are_refused(tmp_path, change, why):
    settings = {"run_dir": tmp_path, "data": {"files": "a.h5"}, "model": {"name": "painn"}}
    with pytest.raises(ValueError, match=why):
        Config.model_validate(settings | change)
