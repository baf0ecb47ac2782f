"""Studies of alloys whose sites are shared by three species, or lie on both sides of a layer."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import mx2
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.neighborlist import neighbor_list

from mlff2d import cli
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.training.alloys import montecarlo
from mlff2d.training.alloys.candidates import candidates
from mlff2d.training.alloys.config import AlloyConfig, CellsConfig, SystemConfig
from mlff2d.training.alloys.figures import hulls
from mlff2d.training.alloys.formation import COLUMN, dft_formation
from mlff2d.training.alloys.method import Answer, Answers
from mlff2d.training.alloys.montecarlo import decorated, run_monte_carlo
from mlff2d.training.alloys.observables import shared_sites, stars, waves
from mlff2d.training.alloys.system import System, build_system
from mlff2d.training.generation.alloys import Alloy, Sublattice, distinct

A, THICK = 3.18, 3.13
ALONE = {"Mo": -22.1, "W": -22.25, "Nb": -21.76, "S": -7.1, "Se": -6.4}
"""eV of a shared site in an end member."""
UNLIKE = {("Mo", "W"): -0.004, ("Mo", "Nb"): 0.006, ("Nb", "W"): -0.002, ("S", "Se"): -0.003}
"""eV of two unlike neighbours on one height."""
ACROSS = -0.0075
"""eV of two unlike chalcogens above each other."""

TERNARY, CHALCOGENS = ("Mo", ("Mo", "W", "Nb")), ("S", ("S", "Se"))


def mixing(atoms: Atoms, species: Sequence[str]) -> float:
    """eV of a cell on the parent's lattice, above its end members."""
    shared = atoms[[k for k, s in enumerate(atoms.symbols) if s in species]]
    i, j, vectors = neighbor_list("ijD", shared, 1.1 * A)
    energy = 0.0
    for one, other, vector in zip(i, j, vectors, strict=True):
        kinds = tuple(sorted((shared.symbols[one], shared.symbols[other])))
        if kinds[0] != kinds[1]:
            above = np.linalg.norm(vector[:2]) < 0.1
            energy += (ACROSS if above else UNLIKE[kinds]) / 2
    return energy


def labelled(which: tuple[str, tuple[str, ...]], max_sites: int) -> list[Atoms]:
    """All distinct cells with an energy each."""
    element, species = which
    alloy = Alloy(mx2("MoS2", "2H", A, THICK, vacuum=8.0), [Sublattice(element, species)])
    made = list(distinct(alloy, max_sites))
    for atoms in made:
        on_lattice = atoms.copy()  # whose lattice constant the energy is to know nothing of
        on_lattice.set_cell(_parent_cell(atoms), scale_atoms=True)
        heights = on_lattice.positions[:, 2]
        on_lattice.positions[:, 2] = (heights - heights.mean()) * THICK / np.ptp(heights)
        energy = sum(ALONE.get(s, 0.0) for s in atoms.symbols if s in species)
        energy += mixing(on_lattice, species)
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return made


def _parent_cell(atoms: Atoms) -> np.ndarray:
    cell = atoms.cell.array.copy()
    area = abs(np.linalg.det(cell[:2, :2])) / (len(atoms) // 3)
    cell[:2] *= np.sqrt(A**2 * np.sqrt(3) / 2 / area)
    return cell


def config_of(folder: Path, which: tuple[str, tuple[str, ...]]) -> SystemConfig:
    """The alloy, its parent in a file."""
    path = folder / "MoS2.extxyz"
    ase.io.write(path, mx2("MoS2", "2H", A, THICK, vacuum=8.0))
    return SystemConfig(parent=path, sublattice=which[0], species=which[1], phase="1H")


def system_of(folder: Path, which: tuple[str, tuple[str, ...]], max_sites: int) -> System:
    return build_system(config_of(folder, which), labelled(which, max_sites), 0.1, 0.5)


@pytest.mark.parametrize(
    ("which", "max_sites", "share", "n"), [(TERNARY, 3, 1 / 3, 21), (CHALCOGENS, 6, 2 / 3, 28)]
)
def test_a_study_from_frames_to_the_page(tmp_path, capsys, which, max_sites, share, n) -> None:
    config_of(tmp_path, which)
    ase.io.write(tmp_path / "dft.extxyz", labelled(which, max_sites))
    species = ", ".join(which[1])
    (tmp_path / "study.yaml").write_text(
        f"run_dir: {tmp_path / 'run'}\n"
        f"systems: {{parent: {tmp_path / 'MoS2.extxyz'}, sublattice: {which[0]}, "
        f"species: [{species}], phase: 1H, name: alloy}}\n"
        f"frames: {tmp_path / 'dft.extxyz'}\n"
        "methods: [ce-ols, ideal]\n"
        f"cells: {{max_sites: {max_sites + which[1].count('S') * 2}}}\n"
        "splits: {repeats: 2}\n"
        "curve: [5]\n"
        "expansion: {cutoffs: [[1.1]]}\n"
        "monte_carlo: {shares: [0.5], fit: ols, temperatures: [600, 60],\n"
        "  expansion: {supercell: [4, 4], sweeps: 12, replicas: 2}}\n"
    )
    assert cli.main(["alloy", str(tmp_path / "study.yaml")]) == 0
    run = tmp_path / "run"
    assert f"alloy: {n} configurations that DFT relaxed" in capsys.readouterr().err
    judged = json.loads((run / "report/errors.json").read_text())
    of = {(one["method"], one["size"]): one for one in judged}
    assert of["ce-ols", None]["mae"] < 1e-6 < of["ideal", None]["mae"]
    assert of["ce-ols", None]["missed"] == of["ce-ols", None]["false"] == 0
    assert of["ideal", 5]["sites_per_atom"] == pytest.approx(share)
    with (run / "predicted/alloy.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "ce-ols"]
    cells = {a.info["config"]: a for a in ase.io.iread(run / "cells/alloy.extxyz")}
    assert {row["configuration"] for row in rows} == set(cells)
    for row in rows:
        atoms = cells[row["configuration"]]
        count = {one: list(atoms.symbols).count(one) for one in which[1]}
        sites = sum(count.values())
        assert sites == pytest.approx(share * len(atoms))
        for one in which[1]:
            assert float(row[f"x_{one}"]) == pytest.approx(count[one] / sites, abs=1e-6)
        assert float(row["meV/atom"]) == pytest.approx(share * float(row[COLUMN]), abs=1e-4)
    page = (run / "report/report.html").read_text()
    assert {1 / 3: "they are 1/3 of that", 2 / 3: "they are 2/3 of that"}[share] in page
    assert "could not be done" not in page
    assert ("have equal parts of the rest" in page) == (len(which[1]) == 3)
    assert {"alloy-hull.png", "alloy-expansion-sketch.png"} <= {
        path.name for path in (run / "report").iterdir()
    }


@pytest.mark.parametrize(("which", "max_sites"), [(TERNARY, 3), (CHALCOGENS, 4)])
def test_formation_energies_are_those_of_the_neighbours(tmp_path, which, max_sites) -> None:
    system = system_of(tmp_path, which, max_sites)
    formation = dft_formation(system.with_dft)
    assert len(system.ends) == len(which[1])
    assert np.ptp(formation) > 0.005
    for one, energy in zip(system.with_dft, formation, strict=True):
        expected = mixing(one.ideal, which[1]) / one.n_sites
        assert energy == pytest.approx(expected, abs=1e-9)


def test_a_janus_layer_is_one_configuration_with_a_wave_of_its_own(tmp_path) -> None:
    system = system_of(tmp_path, CHALCOGENS, 2)
    (janus,) = [one for one in system.with_dft if one.end_member is None]
    assert janus.n_sites == 2
    # An unlike pair above each other, and six like neighbours on either side.
    assert dft_formation(system.with_dft)[-1] == pytest.approx(ACROSS / 2)
    turned = janus.relaxed.copy()
    turned.positions[:, 2] *= -1
    turned.calc = SinglePointCalculator(turned, energy=janus.energy * 2)
    frames = [*labelled(CHALCOGENS, 2), turned]
    again = build_system(config_of(tmp_path, CHALCOGENS), frames, 0.1, 0.5)
    assert [len(one.frames) for one in again.configurations] == [1, 1, 2]
    supercell = janus.ideal.repeat((3, 3, 1))
    numbers = supercell.numbers[shared_sites(system, (3, 3))][None].astype(np.uint8)
    found = stars(system.lattice.parent, (3, 3))
    assert found.names[int(waves(numbers, (3, 3), found)[0].argmax())] == "(0 0)"
    assert waves(numbers, (3, 3), found)[0].max() == pytest.approx(1)


@pytest.mark.parametrize("which", [TERNARY, CHALCOGENS])
def test_energies_of_swaps_with_a_potential_are_per_shared_site(
    tmp_path, monkeypatch, which
) -> None:
    system = system_of(tmp_path, which, 2)
    walk = {"supercell": (2, 2), "sweeps": 2, "replicas": 1}
    config = AlloyConfig.model_validate(
        {
            "run_dir": tmp_path,
            "systems": [config_of(tmp_path, which)],
            "monte_carlo": {
                "by": ["potential"],
                "shares": [0.5],
                "temperatures": [900, 300],
                "potential": walk,
            },
        }
    )
    calculator = MLFF2DCalculator(dtype="float64")
    monkeypatch.setattr(montecarlo, "sampler", cli._swap_many)
    (found,) = run_monte_carlo(system, config, potential=calculator.potential)
    (course,) = found.courses
    n = 4 * system.alloy.n_sites
    assert course.samples.arrangements.shape[-1] == n
    ideal = decorated(system, config.monte_carlo.potential, [0.5])[0]

    def energy(symbols: Sequence[str]) -> float:
        """eV per shared site."""
        atoms = ideal.copy()
        atoms.symbols[shared_sites(system, (2, 2))] = symbols
        start = system.alloy.finished(atoms, "k", 0)
        start.calc = calculator
        return start.get_potential_energy() / n

    symbols = [chemical_symbols[z] for z in course.samples.arrangements[0, 1, -1]]
    assert {s: symbols.count(s) / n for s in which[1]} == course.shares
    mixing = energy(symbols) - sum(x * energy([s] * n) for s, x in course.shares.items())
    assert course.samples.energies[0, 1, -1] == pytest.approx(mixing, abs=1e-8)


def test_a_hull_of_three_species_is_drawn_and_of_four_is_not(tmp_path) -> None:
    system = system_of(tmp_path, TERNARY, 2)
    answers = Answers({(one.system, one.name): Answer(0.0) for one in system.configurations})
    drawn = hulls(system, [], {"ideal": answers}, ["ideal"])
    assert drawn is not None
    assert drawn.image.startswith(b"\x89PNG")
    four = replace(system)
    four.lattice.shared = ("Mo", "W", "Nb", "Ta")
    assert hulls(four, [], {"ideal": answers}, ["ideal"]) is None


def test_more_cells_than_anyone_can_make_are_refused(tmp_path) -> None:
    for which, most in ((TERNARY, 8), (CHALCOGENS, 14), (("Mo", ("Mo", "W")), 13)):
        system = system_of(tmp_path, which, 2)
        for asked in (40, 1_000_000):
            with pytest.raises(StructureError, match=rf"cells.max_sites of at most {most}, and"):
                next(candidates(system, CellsConfig(max_sites=asked), 0))


def test_a_parent_that_is_not_primitive_is_refused(tmp_path) -> None:
    config = config_of(tmp_path, TERNARY)
    ase.io.write(config.parent, mx2("MoS2", "2H", A, THICK, vacuum=8.0).repeat((2, 1, 1)))
    with pytest.raises(StructureError, match=r"MoS2\.extxyz: it is 2 primitive cells of MoS2; g"):
        build_system(config, [], 0.1, 0.5)
    shifted = mx2("MoS2", "2H", A, THICK, vacuum=8.0).repeat((2, 1, 1))
    shifted.positions[0, 0] += 0.3  # a distorted phase is primitive in this cell
    ase.io.write(config.parent, shifted)
    assert build_system(config, [], 0.1, 0.5).alloy.n_sites == 2
