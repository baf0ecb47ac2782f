"""What fine-tuning does where only a start and files are given."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.training.config import ConfigError
from mlff2d.training.data.convert import convert
from mlff2d.training.data.record import Keys
from mlff2d.training.data.splits import part_of
from mlff2d.training.finetuning.recipe import (
    BATCH_SIZE,
    FEWEST_EPOCHS,
    STEPS,
    default_settings,
    epochs_for,
)
from tests.training_helpers import monolayers


def settings_of(frames: list[Atoms], folder: Path) -> tuple[dict, list[str]]:
    path = folder / "alloy.extxyz"
    ase.io.write(path, frames)
    return default_settings("universal", [path], folder / "run")


def named(frames: list[Atoms], key: str | None, n_groups: int) -> list[Atoms]:
    """The frames with groups named under a key and without the material that they have."""
    for number, atoms in enumerate(frames):
        atoms.info.pop("material", None)
        if key is not None:
            atoms.info[key] = f"g{number % n_groups}"
    return frames


@pytest.mark.parametrize("key", ["config", "trajectory", "material"])
def test_frames_are_split_by_what_tells_configurations_apart(key, tmp_path):
    settings, notes = settings_of(named(monolayers(1), key, 12), tmp_path)
    assert settings["data"]["material_key"] == key
    assert settings["split"]["by"] == "material"
    assert f"Split by info entry '{key}' (12 groups of 36 frames)" in notes[0]


def test_the_finest_entry_of_info_is_taken(tmp_path):
    frames = named(monolayers(1), "config", 12)
    for atoms in frames:
        atoms.info["material"] = "MoWS2"
    assert settings_of(frames, tmp_path)[0]["data"]["material_key"] == "config"


def test_without_entries_formulas_are_kept_together(tmp_path):
    settings, notes = settings_of(named(monolayers(1), None, 0), tmp_path)
    assert settings["split"]["by"] == "material"
    assert "Split by reduced formula (21 groups" in notes[0]


def test_a_single_compound_is_split_by_frame_with_a_warning(tmp_path):
    frames = [a for a in monolayers(20) if a.info["material"] == "Cu-Au"]
    settings, notes = settings_of(named(frames, None, 0), tmp_path)
    assert settings["split"]["by"] == "frame"
    assert "errors then look too good" in notes[0]


def test_every_part_has_frames_of_elements_that_training_knows(tmp_path):
    frames = named(monolayers(1), "config", 9)
    settings, _ = settings_of(frames, tmp_path)
    split = settings["split"]
    part = {f"g{k}": part_of(f"g{k}", split["seed"], split["val"], split["test"]) for k in range(9)}
    sizes = {name: sum(part[a.info["config"]] == name for a in frames) for name in part.values()}
    assert sizes == {"train": 24, "val": 4, "test": 8}
    known = {s for a in frames if part[a.info["config"]] == "train" for s in a.symbols}
    assert known == {s for a in frames for s in a.symbols}


@pytest.mark.parametrize("rare", range(9))
def test_the_only_group_with_an_element_is_trained_on(rare, tmp_path):
    frames = [a for a in monolayers(9) if set(a.symbols) <= {"Cu", "Ag"}]
    for atoms in named(frames, "config", 9)[rare::9]:
        results = dict(atoms.calc.results)
        atoms.numbers[0] = 79
        atoms.calc = SinglePointCalculator(atoms, **results)
    split = settings_of(frames, tmp_path)[0]["split"]
    assert part_of(f"g{rare}", split["seed"], split["val"], split["test"]) == "train"


def test_with_few_frames_there_is_still_a_validation_part(tmp_path):
    settings, notes = settings_of(named(monolayers(1)[:7], "config", 7), tmp_path)
    assert settings["split"]["test"] == 0.0
    assert "there is no test part" in notes[-1]
    with pytest.raises(ConfigError, match="hold 3 usable frames; fine-tuning needs at least 4"):
        settings_of(monolayers(1)[:3], tmp_path)


@pytest.mark.parametrize("n", [3, 4, 10, 40, 100])
def test_few_frames_are_passed_more_often(n):
    steps = epochs_for(n) * -(-n // BATCH_SIZE)
    assert STEPS <= steps <= 1.2 * STEPS


def test_many_frames_are_still_passed_some_times():
    assert epochs_for(100_000) == FEWEST_EPOCHS


def test_of_a_built_file_the_groups_are_those_it_was_built_with(tmp_path):
    ase.io.write(tmp_path / "alloy.extxyz", named(monolayers(1), "run", 9))
    convert([tmp_path / "alloy.extxyz"], tmp_path / "alloy.h5", Keys("run"))
    settings, notes = default_settings("universal", [tmp_path / "alloy.h5"], tmp_path / "run")
    assert settings["data"]["material_key"] == "run"
    assert "'run' (9 groups of 36 frames)" in notes[0]
    plain, _ = default_settings("universal", [tmp_path / "alloy.extxyz"], tmp_path / "run")
    assert settings["split"] == plain["split"]
    convert([tmp_path / "alloy.extxyz"], tmp_path / "other.h5", Keys("material"))
    with pytest.raises(ConfigError, match=r"different material keys \(material, run\)"):
        default_settings("universal", [tmp_path / "alloy.h5", tmp_path / "other.h5"], tmp_path)
