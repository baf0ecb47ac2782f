"""`mlff2d data stats`: the numbers in its tables and files are those of the structures."""

from __future__ import annotations

import csv
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import mx2
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from mlff2d.models import REGISTRY
from mlff2d.training.config import ConfigError
from mlff2d.training.data.convert import convert
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.record import Keys
from mlff2d.training.data.stats import _BLOCK, print_stats
from mlff2d.training.sections import FilterConfig, SelectionConfig
from tests.training_helpers import PairNet, monolayers, small_config

MONOLAYERS = monolayers(2)


def bulk_without_forces() -> Atoms:
    atoms = Atoms("Cu2", [(0, 0, 0), (1.8, 1.8, 0)], cell=[3.6, 3.6, 2.6], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-7.0)
    return atoms


def mos2(shift: float) -> Atoms:
    """A step of a run whose cell is tilted out of the xy plane."""
    atoms = mx2("MoS2", size=(1, 1, 1), vacuum=8)
    atoms.pbc = (True, True, False)
    atoms.positions[1, 2] += shift
    atoms.rotate(40, (1, 1, 0), rotate_cell=True)
    atoms.info["trajectory"] = "run-7"
    atoms.calc = SinglePointCalculator(atoms, energy=-21.0 + shift, forces=np.full((3, 3), shift))
    return atoms


OTHERS = [bulk_without_forces(), mos2(0.0), mos2(0.05), mos2(0.3)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("stats")
    ase.io.write(folder / "metals.extxyz", MONOLAYERS)
    ase.io.write(folder / "others.extxyz", OTHERS)
    convert([folder / "metals.extxyz", folder / "others.extxyz"], folder / "data.h5", Keys())
    return Dataset(folder / "data.h5", cutoff=4.0, in_memory=False)


@pytest.fixture(scope="module")
def shown(data, tmp_path_factory) -> tuple[str, Path]:
    """What is printed without a config, and the folder of figures."""
    folder = tmp_path_factory.mktemp("figures") / "new"
    console = Console(record=True, width=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlff2d.training.data.stats._BLOCK", 7)  # several blocks, the last not full
        print_stats(data, folder, None, console)
    return console.export_text(), folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def summary(folder: Path) -> dict[str, dict[str, str]]:
    return {row["quantity"]: row for row in rows(folder / "summary.csv")}


def test_table_holds_the_numbers_of_the_structures(shown):
    text, folder = shown
    frames = MONOLAYERS + OTHERS
    table = summary(folder)
    energies = np.array([atoms.get_potential_energy() / len(atoms) for atoms in frames])
    forces = np.array([np.abs(a.get_forces()).max() for a in [*MONOLAYERS, *OTHERS[1:]]])
    areas = [np.linalg.norm(np.cross(*a.cell[:2])) / len(a) for a in [*MONOLAYERS, *OTHERS[1:]]]
    stress = np.array([a.get_stress()[[0, 1, 5]] * a.cell[2, 2] * 16.021766 for a in MONOLAYERS])
    for label, values, absent in (
        ("energy (eV/atom)", energies, 0),
        ("largest force (eV/Å)", forces, 1),
        ("in-plane stress (N/m)", stress, 4),
        ("area (Å²/atom)", np.array(areas), 1),
        ("atoms", np.array([len(atoms) for atoms in frames]), 0),
        ("steps", np.array([2] * 36 + [1, 3]), 0),
    ):
        row = table[label]
        assert (int(row["values"]), int(row["absent"])) == (len(values), absent)
        quantiles = np.quantile(values, (0, 0.01, 0.5, 0.99, 1))
        found = [float(row[key]) for key in ("min", "1 %", "median", "99 %", "max")]
        assert found == pytest.approx(quantiles, rel=1e-3, abs=1e-6)
    assert "76 frames of 38 materials in 38 trajectories" in text
    assert "energy above references (eV/atom)" in text
    assert "others.extxyz" in text


def test_thickness_is_along_the_normal(shown):
    _, folder = shown
    row = summary(folder)["thickness (Å)"]
    # The third MoS2 has its upper sulphur 0.3 Å higher.
    assert float(row["max"]) == pytest.approx(3.19 + 0.3, abs=1e-3)
    assert int(row["absent"]) == 1


def test_every_figure_has_its_numbers(shown):
    _, folder = shown
    figures = {path.stem for path in folder.glob("*.png")}
    assert figures == {path.stem for path in folder.glob("*.csv")} - {"summary"}
    assert {"energy", "forces", "stress", "elements", "layer_groups", "steps"} <= figures

    def total(name: str, column: str) -> int:
        return sum(int(row[column]) for row in rows(folder / f"{name}.csv"))

    assert total("energy", "frames") == 76
    assert total("forces", "components") == 3 * (72 * 2 + 3 * 3)
    assert total("stress", "components") == 3 * 72
    assert total("steps", "trajectories") == 38
    assert total("layer_groups", "materials") == 38


def test_elements_are_counted_by_material(shown):
    _, folder = shown
    counts = {row["symbol"]: int(row["materials"]) for row in rows(folder / "elements.csv")}
    # Of 36 ordered pairs of six metals each is in 11; copper in the crystal too.
    assert counts == dict.fromkeys(("Ag", "Au", "Ni", "Pd", "Pt"), 11) | {"Cu": 12, "Mo": 1, "S": 1}
    groups = {
        row["layer_group"]: int(row["materials"]) for row in rows(folder / "layer_groups.csv")
    }
    assert groups["78"] == 1
    assert groups["0"] == 1


def test_config_shows_what_it_leaves_out_and_the_parts(data, tmp_path, monkeypatch):
    monkeypatch.setitem(REGISTRY, "pairnet", PairNet)
    config = small_config(tmp_path / "run", tmp_path).model_copy(
        update={
            "filters": FilterConfig(require=("forces",), max_force=0.04, isolated_atoms="keep"),
            "selection": SelectionConfig(steps=(0.0,)),
        }
    )
    console = Console(record=True, width=200)
    with pytest.raises(ConfigError, match="part is empty"):
        print_stats(data, tmp_path / "stats", config, console)
    config = config.model_copy(
        update={"filters": FilterConfig(require=("forces",), isolated_atoms="keep")}
    )
    print_stats(data, tmp_path / "stats", config, console)
    text = console.export_text()
    assert "others.extxyz frame 0 (Cu)" in text.partition("has no forces")[2].partition("\n")[0]
    assert "not at the places 0 of its trajectory" in text
    assert "Alone they leave" in text
    numbers = [line.split() for line in text.splitlines() if line.startswith(("train:", "val:"))]
    assert all(int(words[1]) == int(words[4]) for words in numbers), "one frame of each material"


def test_a_property_is_shown_too(tmp_path):
    frames = monolayers(1)[:8]
    for k, atoms in enumerate(frames):
        atoms.info["gap"] = 0.5 * k
    ase.io.write(tmp_path / "gaps.extxyz", frames)
    convert([tmp_path / "gaps.extxyz"], tmp_path / "gaps.h5", Keys(target="gap"))
    print_stats(Dataset(tmp_path / "gaps.h5", 4.0), tmp_path, None, Console(record=True))
    assert (tmp_path / "property.png").exists()
    assert not (tmp_path / "energy.png").exists()
    row = summary(tmp_path)["gap"]
    assert [float(row["min"]), float(row["max"])] == [0.0, 3.5]
    assert summary(tmp_path)["energy (eV/atom)"]["min"] == "-"


def test_blocks_are_small():
    assert _BLOCK * 20 * 3 * 8 < 5e6, "bytes of the positions of a block of 20 atoms each"
