"""A study of an alloy from frames to the report, and its parts."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from mlff2d import cli
from mlff2d.training.alloys import kept, study
from mlff2d.training.alloys.config import AlloyConfig, SplitsConfig, load_alloy
from mlff2d.training.alloys.formation import dft_formation, ground_states, hull_distances
from mlff2d.training.alloys.judge import judge
from mlff2d.training.alloys.method import Answer, Answers, Task
from mlff2d.training.alloys.splits import smaller, splits
from mlff2d.training.alloys.training import Group, by_groups
from tests.alloys import frames, ising, ising_system, parent_file


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    return ising_system(tmp_path_factory.mktemp("ising"))


def write_study(folder: Path, more: str = "", max_sites: int = 4) -> Path:
    """A config and its frames."""
    ase.io.write(folder / "dft.extxyz", frames(folder, ising(("Mo", "W")), max_sites=max_sites))
    path = folder / "study.yaml"
    path.write_text(
        f"run_dir: {folder / 'run'}\n"
        f"systems: {{parent: {parent_file(folder)}, sublattice: Mo, species: [Mo, W], phase: 1H}}\n"
        f"frames: {folder / 'dft.extxyz'}\n"
        "methods: [ce-ols, ideal]\n"
        "splits: {repeats: 2}\n" + more
    )
    return path


def test_formation_energies_are_those_of_the_model(system) -> None:
    ours = dft_formation(system.with_dft)
    assert np.allclose(ours[:2], 0)
    energy = ising(("Mo", "W"))
    for one, value in zip(system.with_dft, ours, strict=True):
        ideal = sum(x * energy(system.ends[species].ideal) for species, x in one.shares.items())
        assert value == pytest.approx(energy(one.ideal) - ideal, abs=1e-9)


def test_the_hull_of_two_species_is_the_lower_envelope() -> None:
    x = np.array([0, 0.25, 0.5, 0.5, 0.75, 1.0])
    formation = np.array([0, -1.0, -3.0, -1.0, -1.6, 0])
    distances = hull_distances(np.column_stack([1 - x, x]), formation)
    # the hull goes from (0, 0) over (0.5, -3) and (0.75, -1.6) to (1, 0)
    assert np.allclose(distances, [0, 0.5, 0, 2.0, 0.0, 0], atol=1e-9)
    assert ground_states(np.column_stack([1 - x, x]), distances) == {2, 4}


def test_the_hull_of_three_species() -> None:
    shares = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    distances = hull_distances(shares, np.array([0, 0, 0, -0.2, -0.6]))
    # a third of each is 2/3 of (1/2, 1/2, 0) and 1/3 of the last end member: -0.4
    assert np.allclose(distances, [0, 0, 0, 0.2, 0], atol=1e-9)


def test_unstable_mixtures_are_on_no_hull() -> None:
    x = np.array([0, 0.5, 1.0])
    shares = np.column_stack([1 - x, x])
    assert ground_states(shares, hull_distances(shares, np.array([0, 0.3, 0]))) == set()
    assert np.isnan(hull_distances(shares, np.array([0, np.nan, 0]))[1])


def test_splits_keep_end_members_and_hold_out_a_share(system) -> None:
    found = splits(system.with_dft, SplitsConfig(test=0.3, repeats=4), seed=1)
    assert len({tuple(one.name for one in split.test) for split in found}) > 1
    for split in found:
        assert len(split.test) == round(0.3 * 13)
        assert not {one.name for one in split.test} & {one.name for one in split.train}
        assert len(split.test) + len(split.train) == 15
        assert {"Mo", "W"} <= {one.end_member for one in split.train}
    sizes = [smaller(found[0], n, seed=1) for n in (4, 7)]
    assert [len(split.train) for split in sizes] == [4, 7]
    assert {one.name for one in sizes[0].train} < {one.name for one in sizes[1].train}
    assert sizes[0].test == found[0].test


def answers_by(system, error) -> Answers:
    """Answers with an error in eV per site that depends on the configuration."""
    true = dft_formation(system.with_dft)
    return Answers(
        {
            (one.system, one.name): Answer(float(value) + error(one))
            for one, value in zip(system.with_dft, true, strict=True)
        }
    )


def test_what_rounding_tells_apart_has_one_rank(system) -> None:
    split = replace(splits(system.with_dft, SplitsConfig(repeats=1), seed=0)[0])
    noise = iter(np.random.default_rng(0).normal(scale=1e-10, size=100))
    found = judge(system, "m", split, answers_by(system, lambda one: next(noise)))
    assert found.spearman == 1.0


def test_errors_are_of_held_out_configurations_alone(system) -> None:
    (split,) = splits(system.with_dft, SplitsConfig(repeats=1), seed=0)
    held = {one.name for one in split.test}
    exact = judge(system, "exact", split, answers_by(system, lambda one: 0.0))
    assert (exact.mae, exact.rmse, exact.hull_mae, exact.missed, exact.false) == (0, 0, 0, 0, 0)
    shares = np.array([list(one.shares.values()) for one in system.with_dft])
    distances = hull_distances(shares, dft_formation(system.with_dft))
    assert exact.found == len(ground_states(shares, distances)) > 0
    elsewhere = answers_by(system, lambda one: 0.0 if one.name in held else 0.7)
    assert judge(system, "m", split, elsewhere).mae == 0
    shifted = judge(
        system, "m", split, answers_by(system, lambda one: 0.002 if one.name in held else 0.0)
    )
    assert shifted.mae == pytest.approx(2.0)
    first = next(iter(held))
    absent = answers_by(system, lambda one: np.nan if one.name == first else 0.001)
    assert judge(system, "m", split, absent).failed == 1
    assert judge(system, "m", split, absent).mae == pytest.approx(1.0)


def test_a_study_ends_with_a_page(tmp_path, capsys) -> None:
    path = write_study(tmp_path, "curve: [5, 8]\ncells: {max_sites: 5}\n")
    assert cli.main(["alloy", str(path)]) == 0
    out = capsys.readouterr().err
    assert "15 configurations that DFT relaxed, 12 without" in out
    assert "Errors of E_f against end members, meV/site\n" in out  # the title of a narrow table
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "against the end members by the same method" in page
    assert "1/3 of that" in page
    figures = (tmp_path / "run" / "report" / "errors.json").read_text()
    judged = json.loads(figures, parse_constant=pytest.fail)  # NaN is no JSON
    assert {one["cv"] for one in judged if one["method"] == "ideal"} == {None}
    by = {(one["method"], one["size"]): one["mae"] for one in judged}
    assert by["ce-ols", None] < 1e-6 < by["ideal", None]
    assert {size for _, size in by} == {None, 5, 8}
    with (tmp_path / "run" / "predicted" / "MoWS2.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "ce-ols"]
    assert len(rows) == 27
    energy = ising(("Mo", "W"))
    cells = {a.info["config"]: a for a in ase.io.iread(tmp_path / "run/cells/MoWS2.extxyz")}
    assert len(cells) == 27
    for row in rows:
        atoms = cells[row["configuration"]]
        symbols = list(atoms.symbols)
        x = symbols.count("W") / (len(atoms) // 3)
        ends = (1 - x) * -22.10 + x * -22.25
        expected = 1e3 * (energy(atoms) - ends)
        assert float(row["E_f against end members, meV/site"]) == pytest.approx(expected, abs=1e-3)
        assert float(row["meV/atom"]) == pytest.approx(expected / 3, abs=1e-3)


def test_what_is_kept_is_not_computed_again(tmp_path, monkeypatch) -> None:
    path = write_study(tmp_path)
    config = load_alloy(path)
    quiet = Console(quiet=True)
    study.run_study(config, ["compare"], quiet)
    asked: list[str] = []

    def counting(name: str):
        def method(task: Task) -> Answers:
            asked.append(name)
            return Answers({(one.system, one.name): Answer(0.0) for one in task.asked})

        return method

    monkeypatch.setattr(kept, "load_method", counting)
    study.run_study(config, ["compare"], quiet)
    assert asked == []
    ase.io.write(tmp_path / "dft.extxyz", frames(tmp_path, ising(("Mo", "W"), 0.005), max_sites=4))
    study.run_study(config, ["compare"], quiet)
    assert asked == ["ce-ols", "ideal"] * 2


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("expansion.folds=4", ["ce-ols", "ce-all"]),
        ("relax.fmax=0.05", ["ce-ols", "ce-all", "ideal"]),
        ("potentials.steps=7", ["ce-ols", "ce-all", "ideal"]),
        ("seed=5", ["ce-ols", "ce-all", "ideal"]),
        ("device=cpu", []),
    ],
)
def test_what_depends_on_a_setting_is_computed_again(
    system, tmp_path, monkeypatch, override, again
):
    asked: list[str] = []

    def counting(name: str):
        def method(task: Task) -> Answers:
            asked.append(name)
            return Answers({})

        return method

    monkeypatch.setattr(kept, "load_method", counting)
    path = write_study(tmp_path)
    train = system.with_dft[:6]
    for overrides in ([], [], [override]):
        config = load_alloy(path, overrides)
        task = Task(config, {}, train, system.with_dft, tmp_path, config.seed)
        asked.clear()
        for method in ("ce-ols", "ce-all", "ideal"):
            kept.answers_of(method, task)
    assert asked == again


def test_what_looks_at_held_out_results_depends_on_them(system, tmp_path, monkeypatch) -> None:
    config = load_alloy(write_study(tmp_path))
    changed = [
        one if one in system.with_dft[:6] else replace(one, energy=one.energy + 0.1)
        for one in system.with_dft
    ]
    folders = {
        method: {
            kept.folder_of(method, Task(config, {}, system.with_dft[:6], asked, tmp_path, 0))
            for asked in (system.with_dft, changed)
        }
        for method in ("ce-ols", "ce-all", "energy-only", "energy-only-dft")
    }
    assert {method: len(found) for method, found in folders.items()} == {
        "ce-ols": 1,
        "ce-all": 2,
        "energy-only": 1,
        "energy-only-dft": 2,
    }


def test_a_report_keeps_what_was_found_before(tmp_path) -> None:
    path = write_study(tmp_path)
    assert cli.main(["alloy", str(path), "compare"]) == 0
    errors = tmp_path / "run/report/errors.json"
    before = errors.read_text()
    assert len(json.loads(before)) == 4
    assert cli.main(["alloy", str(path), "cells"]) == 0
    assert errors.read_text() == before


def test_steps_may_follow_settings(tmp_path) -> None:
    path = write_study(tmp_path)
    assert cli.main(["alloy", "--set", "splits.repeats=1", str(path), "cells"]) == 0
    assert cli.main(["alloy", str(path), "--set", "splits.repeats=1", "compare"]) == 0
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"cells", "kept", "lock", "report"}
    assert len(json.loads((tmp_path / "run/report/errors.json").read_text())) == 2


def test_a_system_without_end_members_leaves_the_others(tmp_path, capsys) -> None:
    path = write_study(tmp_path)
    alloys = [
        f"{{parent: {tmp_path / 'MoS2.extxyz'}, sublattice: Mo, species: {species}, name: {name}}}"
        for species, name in (("[Mo, W]", "one"), ("[W, Nb]", "other"))
    ]
    made = [a for a in ase.io.iread(tmp_path / "dft.extxyz")]
    others = frames(tmp_path, ising(("W", "Nb")), ("W", "Nb"))
    ase.io.write(tmp_path / "dft.extxyz", [*made, *(a for a in others if "W" in a.symbols)])
    assert cli.main(["alloy", str(path), "compare", "--set", f"systems=[{', '.join(alloys)}]"]) == 0
    assert "no relaxed end member with Nb" in capsys.readouterr().err
    judged = json.loads((tmp_path / "run/report/errors.json").read_text())
    assert {one["system"] for one in judged} == {"one"}


def test_a_method_that_cannot_learn_leaves_the_others(tmp_path, monkeypatch, capsys) -> None:
    path = write_study(tmp_path)

    def loading(name: str):
        def method(task: Task) -> Answers:
            if name == "ce-ols":
                raise ValueError("too few for this")
            return Answers({(one.system, one.name): Answer(0.0) for one in task.asked})

        return method

    monkeypatch.setattr(kept, "load_method", loading)
    assert cli.main(["alloy", str(path), "compare"]) == 0
    assert "ideal" in capsys.readouterr().err
    assert "ce-ols: too few for this" in (tmp_path / "run/report/report.html").read_text()


def test_what_failed_is_tried_again_and_shown_until_then(tmp_path, monkeypatch, capsys) -> None:
    path = write_study(tmp_path, max_sites=3)
    asked: list[bool] = []

    def failing(task: Task) -> Answers:
        def of_group(group: Group) -> Answers:
            raises = group.name == "one" and len(asked) < 2
            if raises:
                raise ValueError("this may pass")
            return Answers({(one.system, one.name): Answer(0.0) for one in group.asked})

        found = by_groups(task, of_group)
        asked.append(found.failed)
        return found

    monkeypatch.setattr(kept, "load_method", lambda name: failing)
    others = frames(tmp_path, ising(("W", "Nb")), ("W", "Nb"), max_sites=3)
    made = list(ase.io.iread(tmp_path / "dft.extxyz"))
    ase.io.write(tmp_path / "dft.extxyz", [*made, *others])
    alloys = [
        f"{{parent: {tmp_path / 'MoS2.extxyz'}, sublattice: Mo, species: {species}, name: {name}}}"
        for species, name in (("[Mo, W]", "one"), ("[W, Nb]", "other"))
    ]
    settings = ["--set", "cells.max_sites=1", "--set", f"systems=[{', '.join(alloys)}]"]
    settings += ["--set", "methods=[scratch]", "--set", "potentials.together=false"]
    assert cli.main(["alloy", str(path), "compare", *settings]) == 0
    assert asked == [True, True]
    said = "scratch has no formation energy for 7 of 7 configurations of one, after learning"
    told = " ".join(capsys.readouterr().err.split())
    assert f"{said} from 5; of MoS2-1H: this may pass." in told
    assert cli.main(["alloy", str(path), "cells", *settings]) == 0
    assert asked == [True, True], "it is not asked for"
    page = (tmp_path / "run/report/report.html").read_text()
    assert "this may pass" in page
    assert cli.main(["alloy", str(path), "compare", *settings]) == 0
    assert asked == [True, True, False, False]
    assert "this may pass" not in (tmp_path / "run/report/report.html").read_text()


def test_a_signal_ends_a_study_in_good_order(tmp_path, monkeypatch, capsys) -> None:
    path = write_study(tmp_path)
    monkeypatch.setattr(kept, "load_method", lambda name: lambda task: Answers({}, signal=15))
    assert cli.main(["alloy", str(path), "compare"]) == 143
    assert "goes on from there" in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("answers.json"))


def complaint(capsys, *argv: object) -> str:
    assert cli.main(["alloy", *map(str, argv)]) == 2
    text = capsys.readouterr().err.strip()
    assert "\n" not in text
    return text


def test_frames_that_cannot_be_used_are_noted(tmp_path, capsys) -> None:
    path = write_study(tmp_path, max_sites=2)
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=2)
    bare, wrong, rattled = made[0].copy(), made[1].copy(), made[2].copy()
    wrong.calc = SinglePointCalculator(wrong, energy=np.nan)
    forces = np.full((len(rattled), 3), np.nan)
    rattled.calc = SinglePointCalculator(rattled, energy=-100.0, forces=forces)
    ase.io.write(tmp_path / "dft.extxyz", [*made, wrong, bare, rattled])
    assert cli.main(["alloy", str(path), "cells"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "dft.extxyz: 3 frames left out; the first, " in said
    assert "its energy holds NaN or infinity." in said
    assert "3 configurations that DFT relaxed" in said
    (tmp_path / "dft.extxyz").write_text("4\n\nMo 0 0 0\n")
    assert cli.main(["alloy", str(path), "cells"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "dft.extxyz: 1 frame left out; the first, " in said
    assert "Fault" not in said
    ase.io.write(tmp_path / "dft.extxyz", made[:1])
    assert cli.main(["alloy", str(path), "cells"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "MoWS2: no frame has W." in said
    assert "MoWS2 has 1 configuration that DFT relaxed, and 6 are wanted" in said
    assert "MoWS2: 1 configuration that DFT relaxed, " in said


def test_an_energy_of_other_settings_is_noted(tmp_path, capsys) -> None:
    path = write_study(tmp_path, max_sites=3)
    assert cli.main(["alloy", str(path), "cells"]) == 0
    assert "same settings" not in capsys.readouterr().err
    made = frames(tmp_path, ising(("Mo", "W")), max_sites=3)
    made[4].calc.results["energy"] -= 100.0
    ase.io.write(tmp_path / "dft.extxyz", made)
    assert cli.main(["alloy", str(path), "cells"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    name = made[4].info["config"]
    assert (
        f"1 configuration of 7 with formation energies beyond 2 eV per shared site, {name}" in said
    )


def test_mistakes_get_one_sentence(tmp_path, capsys) -> None:
    path = write_study(tmp_path, max_sites=2)
    assert "Did you mean 'compare'" in complaint(capsys, path, "compar")
    assert "Did you mean 'ce-lasso'" in complaint(capsys, path, "--set", "methods=[ce-laso]")
    key = "systems=[{parent: a, sublattice: Mo, specis: [Mo, W]}]"
    said = complaint(capsys, path, "--set", key)
    assert "unknown key 'systems.0.specis'. Did you mean 'species'" in said
    assert "name it too" in complaint(capsys, path, "--set", "methods=[energy-only]")
    assert "has no Nb" in complaint(
        capsys,
        path,
        "--set",
        "systems=[{parent: %s, sublattice: Nb, species: [Nb, W]}]" % (tmp_path / "MoS2.extxyz"),
    )
    alloys = [
        f"{{parent: {tmp_path / 'MoS2.extxyz'}, sublattice: Mo, species: {species}}}"
        for species in ("[Mo, W]", "[Mo, W, Nb]")
    ]
    both = f"systems=[{', '.join(alloys)}]"
    assert "mixtures of Mo, W in common" in complaint(capsys, path, "--set", both)
    assert "cells.max_sites of at most 13" in complaint(capsys, path, "--set", "cells.max_sites=40")
    bulk = "systems=[{parent: %s, sublattice: Cu, species: [Cu, Ag]}]" % (tmp_path / "bulk.cif")
    ase.io.write(tmp_path / "bulk.cif", ase.build.bulk("Cu"))
    assert "bulk.cif: it is no layer" in complaint(capsys, path, "--set", bulk)
    assert "nothing.extxyz" in complaint(capsys, path, "--set", "frames=nothing.extxyz")
    assert "nothing.yaml" in complaint(capsys, tmp_path / "nothing.yaml")


def test_a_config_says_what_it_is(tmp_path) -> None:
    config = load_alloy(write_study(tmp_path), ["seed=3"])
    assert isinstance(config, AlloyConfig)
    assert AlloyConfig.model_validate(config.resolved()) == config
