"""`mlff2d label` with a potential of ours."""

from dataclasses import replace
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase import Atoms

from mlff2d import cli
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.checkpoint import save
from mlff2d.dataset_file import DatasetFile
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.merge import merge
from mlff2d.training.data.splits import Split
from mlff2d.training.labelling import potential as labelling
from mlff2d.training.sections import LossConfig
from mlff2d.training.tasks import PotentialTask
from tests.potentials import random_potential
from tests.structures import mos2, variant


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a model."""
    monkeypatch.chdir(tmp_path)
    save(random_potential("m3gnet"), tmp_path / "model.pt")
    return tmp_path


def label(*arguments: object) -> int:
    return cli.main(["label", *map(str, arguments), "--with", "model.pt", "--threads", "1"])


def structures(n: int = 6) -> list[Atoms]:
    found = [mos2(seed=seed, rattle=0.1) for seed in range(n)]
    for k, atoms in enumerate(found):
        atoms.info["material"] = f"MoS2-{k // 2}"
    return found


def test_labels_are_those_of_the_calculator() -> None:
    frames = [*structures(3), variant("no third vector")[0], variant("straddling TTT")[0]]
    ase.io.write("in.extxyz", frames)
    assert label("in.extxyz", "-o", "out.extxyz", "--dtype", "float64") == 0
    found = ase.io.read("out.extxyz", ":")
    assert len(found) == len(frames)
    for frame, atoms in zip(found, frames, strict=True):
        again = frame.copy()
        for there in (atoms, again):
            there.calc = MLFF2DCalculator("model.pt", device="cpu", dtype="float64")
        energy = atoms.get_potential_energy()
        assert frame.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        assert frame.get_forces() == pytest.approx(atoms.get_forces(), abs=1e-6)
        assert frame.get_stress() == pytest.approx(again.get_stress(), abs=1e-7)
        assert frame.get_volume() > 50
        assert frame.info["level"].startswith("model ")
        assert "cpu_s" not in frame.info


def test_what_the_model_refuses_is_passed_over(monkeypatch) -> None:
    """An element that it never saw, two atoms at one place, NaN, and too little memory at once."""
    good = structures(4)
    unknown, twice, none = mos2(), mos2(), mos2(seed=9)
    unknown.numbers[0] = 92
    twice.positions[1] = twice.positions[0]
    ase.io.write("in.extxyz", [good[0], unknown, good[1], twice, none, *good[2:]])
    potential = random_potential("m3gnet").eval()
    forward = type(potential).forward

    def spoilt(self, graph, **options):
        if graph.n_structures > 2:
            raise RuntimeError("CUDA out of memory")
        found = forward(self, graph, **options)
        at = torch.isclose(graph.pos[:, 0], torch.tensor(none.positions[0, 0]).to(graph.pos))
        energy = found.energy.clone()
        energy[graph.batch[at]] = torch.nan
        return replace(found, energy=energy)

    monkeypatch.setattr(type(potential), "forward", spoilt)
    assert label("in.extxyz", "-o", "out.extxyz") == 0
    found = ase.io.read("out.extxyz", ":")
    assert len(found) == 4
    for frame, atoms in zip(found, good, strict=True):
        assert frame.positions == pytest.approx(atoms.positions, abs=1e-7)
    failed = Path("out.progress/failed.csv").read_text()
    for word in ("never seen U", "closer than any bond", "NaN"):
        assert word in failed


def test_a_run_that_was_broken_off_comes_out_the_same(monkeypatch) -> None:
    monkeypatch.setattr("mlff2d.training.labelling.potential.BATCH_ATOMS", 18)  # three structures
    ase.io.write("in.extxyz", structures(8))
    assert label("in.extxyz", "-o", "whole.h5") == 0
    whole = Path("whole.progress/journal.jsonl").read_text().splitlines(keepends=True)
    Path("torn.progress").mkdir()
    run = Path("whole.progress/run.json").read_text()
    Path("torn.progress/run.json").write_text(run)
    Path("torn.progress/journal.jsonl").write_text("".join(whole[:4]) + whole[4][:50])
    done: list[int] = []
    original = labelling.Labeller.label

    def counted(self, batch):
        done.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(labelling.Labeller, "label", counted)
    assert label("in.extxyz", "-o", "torn.h5") == 0
    assert done == [3, 2]
    one, two = (Dataset(Path(f"{name}.h5"), 4.0) for name in ("whole", "torn"))
    assert np.array_equal(one.energy, two.energy)
    assert one.frames.heads("content") == two.frames.heads("content")
    assert len(one) == 8
    assert list(one.material.names) == [f"MoS2-{k}" for k in range(4)]
    assert one.level.names[0].startswith("model ")
    (_, first), *_ = DatasetFile(Path("whole.h5")).frames()
    assert first.info["level"] == one.level.names[0]


def test_files_of_before_have_no_level() -> None:
    ase.io.write("in.extxyz", structures(2))
    assert label("in.extxyz", "-o", "out.h5") == 0
    with h5py.File("out.h5", "r+") as file:
        del file["level"], file["level_names"]
    data = Dataset(Path("out.h5"), 4.0)
    assert list(data.level) == ["", ""]
    assert list(data.material) == ["MoS2-0", "MoS2-0"]
    (_, first), *_ = DatasetFile(Path("out.h5")).frames()
    assert "level" not in first.info
    merge([Path("out.h5"), Path("out.h5")], Path("both.h5"), None, force=False)
    assert len(Dataset(Path("both.h5"), 4.0)) == 4


def test_another_model_is_refused(capsys) -> None:
    ase.io.write("in.extxyz", structures(2))
    assert label("in.extxyz", "-o", "out.h5") == 0
    torch.manual_seed(5)
    save(random_potential("m3gnet", seed=3), Path("model.pt"))
    assert label("in.extxyz", "-o", "out.h5") == 2
    assert "sha256" in capsys.readouterr().err


def test_forces_of_a_model_pass_the_check(capsys) -> None:
    ase.io.write("in.extxyz", mos2())
    assert label("in.extxyz", "--check", "--dtype", "float64") == 0
    assert "those of the energy" in capsys.readouterr().err


def test_wrong_forces_fail_the_check(monkeypatch, capsys) -> None:
    Path("wrong.py").write_text(
        "from mlff2d.calculator import MLFF2DCalculator\n"
        "class Wrong(MLFF2DCalculator):\n"
        "    def calculate(self, *arguments, **named):\n"
        "        super().calculate(*arguments, **named)\n"
        "        self.results['stress'] *= 20\n"
    )
    Path("wrong.yaml").write_text(
        "calculator: wrong:Wrong\nparameters: {model: model.pt, dtype: float64}\n"
    )
    monkeypatch.syspath_prepend(".")
    ase.io.write("in.extxyz", mos2())
    assert cli.main(["label", "in.extxyz", "--with", "wrong.yaml", "--check"]) == 1
    said = capsys.readouterr().err
    assert "WRONG" in said
    assert "NOT those of the energy" in said


def test_training_on_two_levels_is_noted(folder) -> None:
    ase.io.write("in.extxyz", structures(2))
    assert label("in.extxyz", "-o", "one.h5") == 0
    save(random_potential("schnet"), folder / "model.pt")
    assert label("in.extxyz", "-o", "two.h5") == 0
    for paths, n_notes in (([Path("one.h5")], 0), ([Path("one.h5"), Path("two.h5")], 1)):
        data = Dataset(paths, 4.0)
        everything = np.arange(len(data))
        task = PotentialTask(data, LossConfig())
        notes = task.label_notes(Split(everything, everything[:1], everything[:0]))
        assert len(notes) == n_notes
        assert all(name in note for note in notes for name in data.level.names)
        without = PotentialTask(data, LossConfig(energy=0.0))
        assert not without.label_notes(Split(everything, everything[:1], everything[:0]))
