"""Frames of an alloy on the lattice of their parent: found in any cell, and told apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import mx2
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.errors import StructureError
from mlff2d.training.alloys.candidates import candidates
from mlff2d.training.alloys.config import CellsConfig
from mlff2d.training.alloys.match import match
from mlff2d.training.alloys.system import Lattice, build_system
from mlff2d.training.generation.alloys import Alloy, Sublattice, distinct, random_cells
from mlff2d.training.generation.layers import standard
from tests.alloys import frames, ising, ising_system, system_config

PARENT = standard(mx2("MoS2", "2H", 3.18, 3.13, vacuum=8.0))
SPECIES = [["Mo", "W"] if symbol == "Mo" else ["S"] for symbol in PARENT.symbols]
ALLOY = Alloy(PARENT, [Sublattice("Mo", ("Mo", "W"))], phase="1H")


def disguised(atoms: Atoms, rng: np.random.Generator, rattle: float = 0.08) -> Atoms:
    """The same layer turned, strained, rattled, moved, in another order and another cell."""
    found = atoms.copy()
    cell = found.cell.array.copy()
    cell[1] += rng.integers(-2, 3) * cell[0]
    found.set_cell(cell)
    strain = np.eye(3)
    strain[:2, :2] += rng.normal(0, 0.01, (2, 2))
    found.set_cell(found.cell.array @ strain, scale_atoms=True)
    found.rotate(rng.uniform(0, 360), "z", rotate_cell=True)
    if rng.random() < 0.5:
        found.rotate(180, "x", rotate_cell=True)  # turned over
    found.positions += rng.normal(0, rattle, found.positions.shape) + rng.uniform(-3, 3, 3)
    return found[rng.permutation(len(found))]


@pytest.fixture(scope="module")
def lattice() -> Lattice:
    return Lattice(ALLOY)


@pytest.mark.parametrize("seed", range(3))
def test_a_cell_is_found_however_it_is_written(seed, lattice) -> None:
    rng = np.random.default_rng(seed)
    for atoms in distinct(ALLOY, 4):
        found = match(disguised(atoms, rng), PARENT, SPECIES)
        assert found.farthest < 0.6
        assert lattice.fingerprint(found.ideal) == lattice.fingerprint(atoms_on_sites(atoms))


def atoms_on_sites(atoms: Atoms) -> Atoms:
    """The cell of the generator, on the parent's lattice."""
    return match(atoms, PARENT, SPECIES).ideal


def test_the_ideal_cell_lies_on_the_sites(lattice) -> None:
    (atoms,) = random_cells(ALLOY, 12, [0.5], 1, seed=4)
    moved = disguised(atoms, np.random.default_rng(1))
    found = match(moved, PARENT, SPECIES)
    assert list(found.ideal.symbols) == list(moved.symbols)
    assert np.linalg.det(found.ideal.cell.array) > 0
    metal = [symbol != "S" for symbol in found.ideal.symbols]
    sites = found.ideal.positions[metal] @ np.linalg.inv(PARENT.cell.array)
    offsets = (sites - sites[0])[:, :2]
    assert np.allclose(offsets, np.round(offsets), atol=1e-8)


JANUS = PARENT.copy()
JANUS.symbols[[symbol == "S" for symbol in JANUS.symbols].index(True)] = "Se"
TRIGONAL = standard(mx2("MoS2", "1T", 3.18, 3.13, vacuum=8.0))
FESE = Atoms("Fe2Se2", cell=[3.7, 3.7, 20.0], pbc=(True, True, False))
FESE.set_scaled_positions([[0, 0, 0.5], [0.5, 0.5, 0.5], [0.5, 0, 0.57], [0, 0.5, 0.43]])


@pytest.mark.parametrize(
    ("parent", "element", "species", "max_sites", "expected"),
    [
        (PARENT, "Mo", ("Mo", "W"), 8, 212),
        (PARENT, "Mo", ("Mo", "W", "Nb"), 4, 63),
        (PARENT, "S", ("S", "Se"), 6, 28),
        (TRIGONAL, "S", ("S", "Se"), 6, 27),
        (JANUS, "Mo", ("Mo", "W"), 5, 27),
        (FESE, "Fe", ("Fe", "Co"), 6, 29),
    ],
)
def test_arrangements_are_told_apart(parent, element, species, max_sites, expected) -> None:
    """As many as icet enumerates, each found again in another cell, whatever its orientation."""
    alloy = Alloy(parent, [Sublattice(element, species)])
    lattice = Lattice(alloy)
    made = list(distinct(alloy, max_sites))
    prints = [lattice.fingerprint(lattice.on_sites(atoms)) for atoms in made]
    assert len(set(prints)) == len(made) == expected
    rng = np.random.default_rng(3)
    for atoms, same in list(zip(made, prints, strict=True))[:: len(made) // 20]:
        other = disguised(atoms, rng, 0.03).repeat((1, int(rng.integers(1, 3)), 1))
        other.set_cell(other.cell.array * [-1, 1, 1])  # all of these parents have a mirror
        other.positions *= [-1, 1, 1]
        assert lattice.fingerprint(lattice.on_sites(other)) == same


def test_one_side_is_not_both_sides() -> None:
    """Te on one side of MoS2, whichever it is, and on both."""
    alloy = Alloy(PARENT, [Sublattice("S", ("S", "Te"))])
    lattice = Lattice(alloy)
    below, above = (k for k, symbol in enumerate(PARENT.symbols) if symbol == "S")
    made = []
    for chosen in ([below, above + 3], [below, below + 3], [above, above + 3], [above, below + 3]):
        cell = PARENT.repeat((2, 1, 1))
        cell.symbols[chosen] = "Te"
        made.append(lattice.fingerprint(lattice.on_sites(cell)))
    one, two, three, four = made
    assert one == four
    assert two == three
    assert one != two


def test_another_phase_and_another_alloy_are_refused() -> None:
    trigonal = mx2("MoS2", "1T", 3.18, 3.13, vacuum=8.0)
    with pytest.raises(StructureError, match="another phase is another parent"):
        match(trigonal, PARENT, SPECIES)
    with pytest.raises(StructureError, match="0 atoms of S cannot fill 2 sites"):
        match(mx2("MoSe2", "2H", 3.3, 3.3, vacuum=8.0), PARENT, SPECIES)
    with pytest.raises(StructureError, match="no whole number of cells"):
        match(PARENT.repeat((2, 1, 1))[:5], PARENT, SPECIES)


def test_a_square_lattice_is_none_of_the_parent_s() -> None:
    square = PARENT.copy()
    cell = square.cell.array.copy()
    side = np.sqrt(np.linalg.det(cell[:2, :2]))
    cell[:2, :2] = side * np.eye(2)
    square.set_cell(cell, scale_atoms=True)
    with pytest.raises(StructureError, match="its lattice is none of the parent's"):
        match(square, PARENT, SPECIES)


def test_frames_of_one_configuration_are_one(tmp_path) -> None:
    rng = np.random.default_rng(0)
    energy = ising(("Mo", "W"))
    made = []
    for atoms in frames(tmp_path, energy, max_sites=3):
        for rattle, above in ((0.0, 0.0), (0.08, 0.3)):
            frame = disguised(atoms, rng, rattle).repeat((1 + int(rng.integers(2)), 1, 1))
            value = atoms.get_potential_energy() * len(frame) / len(atoms) + above * len(frame)
            frame.calc = SinglePointCalculator(frame, energy=value)
            frame.info["config"] = atoms.info["config"]
            made.append(frame)
    system = build_system(system_config(tmp_path), made, 0.1, 0.5)
    assert len(system.configurations) == 7
    assert [len(one.frames) for one in system.configurations] == [2] * 7
    assert [one.end_member for one in system.configurations[:2]] == ["Mo", "W"]
    for one in system.with_dft:
        assert one.energy == pytest.approx(energy(one.ideal), abs=1e-9)


def test_what_is_not_relaxed_does_not_count(tmp_path) -> None:
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=2)
    forces = np.zeros((len(made[-1]), 3))
    forces[0, 0] = 0.2
    results = {"energy": made[-1].get_potential_energy(), "forces": forces}
    made[-1].calc = SinglePointCalculator(made[-1], **results)
    system = build_system(system_config(tmp_path), made, 0.1, 0.5)
    assert [one.has_dft for one in system.configurations] == [True, True, False]
    assert np.isnan(system.configurations[-1].energy)
    assert len(system.configurations[-1].frames) == 1
    assert [one.residues for one in system.configurations] == [(0, 0), (0, 0), (0.2, 0)]
    (note,) = system.notes
    assert "MoWS2-1H-c2-000 (forces up to 0.2 eV/Å, in-plane stress up to 0 N/m)" in note


def test_a_lower_frame_that_is_not_relaxed_is_told(tmp_path) -> None:
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=2)
    lower = made[-1].copy()
    forces = np.full((len(lower), 3), 0.3)
    energy = made[-1].get_potential_energy() - 0.1
    lower.calc = SinglePointCalculator(lower, energy=energy, forces=forces)
    system = build_system(system_config(tmp_path), [*made, lower], 0.1, 0.5)
    (without,) = [one for one in system.configurations if not one.has_dft]
    assert len(without.frames) == 2
    assert without.residues[0] == pytest.approx(0.3 * np.sqrt(3))
    (note,) = system.notes
    assert f"{without.name} (forces up to 0.52 eV/Å" in note


def test_levels_of_theory_are_not_mixed(tmp_path) -> None:
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=3)
    made[0].info["level"] = made[1].info["level"] = "PBE"
    assert len(build_system(system_config(tmp_path), made, 0.1, 0.5).with_dft) == 7
    made[-1].info["level"] = "SCAN"
    with pytest.raises(ValueError, match=r"MoWS2: .* 2 levels of theory \(PBE; SCAN\)"):
        build_system(system_config(tmp_path), made, 0.1, 0.5)
    forces = np.ones((len(made[-1]), 3))
    energy = made[-1].get_potential_energy()
    made[-1].calc = SinglePointCalculator(made[-1], energy=energy, forces=forces)
    assert len(build_system(system_config(tmp_path), made, 0.1, 0.5).with_dft) == 6


def test_foreign_frames_are_noted_or_passed_over(tmp_path) -> None:
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=2)
    foreign = mx2("NbS2", "2H", 3.3, 3.1, vacuum=8.0)
    phase = mx2("WS2", "1T", 3.18, 3.13, vacuum=8.0)
    phase.info["config"] = "WS2-1T"
    for atoms in (foreign, phase):
        atoms.calc = SinglePointCalculator(atoms, energy=-60.0)
    system = build_system(system_config(tmp_path), [*made, foreign, phase], 0.1, 0.5)
    assert len(system.configurations) == 3
    (note,) = system.notes
    assert note.startswith("frames left out, 1: WS2-1T (1); the first because it is no arrangement")


def test_end_members_are_demanded(tmp_path) -> None:
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=2)
    without = [one for one in made if set(one.symbols) != {"W", "S"}]
    system = build_system(system_config(tmp_path), without, 0.1, 0.5)
    with pytest.raises(ValueError, match="no relaxed end member with W"):
        system.require_ends()


def test_starts_follow_vegard_between_the_end_members_of_dft(tmp_path) -> None:
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=2)
    for atoms in made:
        if set(atoms.symbols) == {"W", "S"}:
            atoms.set_cell(atoms.cell.array * [[1.1], [1.1], [1]], scale_atoms=True)
            atoms.calc = SinglePointCalculator(atoms, energy=-22.25)
            end = abs(np.linalg.det(atoms.cell.array[:2, :2]))
    system = build_system(system_config(tmp_path), made, 0.1, 0.5)
    half = next(one for one in system.configurations if one.x == 0.5)
    area = abs(np.linalg.det(half.start.cell.array[:2, :2])) / half.n_sites
    base = abs(np.linalg.det(PARENT.cell.array[:2, :2]))
    assert end > 1.15 * base
    assert np.sqrt(area) == pytest.approx((np.sqrt(base) + np.sqrt(end)) / 2, rel=1e-6)


def test_candidates_are_what_dft_has_not(tmp_path) -> None:
    system = ising_system(tmp_path, max_sites=3)
    found = list(candidates(system, CellsConfig(max_sites=4), seed=0))
    assert len(found) == 8
    assert {one.n_sites for one in found} == {4}
    assert not any(one.has_dft for one in found)
    some = list(candidates(system, CellsConfig(max_sites=1, sqs=1, random=2), seed=0))
    assert {one.n_sites for one in some} == {8}


def test_candidates_have_names_of_their_own(tmp_path) -> None:
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=1)
    for atoms in random_cells(ALLOY, 9, [0.5], 2, seed=1):
        atoms.calc = SinglePointCalculator(atoms, energy=-22.0 * 9)
        made.append(atoms)
    system = build_system(system_config(tmp_path), made, 0.1, 0.5)
    cells = CellsConfig(max_sites=1, random=2, sizes=(9, 9), shares=(0.5,))
    found = list(candidates(system, cells, seed=0))
    names = [one.name for one in (*system.configurations, *found)]
    assert len(found) == 2
    assert len(set(names)) == len(names) == 6
    assert {one.name for one in found} == {"MoWS2-1H-r9-000#2", "MoWS2-1H-r9-001#2"}
    assert all(one.start.info["config"] == one.name for one in found)


def test_cells_that_cannot_be_made_are_told(tmp_path) -> None:
    system = ising_system(tmp_path, max_sites=2)
    cells = CellsConfig(max_sites=1, sqs=1, sizes=(4,), shares=(0.3, 0.25))
    for _ in range(2):
        assert len(list(candidates(system, cells, seed=0))) == 1
    (note,) = system.notes
    assert note.startswith("no quasirandom cells of 4 primitive cells: 4 sites of Mo cannot")
    assert note.endswith("change cells.sizes or cells.shares")


def test_too_few_sites_name_the_setting(tmp_path) -> None:
    config = system_config(tmp_path).model_copy(update={"sublattice": "S", "species": ("S", "Se")})
    system = build_system(config, [], 0.1, 0.5)
    with pytest.raises(StructureError, match=r"2 shared sites, and cells\.max_sites is 1"):
        list(candidates(system, CellsConfig(max_sites=1), seed=0))


def test_a_cell_on_the_sites_is_found_at_once(monkeypatch) -> None:
    from mlff2d.training.alloys import match as module

    tried = []
    placed = module._placed
    monkeypatch.setattr(module, "_placed", lambda *a: tried.append(1) or placed(*a))
    atoms = PARENT.repeat((4, 4, 1))
    assert module.match(atoms, PARENT, SPECIES).farthest < 1e-6
    assert len(tried) == 1


def test_names_that_files_give_twice_are_numbered(tmp_path) -> None:
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=3)
    for atoms in made:
        atoms.info = {"config": "cell"}
    system = build_system(system_config(tmp_path), made, 0.1, 0.5)
    names = [one.name for one in system.configurations]
    assert len(set(names)) == 7
    assert replace(system.configurations[0], name="x").name == "x"
