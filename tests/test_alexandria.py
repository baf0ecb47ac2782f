"""Trajectories of the Alexandria database, told from other JSON by what is inside."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest

from mlff2d.errors import StructureError
from mlff2d.training.data.alexandria import iter_trajectories, json_layout
from mlff2d.training.data.readers import Keys, Record, Rejected, iter_records
from tests.alexandria_files import run
from tests.relaxations import relaxation

RUNS = {
    "agm001": [relaxation(4), relaxation(3, "Au")],
    "agm002": [relaxation(2, "Pt")],
    "mp.3": [relaxation(3, "Ni")],  # a dot in a key means nothing
}


def contents() -> dict[str, list[dict[str, Any]]]:
    return {material: [run(steps) for steps in runs] for material, runs in RUNS.items()}


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def split(path: Path) -> tuple[list[Record], list[Rejected]]:
    items = list(iter_records(path, Keys()))
    taken = [item for item in items if isinstance(item, Record)]
    return taken, [item for item in items if isinstance(item, Rejected)]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_steps_come_with_their_labels_in_our_units(tmp_path, suffix, pack):
    path = tmp_path / f"alex_go_000.json{suffix}"
    path.write_bytes(pack(json.dumps(contents()).encode()))
    taken, refused = split(path)
    assert refused == []
    expected = [
        (material, f"{material}/{number}", atoms)
        for material, runs in RUNS.items()
        for number, steps in enumerate(runs)
        for atoms in steps
    ]
    assert len(expected) == 12
    for (material, trajectory, atoms), record in zip(expected, taken, strict=True):
        assert (record.material, record.trajectory) == (material, trajectory)
        assert record.energy == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(record.forces, atoms.get_forces(), atol=1e-12)
        np.testing.assert_allclose(record.cell, atoms.cell.array, atol=1e-12)
        np.testing.assert_allclose(record.pos, atoms.positions, atol=1e-12)
        virial = atoms.get_stress(voigt=False) * atoms.get_volume()
        np.testing.assert_allclose(record.virial, virial, rtol=1e-7, atol=1e-12)
        assert record.pbc.tolist() == [True, True, False]
        assert (record.z == atoms.numbers).all()


@pytest.mark.parametrize("shape", ["one run without a list", "steps without a run"])
def test_lists_of_one_may_be_missing(tmp_path, shape):
    one = contents()["agm002"][0]
    value = one if shape == "one run without a list" else one["steps"]
    taken, refused = split(write(tmp_path / "short.json", {"agm002": value}))
    assert [r.trajectory for r in taken] == ["agm002/0"] * 2
    assert refused == []


def test_bad_steps_spoil_no_others(tmp_path):
    data = contents()
    steps = data["agm001"][0]["steps"]
    steps[0]["forces"][1] = [0.5]  # as one published file has it
    steps[1]["structure"]["sites"][0]["species"] = [{"element": "Cu", "occu": 0.5}]
    del steps[2]["structure"]["lattice"]
    steps[3]["forces"][0][2] = None
    data["agm001"][1]["steps"][0]["energy"] = float("nan")  # Python writes NaN, JSON has none
    data["agm001"][1]["steps"][1]["stress"] = [1, 2, 3, 4, 5, 6]
    data["agm002"] = [{"kpoints": [1, 1, 1]}]
    taken, refused = split(write(tmp_path / "bad.json", data))
    assert [r.trajectory for r in taken] == ["agm001/1"] + ["mp.3/0"] * 3
    assert [(r.where, r.kind) for r in refused] == [
        ("agm001, run 0, step 0", "no usable labels"),
        ("agm001, run 0, step 1", "cannot be read"),
        ("agm001, run 0, step 2", "cannot be read"),
        ("agm001, run 0, step 3", "no usable labels"),
        ("agm001, run 1, step 0", "no usable labels"),
        ("agm001, run 1, step 1", "cannot be read"),
        ("agm002", "not a trajectory"),
    ]
    assert "no 'lattice'" in refused[2].reason
    assert "(6,)" in refused[5].reason


def test_missing_labels_are_absent(tmp_path):
    data = contents()
    for step in data["agm002"][0]["steps"]:
        step["stress"] = None
        del step["forces"]
    taken, refused = split(write(tmp_path / "sparse.json", {"agm002": data["agm002"]}))
    assert refused == []
    assert all(np.isnan(r.virial).all() and np.isnan(r.forces).all() for r in taken)
    assert all(np.isfinite(r.energy) for r in taken)


@pytest.mark.parametrize("suffix", ["", ".bz2"])
def test_a_file_that_is_cut_off_gives_what_is_before(tmp_path, suffix):
    data = {f"agm{number}": contents()["agm001"] for number in range(200)}
    content = json.dumps(data).encode()
    content = bz2.compress(content) if suffix else content
    path = tmp_path / f"cut.json{suffix}"
    path.write_bytes(content[: len(content) // 2])
    items = list(iter_trajectories(path))
    assert len(items) > 100
    where, fault = items[-1]
    assert where.startswith("behind agm")
    assert fault.kind == "file cut off or damaged"


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 16])
def test_nan_is_found_wherever_pieces_end(tmp_path, monkeypatch, piece):
    monkeypatch.setattr("mlff2d.training.data.alexandria._CHUNK", piece)
    data = {"agm002": contents()["agm002"]}
    data["agm002"][0]["steps"][0]["stress"] = [[float("nan")] * 3, [-np.inf] * 3, [0.0] * 3]
    text = json.dumps(data)
    assert text.count("NaN") == 3
    taken, refused = split(write(tmp_path / "nan.json", data))
    assert len(taken) == 1
    assert "stress holds NaN" in refused[0].reason


def test_a_database_of_ase_is_told_by_its_content(tmp_path):
    path = tmp_path / "rows.json"
    with ase.db.connect(path) as database:
        for atoms in RUNS["agm002"][0]:
            database.write(atoms, material="here")
    assert json_layout(path) == "database"
    taken, refused = split(path)
    assert [r.material for r in taken] == ["here"] * 2
    assert refused == []
    assert json_layout(write(tmp_path / "alex.json", contents())) == "trajectories"


def test_files_of_final_structures_are_refused_in_a_sentence(tmp_path):
    step = contents()["agm002"][0]["steps"][0]
    path = write(tmp_path / "alexandria_2d_000.json", {"entries": [step]})
    with pytest.raises(StructureError, match="alex_go_"):
        list(iter_records(path, Keys()))


@pytest.mark.parametrize("content", ["", "[1, 2", "{}", '{"encut": 520}', "\x00\xff", "[]"])
def test_other_json_is_refused_and_in_a_folder_passed(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    assert json_layout(path) is None
    with pytest.raises(StructureError, match=r"other\.json"):
        list(iter_records(path, Keys()))
    write(tmp_path / "alex.json", contents())
    taken, refused = split(tmp_path)
    assert (len(taken), refused) == (12, [])


def test_memory_stays_flat(tmp_path):
    """Of a file of many materials one at a time is held."""
    import tracemalloc

    text = json.dumps(contents()["agm001"])
    peaks = []
    for count in (20, 200):
        path = tmp_path / f"{count}.json"
        rows = ", ".join(f'"agm{number}": {text}' for number in range(count))
        path.write_text("{" + rows + "}")
        tracemalloc.start()
        assert sum(1 for _ in iter_trajectories(path)) == 7 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
