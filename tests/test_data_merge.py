"""`mlff2d data merge`: files as one, and what it is told of them."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.training.data.convert import convert, open_sources
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.record import Keys
from mlff2d.training.data.store import read_head
from tests.data_sources import FRAMES, data, write_sources


@pytest.fixture
def sources(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return write_sources()


def test_merged_files_hold_what_both_hold(sources, capsys) -> None:
    convert([Path(sources[0])], Path("a.h5"), Keys())
    convert([Path(sources[1])], Path("b.h5"), Keys())
    assert data("merge", "a.h5", "b.h5", "-o", "all.h5") == 0
    together = Dataset([Path("a.h5"), Path("b.h5")], 4.0)
    merged = Dataset(Path("all.h5"), 4.0)
    assert len(merged) == len(together) == 34
    ids = np.arange(34)
    for name in ("z", "pos", "forces"):
        np.testing.assert_array_equal(merged.atoms_of(name, ids), together.atoms_of(name, ids))
    for name in ("energy", "frame", "source", "fingerprint", "stress_2d", "layer_group"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(together, name))
    for name in ("cell", "pbc", "virial"):
        np.testing.assert_array_equal(merged.rows_of(name, ids), together.rows_of(name, ids))
    assert [merged.name(s) for s in ids] == [together.name(s) for s in ids]
    assert list(merged.material) == list(together.material)
    assert list(merged.trajectory) == list(together.trajectory)
    assert merged.sources == together.sources
    summary = read_head(Path("all.h5")).summary
    assert (summary.n_frames, summary.n_taken) == (36, 34)
    assert sum(summary.refused.values()) == 2


def test_a_source_that_is_there_twice_is_told(sources, capsys) -> None:
    convert([Path(sources[0])], Path("a.h5"), Keys())
    convert([Path(name) for name in sources], Path("b.h5"), Keys())
    assert data("merge", "a.h5", "b.h5", "-o", "all.h5") == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "first.extxyz in b.h5 has the same content as first.extxyz in a.h5" in printed


def test_merging_for_a_config_keeps_what_it_takes(sources, capsys) -> None:
    convert([Path(name) for name in sources], Path("all.h5"), Keys())
    whole = Dataset(Path("all.h5"), 5.0)
    cut = float(np.median(whole.max_force))
    Path("train.yaml").write_text(
        json.dumps(
            {
                "run_dir": "run",
                "data": {"files": ["all.h5"]},
                "filters": {"max_force": cut},
                "model": {"name": "painn"},
            }
        )
    )
    assert data("merge", "all.h5", "-o", "some.h5", "--config", "train.yaml") == 0
    some = Dataset(Path("some.h5"), 5.0)
    assert 0 < len(some) < 34
    kept = np.flatnonzero(whole.max_force <= np.float32(cut))
    assert [some.name(s) for s in range(len(some))] == [whole.name(s) for s in kept]
    printed = " ".join(capsys.readouterr().err.split())
    assert f"{34 - len(some)} left out, a force component above {cut:g} eV/Å, for ex" in printed
    assert "without the section selection" not in printed
    every = ["--set", "selection.steps=[0, 1]", "-o", "every.h5"]
    assert data("merge", "all.h5", "--config", "train.yaml", *every) == 0
    assert "without the section selection" in " ".join(capsys.readouterr().err.split())
    nothing = ["--set", "filters.max_force=1e-9", "-o", "none.h5"]
    assert data("merge", "all.h5", "--config", "train.yaml", *nothing) == 2
    assert "leave no frame" in capsys.readouterr().err
    other = ["--set", "data.material_key=run", "-o", "none.h5"]
    assert data("merge", "all.h5", "--config", "train.yaml", *other) == 2
    assert "built with the material key 'material'" in capsys.readouterr().err
    assert not Path("none.h5").exists()


@pytest.mark.parametrize("by", ["material", "frame", "chemistry", "composition", "prototype"])
def test_a_merge_that_could_move_a_split_says_so(tmp_path, monkeypatch, capsys, by) -> None:
    monkeypatch.chdir(tmp_path)
    frames = []
    for number in range(3):  # a metal each; of the second the first frame is left out
        for step, symbols in enumerate((["Cu", "Cu"], ["Cu", "Au"])):
            atoms = FRAMES[number].copy()
            atoms.symbols = symbols if number < 2 else ["Cu", "Cu"]
            atoms.info = {"material": f"m{number}"}
            forces = np.full((2, 3), 9.0 if (number, step) == (1, 0) else 1.0)
            atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
            frames.append(atoms)
    ase.io.write("all.extxyz", frames)
    assert data("build", "all.extxyz", "-o", "all.h5") == 0
    Path("train.yaml").write_text(
        f"run_dir: run\ndata: {{files: [all.h5]}}\nmodel: {{name: painn}}\nsplit: {{by: {by}}}\n"
        "filters: {max_force: 5, duplicates: keep}\n"
    )
    capsys.readouterr()
    assert data("merge", "all.h5", "-o", "some.h5", "--config", "train.yaml") == 0
    printed = " ".join(capsys.readouterr().err.split())
    told = f"Of 1 materials the first frame is left out, and the next has another {by}"
    assert (told in printed) == (by not in ("material", "frame"))


@pytest.mark.parametrize("kind", ["text", "foreign", "old", "later", "cut", "folder", "absent"])
def test_a_file_that_is_none_is_one_sentence(sources, kind, capsys) -> None:
    path = Path("bad.h5")
    words = "damaged"
    if kind == "text":
        path.write_text("hello")
        words = "no HDF5 file"
    elif kind in ("foreign", "old"):
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(4)
            if kind == "old":
                file.attrs["sources"] = "[]"
        words = "holds no structures of mlff2d" if kind == "foreign" else "older version"
    elif kind == "later":
        convert([Path(sources[1])], path, Keys())
        with h5py.File(path, "a") as file:
            file.attrs["format"] = 99
        words = "format 99"
    elif kind == "cut":
        convert([Path(sources[1])], path, Keys())
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "folder":
        path.mkdir()
        words = "no HDF5 file"
    else:
        words = "there is no such"
    assert data("merge", path, "-o", "out.h5") == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert words in error
    assert "bad.h5" in error
    if kind not in ("text", "folder", "absent"):
        with pytest.raises(ValueError, match=words):
            open_sources([path], Path(), "material")
