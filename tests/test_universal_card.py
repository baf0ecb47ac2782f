"""The card of a universal potential: what is measured is true, and what is kept is used again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, mx2
from ase.calculators.singlepoint import SinglePointCalculator

from benchmarks import universal_card
from benchmarks.card import dimers, strain
from benchmarks.card.common import Job, Kept, Options, Subject
from benchmarks.card.errors import modes_of
from mlff2d import MLFF2DCalculator, checkpoint
from mlff2d.training.data.splits import part_of
from mlff2d.training.evaluation.tables import Table
from tests.potentials import ELEMENTS, random_potential

R = np.arange(0.3, 6.0, 0.1)


def well(r: np.ndarray) -> np.ndarray:
    """A repulsion of nuclei and a well of 3 eV at 2 Å."""
    x = np.exp(-1.5 * (r - 2.0))
    return 3 * (x**2 - 2 * x)


def test_a_pair_that_repels_has_nothing_wrong() -> None:
    verdict = dimers.judged(well(R), R, sum_of_radii=2.4)
    assert verdict["fall"] == verdict["hole"] == verdict["barrier"] == verdict["way"] == 0
    assert verdict["depth"] == pytest.approx(3, abs=0.05)
    assert verdict["length"] == pytest.approx(2.0, abs=0.06)


def test_a_pair_that_falls_together_is_found() -> None:
    hole = well(R) - 120 * np.exp(-(((R - 0.7) / 0.2) ** 2))
    verdict = dimers.judged(hole, R, sum_of_radii=2.4)
    assert verdict["fall"] > 5
    assert verdict["hole"] == pytest.approx(-3 - hole[R < 1.2].min(), abs=0.1)
    shallow = well(R) - 95 * np.exp(-(((R - 0.7) / 0.2) ** 2))
    verdict = dimers.judged(shallow, R, sum_of_radii=2.4)
    assert (verdict["fall"] > dimers.NOISE, verdict["hole"]) == (True, 0)
    on_the_way = shallow[(R > 0.75) & (R < 2.05)]
    assert verdict["way"] == pytest.approx(on_the_way.max() - on_the_way.min())


def test_a_wall_between_two_wells_is_found() -> None:
    double = well(R) + 5 * np.exp(-(((R - 2.6) / 0.2) ** 2))
    assert dimers.judged(double, R, sum_of_radii=2.4)["barrier"] > 3


def test_energies_of_dimers_are_those_of_molecules() -> None:
    potential = random_potential("schnet")
    calculator = MLFF2DCalculator(potential, dtype="float64")
    pairs = np.array([[6, 42], [16, 16]])
    r = np.array([0.9, 2.1, 4.4, 5.5])
    found = dimers.energies(potential, pairs, r)
    for pair, row in zip(pairs, found, strict=True):
        alone = sum(calculator.get_potential_energy(Atoms([z])) for z in pair)
        for length, energy in zip(r, row, strict=True):
            molecule = Atoms(pair, [[0, 0, 0], [0, 0, length]])
            expected = calculator.get_potential_energy(molecule) - alone
            assert energy == pytest.approx(expected, abs=1e-9)
    assert found[0, -1] == 0  # beyond the cutoff


def test_strain_is_in_the_plane_alone() -> None:
    atoms = mx2("MoS2", a=3.18, vacuum=8.0)
    both = strain.strained(atoms, 0.1, "biaxial")
    assert both.cell.areas()[2] == pytest.approx(1.21 * atoms.cell.areas()[2])
    along_y = strain.strained(atoms, -0.1, "y")
    np.testing.assert_allclose(along_y.positions, atoms.positions * [1, 0.9, 1])
    assert along_y.cell[2] == pytest.approx(atoms.cell[2])


def test_roughness_sees_a_kink_and_no_cubic() -> None:
    x = strain.STRAINS
    cubic = 40 * x**3 - 7 * x**2 + x
    assert strain._roughness(cubic).max() < 1e-9
    assert strain._roughness(cubic + np.abs(x)).max() > 0.001


def frames_of(names: list[str], calculator: MLFF2DCalculator) -> list[Atoms]:
    """Labelled frames near and far from equilibrium of layers with these names of materials."""
    rng = np.random.default_rng(0)
    made = (graphene("BN", a=2.5, vacuum=8.0), mx2("MoS2", a=3.2, vacuum=8.0))
    frames = []
    for name, layer in zip(names, made, strict=True):
        for mode, width in (("near", 0.02), ("rattled2", 0.1), ("rattled3", 0.1)):
            atoms = layer.copy()
            atoms.pbc = (True, True, False)
            atoms.positions += rng.normal(0, width, atoms.positions.shape)
            calculator.calculate(atoms)
            names_of = ("energy", "forces", "stress")
            labels = {key: calculator.results[key] for key in names_of}
            atoms.calc = SinglePointCalculator(atoms, **labels)
            atoms.info |= {"material": name, "mode": mode}
            frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames and structures of materials that the shipped model's training held out."""
    folder = tmp_path_factory.mktemp("card")
    settings = checkpoint.read()["training"]["settings"]["split"]
    shares = settings["val"], settings["test"]
    candidates = [f"layer {k}" for k in range(500)]
    held_out = [n for n in candidates if part_of(n, settings["seed"], *shares) == "test"][:2]
    seen = [n for n in candidates if part_of(n, settings["seed"], *shares) == "train"][:2]
    calculator = MLFF2DCalculator(dtype="float64")
    ase.io.write(folder / "frames.extxyz", frames_of(held_out, calculator))
    both = frames_of(held_out, calculator)[::3] + frames_of(seen, calculator)[::3]
    ase.io.write(folder / "layers.extxyz", both)
    return folder


def command(folder: Path, *more: str) -> list[str]:
    model = str(checkpoint.locate(None))
    frames, layers = str(folder / "frames.extxyz"), str(folder / "layers.extxyz")
    words = [model, "--teacher", model, "--data", frames, "--pbe", frames, "--structures", layers]
    words += ["-o", str(folder / "card.md"), "--n-strain", "2", "--n-md", "1", "--md-steps", "20"]
    return [*words, "--threads", "1", *more]


def numbers(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return found


def test_kinds_of_frames_are_read_without_their_atoms(folder: Path) -> None:
    expected = ["near", "rattled", "rattled"] * 2
    assert modes_of(folder / "frames.extxyz") == expected
    packed = folder / "packed.extxyz.gz"
    packed.write_bytes(gzip.compress((folder / "frames.extxyz").read_bytes()))
    assert modes_of(packed) == expected


def test_a_model_beside_itself(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes no errors, all is in the card, and nothing is measured twice."""
    parts = ["direct", "pbe", "relaxation", "strain", "md"]
    assert universal_card.main(command(folder, "--part", *parts)) == 0
    found = numbers(folder)["parts"]
    assert list(found) == [part for part in universal_card.PARTS if part in parts]
    for part in ("direct", "pbe"):
        assert found[part]["forces all"]["model"] < 0.1  # meV/Å
        assert found[part]["energy all"]["model"] < 0.1
        assert found[part]["forces all"]["number"] == 6
        assert found[part]["forces rattled"]["number"] == 4
        assert found[part]["directions all model"]["slope"] == pytest.approx(1, abs=1e-4)
    assert found["pbe"]["forces model / teacher"] == pytest.approx(1)
    assert found["relaxation"]["structures"] == 2  # those that were trained on are left out
    assert found["relaxation"]["energy"]["mae"] == 0
    assert found["strain"]["mae"] == 0
    assert found["md"]["model"] == found["md"]["teacher"]
    card = (folder / "card.md").read_text()
    assert "## After relaxation" in card
    assert "speed: not measured yet" in card
    for line in card.splitlines():
        if line.startswith("!["):
            assert (folder / line.split("(")[1].rstrip(")")).exists()

    def measure(job: Job, part: str) -> None:
        raise AssertionError(part)

    monkeypatch.setattr(universal_card, "measure", measure)
    assert universal_card.main(command(folder, "--part", *parts)) == 0
    assert numbers(folder)["parts"] == found


def test_softness_of_what_was_held_out(folder: Path, tmp_path: Path) -> None:
    """Forces too small show as a slope, and frames of materials to train on do not count."""
    frames = ase.io.read(folder / "frames.extxyz", ":")
    frames += ase.io.read(folder / "layers.extxyz", "2:")
    for atoms in frames:
        results = atoms.calc.results
        results["forces"] = results["forces"] / 0.8
    ase.io.write(tmp_path / "frames.extxyz", frames)
    (tmp_path / "layers.extxyz").write_bytes((folder / "layers.extxyz").read_bytes())
    assert universal_card.main(command(tmp_path, "--part", "direct")) == 0
    found = numbers(tmp_path)["parts"]["direct"]
    assert found["forces all"]["number"] == 6
    assert found["directions rattled model"]["slope"] == pytest.approx(0.8, abs=1e-3)


def test_a_part_that_fails_ends_nothing(folder: Path, tmp_path: Path) -> None:
    frames = ase.io.read(folder / "frames.extxyz", ":1")
    frames[0].numbers[:] = 118
    ase.io.write(tmp_path / "frames.extxyz", frames)
    (tmp_path / "layers.extxyz").write_bytes((folder / "layers.extxyz").read_bytes())
    words = command(tmp_path, "--part", "direct", "strain", "--n-strain", "1")
    assert universal_card.main(words) == 1
    found = numbers(tmp_path)
    assert "Og" in found["failed"]["direct"]
    assert "strain" in found["parts"]


def test_numbers_are_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (("--n-relax", "0"), ("--md-steps", "-5"), ("--dimer-step", "0")):
        with pytest.raises(SystemExit):
            universal_card.main(command(folder, option, value))
        assert option in capsys.readouterr().err.splitlines()[-1]
    assert universal_card.main(command(folder, "--pbe", "none.extxyz")) == 2
    assert "none.extxyz: there is no such file" in capsys.readouterr().err


def test_all_pairs(tmp_path: Path) -> None:
    files = []
    for seed in (0, 1):
        checkpoint.save(random_potential("schnet", seed=seed).float(), tmp_path / f"{seed}.pt")
        files.append(str(tmp_path / f"{seed}.pt"))
    options = Options(files[0], files[1], [], [], [], [], 1, 1, 1, 1, 1, 1, True, 0.1, "cpu", 1)
    subjects = [Subject(n, f, "cpu") for n, f in zip(("model", "teacher"), files, strict=True)]
    result = dimers.of_all_pairs(Job(options, *subjects, Kept(tmp_path / "kept")))
    n = len(ELEMENTS)
    assert result.figures["pairs"] == n * (n + 1) // 2
    # The repulsion of nuclei is in both, and nothing that these weights do undoes it.
    assert result.figures["model"]["holes"] == result.figures["teacher"]["holes"] == 0
    assert all(isinstance(table, Table) for table in result.tables)
    assert (tmp_path / "kept" / result.images[0]).exists()
