"""`mlff2d label --with gpaw`: what it is told, and that it labels; coarse, so that it is quick."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, mx2

from mlff2d import cli
from mlff2d.training.labelling.calculators import make_job
from mlff2d.training.labelling.settings import GpawSettings, LabelSettings
from tests.shared import DATA, needs_data

gpaw = pytest.importorskip("gpaw")

COARSE = """
calculator: gpaw
parameters:
  cutoff: 200
  cutoffs: {}
  k_length: 6
  height: 7
  vacuum: 6
  width: 0.3
  extra: {nbands: 7}
"""


def job(tmp_path: Path, atoms: Atoms, **parameters: object):
    return make_job(LabelSettings(calculator="gpaw", parameters=parameters), atoms, tmp_path, "x")


def layer(kind: str = "2H", formula: str = "MoS2") -> Atoms:
    atoms = mx2(formula, kind=kind, vacuum=6.0)
    atoms.pbc = (True, True, False)
    return atoms


def test_rules_of_the_settings(tmp_path) -> None:
    sulfide = job(tmp_path, layer())
    assert sulfide.info["level"] == f"PBE/GPAW {gpaw.__version__}/PW450"
    assert sulfide.info["kpts"] == "9x9x1"
    assert sulfide.setting.atoms.cell.lengths()[2] == pytest.approx(15.0)
    told = json.loads(sulfide.info["settings"])
    assert told["occupations"] == {"name": "fermi-dirac", "width": 0.1}
    assert told["convergence"] == {"energy": 1e-4, "density": 1e-4, "eigenstates": 1e-5}
    assert told["kpts"] == {"size": [9, 9, 1], "gamma": True}
    assert not told["spinpol"]
    assert "poissonsolver" not in told

    oxide = layer()
    oxide.numbers[1] = 8
    told = json.loads(job(tmp_path, oxide).info["settings"])
    assert told["cutoff"] == 700, "of oxygen"
    assert told["poissonsolver"] == {"dipolelayer": "xy"}
    assert "poissonsolver" not in json.loads(job(tmp_path, oxide, dipole="off").info["settings"])


def test_spin_of_magnetic_elements(tmp_path) -> None:
    magnet = layer(formula="VS2")
    assert not job(tmp_path, magnet).setting.atoms.get_initial_magnetic_moments().any()
    found = job(tmp_path, magnet, spin=True)
    assert found.setting.atoms.get_initial_magnetic_moments().tolist() == [1.0, 0.0, 0.0]
    assert json.loads(found.info["settings"])["spinpol"]
    magnet.set_initial_magnetic_moments([-2.0, 0.0, 0.0])
    found = job(tmp_path, magnet, spin=True)
    assert found.setting.atoms.get_initial_magnetic_moments().tolist() == [-2.0, 0.0, 0.0]
    assert not json.loads(job(tmp_path, layer(), spin=True).info["settings"])["spinpol"]


@needs_data
def test_settings_are_those_of_the_shared_data(tmp_path) -> None:
    frames = ase.io.read(DATA / "tmd_pbe_v0.extxyz", ":")
    # Longer cells of theirs are skewed, and were not reduced.
    frames = [f for f in frames if f.info["nfu"] == 1 and f.info["mode"] == "relaxed"]
    assert len(frames) > 5
    for atoms in frames:
        found = job(tmp_path, atoms)
        assert found.info["kpts"] == atoms.info["kpts"]
        assert found.setting.atoms.cell.lengths()[2] == pytest.approx(15.0)
        assert "PW450" in found.info["level"]
        assert "poissonsolver" not in json.loads(found.info["settings"])


@pytest.mark.slow
def test_labels_of_a_relaxation(tmp_path, monkeypatch) -> None:
    """Whatever the calculator did before, a frame has the labels that it has by itself."""
    monkeypatch.chdir(tmp_path)
    Path("coarse.yaml").write_text(COARSE)
    atoms = graphene(a=2.5, vacuum=3.5)
    atoms.pbc = (True, True, False)
    atoms.positions[0, 0] += 0.1
    ase.io.write("in.extxyz", atoms)
    arguments = ["--with", "coarse.yaml"]
    assert cli.main(["label", "in.extxyz", "-o", "way.extxyz", "--steps", "2", *arguments]) == 0
    way = ase.io.read("way.extxyz", ":")
    assert [f.info["step"] for f in way] == [0, 1, 2]
    assert way[2].cell.lengths()[0] != pytest.approx(way[0].cell.lengths()[0], abs=1e-4)
    ase.io.write("last.extxyz", way[2])
    assert cli.main(["label", "last.extxyz", "-o", "alone.extxyz", *arguments]) == 0
    alone = ase.io.read("alone.extxyz")
    assert "step" not in alone.info
    assert alone.get_potential_energy() == pytest.approx(way[2].get_potential_energy(), abs=2e-3)
    assert alone.get_forces() == pytest.approx(way[2].get_forces(), abs=0.01)
    assert alone.get_stress() == pytest.approx(way[2].get_stress(), abs=2e-3)
    forces = np.abs(way[0].get_forces())
    assert forces[0, 0] > 1.0  # it is pushed back
    assert way[0].info["energy_sigma0"] > way[0].get_potential_energy()
    assert list(Path("way.progress/calculations").glob("*.txt"))


def test_defaults_are_those_of_the_example() -> None:
    from mlff2d.training.labelling.description import load_settings

    configs = Path(__file__).parents[1] / "training" / "configs"
    found = GpawSettings.model_validate(load_settings(configs / "label_gpaw.yaml").parameters)
    assert found == GpawSettings(spin=True)
    for name in ("vasp", "espresso", "cp2k"):
        assert load_settings(configs / f"label_{name}.yaml").calculator == name
