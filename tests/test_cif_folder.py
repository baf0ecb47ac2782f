"""Folders of CIF files with an id_prop.csv: what is taken, and what is named and left out."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.errors import StructureError
from mlff2d.models import REGISTRY
from mlff2d.training.data import convert as convert_module
from mlff2d.training.data.cif_folder import read_table
from mlff2d.training.data.convert import convert, open_sources
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.readers import Keys, Record, Rejected, iter_records
from mlff2d.training.setup import prepare
from tests.test_property import property_config
from tests.training_helpers import PairNet, monolayers

FRAMES = monolayers(1)


def write_folder(folder: Path, table: str | None = None, n: int = 6) -> Path:
    """CIF files m0.cif, m1.cif, ... and a table with the values 0.5, 1.5, ..."""
    folder.mkdir()
    for k in range(n):
        ase.io.write(folder / f"m{k}.cif", FRAMES[k])
    rows = "".join(f"m{k},{k}.5\n" for k in range(n))
    (folder / "id_prop.csv").write_text(rows if table is None else table)
    return folder


def opened(folder: Path, key: str = "gap") -> tuple[Dataset, convert_module.ConversionSummary]:
    paths, summary = open_sources([folder], folder.parent, "material", target=key)
    return Dataset(paths, 4.0), summary


def test_what_goes_in_comes_out(tmp_path):
    data, summary = opened(write_folder(tmp_path / "cifs"))
    assert data.target.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert list(data.material) == [f"m{k}" for k in range(6)]
    assert (summary.n_frames, summary.n_taken, summary.refused, summary.notes) == (6, 6, {}, [])
    for k in range(6):
        assert data.atoms_of("z", [k]).tolist() == FRAMES[k].numbers.tolist()
        np.testing.assert_allclose(
            np.abs(np.linalg.det(data.rows_of("cell", [k])[0])), FRAMES[k].get_volume()
        )
    assert data.rows_of("pbc", range(6)).tolist() == [[True, True, False]] * 6, (
        "CIF files are periodic; slabs are found"
    )
    assert data.name(2) == "cifs frame 3 (m2)"
    assert np.isnan(data.energy).all()


def test_what_is_left_out_is_counted_and_named(tmp_path):
    table = (
        "m0,1.0\n\n  m1 , 2.0 \nm2,NaN\nm3,unknown\nm4\nm0,7.0\nabsent,1.0\nm5,inf\nbroken,1.0\n"
        "occupied,1.0\noverlap,1.0\n"
    )
    folder = write_folder(tmp_path / "cifs", table, n=7)
    (folder / "broken.cif").write_text("data_x\n_cell_length_a what\n")
    text = (folder / "m0.cif").read_text()
    (folder / "occupied.cif").write_text(text.replace("1.0000\n", "0.5000\n", 1))
    overlap = FRAMES[0].copy()
    overlap.positions[1] = overlap.positions[0] + [0.2, 0, 0]
    ase.io.write(folder / "overlap.cif", overlap)
    data, summary = opened(folder)
    assert list(data.material) == ["m0", "m1"]
    assert data.target.tolist() == [1.0, 2.0]
    assert summary.refused == {
        "no usable target": 4,
        "id given twice": 1,
        "no CIF file": 1,
        "cannot be read": 2,
        "no usable structure": 1,
        "no row in the table": 1,
    }
    assert summary.n_frames == summary.n_taken + sum(summary.refused.values())
    examples = summary.examples
    assert examples["no usable target"] == (
        "cifs, line 4 (m2): its gap is 'NaN', not a finite number"
    )
    assert examples["id given twice"].startswith("cifs, line 7 (m0): ")
    assert examples["no CIF file"] == "cifs, line 8 (absent): there is no absent.cif"
    assert examples["no row in the table"].startswith("cifs, m6.cif: ")
    assert "line 10 (broken)" in examples["cannot be read"]
    assert "apart" in examples["no usable structure"]


def test_a_site_that_is_partly_occupied_is_another_structure(tmp_path):
    folder = write_folder(tmp_path / "cifs", "m0,1.0\nm1,1.0\n", n=2)
    text = (folder / "m0.cif").read_text()
    (folder / "m0.cif").write_text(text.replace("1.0000\n", "0.5000\n", 1))
    _, summary = opened(folder)
    assert "m0): a site is partly occupied" in summary.examples["cannot be read"]


@pytest.mark.parametrize(
    ("table", "key", "expected", "noted"),
    [
        ("id,gap,mass\nm0,1,5\nm1,2,6\n", "gap", [1, 2], False),
        ("id,gap,mass\nm0,1,5\nm1,2,6\n", "mass", [5, 6], False),
        ("id,gap,mass\nm0,1,5\nm1,2,6\n", "2", [5, 6], False),
        ("m0,1,5\nm1,2,6\n", "2", [5, 6], False),
        ("m0,1,5\nm1,2,6\n", "gap", [1, 2], True),
        ("\ufeffm0,1\nm1,2\n", "anything", [1, 2], False),
        ('"m0","1"\n"m1","2"\n', "gap", [1, 2], False),
        ("m0,none\nm1,2\n", "gap", [2], False),
        ("m0.cif,1\nm1.CIF,2\n", "gap", [1, 2], False),
        ("m0.cif,none\nm1.cif,2\n", "gap", [2], False),
    ],
)
def test_columns(tmp_path, table, key, expected, noted):
    data, summary = opened(write_folder(tmp_path / "cifs", table, n=2), key)
    assert data.target.tolist() == expected
    assert len(summary.notes) == noted
    if noted:
        assert "others were not read" in summary.notes[0]


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        (None, "gap", r"no id_prop\.csv"),
        ("", "gap", "the table is empty"),
        ("id,gap,mass\nm0,1,5\n", "gapp", r"no column 'gapp'.*'gap'"),
        ("m0,1\n", "3", "no column 3; it has 1 behind the id"),
        ("id,gap\n", "gap", "no frame can be used"),
        ("m0,nan\n", "gap", r"no frame can be used.*m0.*'nan'"),
        ("x,1\n", "gap", r"no frame can be used"),
        ("m0;1\n", "gap", r"id_prop\.csv: the cells are separated by semicolons.*`id,value`"),
        ("m0;0,5\n", "gap", "separated by semicolons"),
        ("id\tgap\nm0\t1\n", "gap", "separated by tabs"),
    ],
)
def test_nothing_left_is_one_sentence(tmp_path, table, key, words):
    folder = write_folder(tmp_path / "cifs", table or "", n=1)
    if table is None:
        (folder / "id_prop.csv").unlink()
    with pytest.raises(StructureError, match=words) as error:
        opened(folder, key)
    assert "\n" not in str(error.value)
    assert "cifs" in str(error.value)
    assert not list(tmp_path.glob("*.h5"))


def test_files_in_folders_and_with_large_letters(tmp_path):
    folder = write_folder(tmp_path / "cifs", "a/m0,1\na/m1.cif,2\nm2,3\n", n=3)
    (folder / "a").mkdir()
    (folder / "m0.cif").rename(folder / "a" / "m0.cif")
    (folder / "m1.cif").rename(folder / "a" / "m1.CIF")
    (folder / "m2.cif").rename(folder / "m2.Cif")
    data, summary = opened(folder)
    assert data.target.tolist() == [1, 2, 3]
    assert list(data.material) == ["a/m0", "a/m1", "m2"]
    assert not summary.refused
    digest = data.sources[0]["sha256"]
    ase.io.write(folder / "a" / "m0.cif", FRAMES[9])
    again, _ = opened(folder)
    assert again.sources[0]["sha256"] != digest, "files in folders are part of the source"


def test_a_state_is_not_in_cif_files(tmp_path):
    folder = write_folder(tmp_path / "cifs")
    with pytest.raises(StructureError, match="cifs: the model takes temperature from"):
        open_sources([folder], tmp_path, "material", ("temperature",), "gap")


def test_a_table_that_is_no_text(tmp_path):
    folder = write_folder(tmp_path / "cifs")
    (folder / "id_prop.csv").write_bytes(b"\xff\xfe\x00m")
    with pytest.raises(StructureError, match=r"id_prop\.csv: the table cannot be read.*UTF-8"):
        read_table(folder, "gap", ())


def test_a_folder_is_converted_anew_when_anything_in_it_changes(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "cifs")
    arguments = ([folder], tmp_path, "material", (), "gap")
    first, _ = open_sources(*arguments)
    digest = Dataset(first, 4.0).sources[0]["sha256"]
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "convert", lambda *args: pytest.fail("converted again"))
        assert open_sources(*arguments)[0] == first
    ase.io.write(folder / "m3.cif", FRAMES[9])
    second, _ = open_sources(*arguments)
    assert second != first
    assert Dataset(second, 4.0).sources[0]["sha256"] != digest
    with (folder / "id_prop.csv").open("a") as file:
        file.write("m9,1.0\n")
    assert open_sources(*arguments)[0] not in (first, second)


def test_the_keys_are_part_of_the_cache(tmp_path):
    frames = [atoms.copy() for atoms in FRAMES[:3]]
    for k, atoms in enumerate(frames):
        atoms.info |= {"gap": 1.0 * k, "mass": 2.0 * k, "T": 300.0}
    ase.io.write(tmp_path / "f.extxyz", frames)
    made = {
        open_sources([tmp_path / "f.extxyz"], tmp_path, "material", state, target)[0][0]
        for state, target in [((), "gap"), ((), "mass"), (("T",), "gap"), (("T",), "mass")]
    }
    assert len(made) == 4


def test_a_folder_without_a_property_is_refused(tmp_path):
    folder = write_folder(tmp_path / "cifs")
    with pytest.raises(StructureError, match="only together with the section property"):
        open_sources([folder], tmp_path, "material")


def test_split_by_id(tmp_path, monkeypatch):
    monkeypatch.setitem(REGISTRY, "pairnet", PairNet)
    folder = write_folder(tmp_path / "cifs", n=30)
    run = prepare(property_config(tmp_path / "run", folder))
    assert run.split.train.size + run.split.val.size + run.split.test.size <= 30
    assert run.data.material[0] == "m0"
    assert min(map(len, (run.split.train, run.split.val, run.split.test))) > 0


def test_a_property_in_info_or_in_the_results(tmp_path):
    frames = [atoms.copy() for atoms in FRAMES[:6]]
    for atoms, value in zip(frames, [1, "2.5", np.nan, "wide", None, 6], strict=True):
        if value is not None:
            atoms.info["gap"] = value
    frames[5].calc = SinglePointCalculator(frames[5], energy=np.nan)  # labels that do not matter
    ase.io.write(tmp_path / "f.traj", frames)
    records = list(iter_records(tmp_path / "f.traj", Keys(target="gap")))
    taken = [record for record in records if isinstance(record, Record)]
    assert [record.target for record in taken] == [1.0, 2.5, 6.0]
    assert np.isnan(taken[0].forces).all()
    refused = [record for record in records if isinstance(record, Rejected)]
    assert [r.where for r in refused] == ["frame 2", "frame 3", "frame 4"]
    assert {r.kind for r in refused} == {"no usable target"}
    assert "'wide', not a finite number" in refused[1].reason
    assert "info has no 'gap'" in refused[2].reason
    ase.io.write(tmp_path / "e.extxyz", FRAMES[0])
    (record,) = iter_records(tmp_path / "e.extxyz", Keys(target="energy"))
    assert isinstance(record, Record)
    assert record.target == pytest.approx(FRAMES[0].get_potential_energy())


def test_nothing_left_in_a_file_names_the_nearest(tmp_path):
    atoms = FRAMES[0].copy()
    atoms.info["band_gap"] = 1.0
    ase.io.write(tmp_path / "f.extxyz", atoms)
    with pytest.raises(StructureError, match=r"no frame can be used.*'bandgap'.*'band_gap'"):
        convert([tmp_path / "f.extxyz"], tmp_path / "f.h5", Keys(target="bandgap"))


def test_disorder_of_a_cif_file_read_as_a_file(tmp_path):
    atoms = Atoms("NaCl", positions=[(0, 0, 0), (2.8, 0, 0)], cell=[5.6, 4, 4], pbc=True)
    ase.io.write(tmp_path / "a.cif", atoms)
    mixed = (tmp_path / "a.cif").read_text().replace("1.0000\n", "0.5000\n", 1)
    (tmp_path / "a.cif").write_text(mixed)
    (found,) = iter_records(tmp_path / "a.cif", Keys(target="spacegroup"))
    assert isinstance(found, Rejected)
