"""Reading files frame by frame, and what becomes of frames that are no use."""

from __future__ import annotations

import gzip
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.errors import StructureError
from mlff2d.reading import iter_structures
from mlff2d.training.data.readers import Keys, Record, Rejected, iter_records
from mlff2d.training.data.record import material_of
from tests.gpaw_files import gpaw_text
from tests.shared import DATA, needs_data
from tests.training_helpers import monolayers

FRAMES = monolayers(1)[:5]


def blocks(tmp_path: Path) -> list[list[str]]:
    """The lines of each of `FRAMES` in extended XYZ."""
    path = tmp_path / "frames.extxyz"
    ase.io.write(path, FRAMES)
    lines = path.read_text().splitlines(keepends=True)
    return [lines[k : k + 4] for k in range(0, len(lines), 4)]


def wrong_number(block: list[str]) -> list[str]:
    return [*block[:3], block[3].replace(".", "?", 1)]


def count_too_large(block: list[str]) -> list[str]:
    return ["3\n", *block[1:]]


def count_too_small(block: list[str]) -> list[str]:
    return ["1\n", *block[1:]]


def atom_lost(block: list[str]) -> list[str]:
    return block[:3]


def no_element(block: list[str]) -> list[str]:
    return [*block[:3], "Xx" + block[3][2:]]


FAULTS = [None, wrong_number, count_too_large, count_too_small, atom_lost, no_element]


@settings(deadline=None, max_examples=40)
@given(faults=st.lists(st.sampled_from(FAULTS), min_size=5, max_size=5))
def test_bad_frames_spoil_no_others(tmp_path_factory, faults):
    tmp_path = tmp_path_factory.mktemp("frames")
    spoilt = [f(b) if f else b for f, b in zip(faults, blocks(tmp_path), strict=True)]
    path = tmp_path / "spoilt.extxyz"
    path.write_text("".join(line for block in spoilt for line in block))
    found = list(iter_structures(path))
    assert [index for index, _ in found] == [0, 1, 2, 3, 4]
    for fault, expected, (index, frame) in zip(faults, FRAMES, found, strict=True):
        if fault is no_element:  # ASE reads Xx as a ghost atom; the check of structures refuses it
            continue
        if fault is None:
            np.testing.assert_allclose(frame.positions, expected.positions, atol=1e-7)
            assert frame.info["material"] == expected.info["material"]
            assert frame.get_potential_energy() == pytest.approx(expected.get_potential_energy())
        else:
            assert isinstance(frame, StructureError)
            assert "spoilt.extxyz" in str(frame)
            assert f"frame {index}" in str(frame)


def test_compressed_file_gives_its_frames_up_to_where_it_breaks(tmp_path):
    text = "".join(line for block in blocks(tmp_path) for line in block) * 200
    path = tmp_path / "broken.extxyz.gz"
    packed = gzip.compress(text.encode())
    path.write_bytes(packed[: len(packed) // 2])
    found = [frame for _, frame in iter_structures(path)]
    assert 10 < len(found) < 1000
    assert all(isinstance(frame, Atoms) for frame in found[:-1])
    assert isinstance(found[-1], StructureError)


def test_reading_is_lazy(tmp_path):
    one = "".join(blocks(tmp_path)[0])
    path = tmp_path / "long.extxyz"
    with path.open("w") as file:
        file.write(one * 20_000 + "nonsense\n")
    frames = iter_structures(path)
    assert next(frames)[0] == 0
    path.write_text("")  # what comes behind is not read yet
    assert sum(1 for _ in frames) < 100


@pytest.mark.parametrize("name", ["none.extxyz", "empty.extxyz", "blank.extxyz", "data.unknown"])
def test_useless_files_are_named(tmp_path, name):
    path = tmp_path / name
    if name != "none.extxyz":
        path.write_text({"empty.extxyz": "", "blank.extxyz": "\n\n"}.get(name, "what is this"))
    with pytest.raises(StructureError, match=name):
        list(iter_structures(path))


def test_gzip_that_is_none(tmp_path):
    path = tmp_path / "not.extxyz.gz"
    path.write_text("plain text")
    with pytest.raises(StructureError, match=r"not\.extxyz\.gz"):
        next(iter_structures(path))


def test_cell_vectors_behind_the_atoms(tmp_path):
    path = tmp_path / "vec.xyz"
    frame = "1\ncomment\nCu 0 0 0\nVEC1 2.5 0 0\nVEC2 0 2.5 0\nVEC3 0 0 9\n"
    path.write_text(frame * 2)
    found = [frame for _, frame in iter_structures(path)]
    assert len(found) == 2
    assert found[1].cell.lengths() == pytest.approx([2.5, 2.5, 9])


@pytest.mark.parametrize("name", ["frames.db", "frames.json", "frames.traj", "frames.extxyz.gz"])
def test_formats_agree(tmp_path, name):
    path = tmp_path / name
    if name.endswith((".db", ".json")):
        with ase.db.connect(path) as database:
            for atoms in FRAMES:
                database.write(atoms, material=atoms.info["material"])
    elif name.endswith(".gz"):
        plain = tmp_path / "frames.extxyz"
        ase.io.write(plain, FRAMES)
        path.write_bytes(gzip.compress(plain.read_bytes()))
    else:
        ase.io.write(path, FRAMES)
    records = list(iter_records(path, Keys()))
    for atoms, record in zip(FRAMES, records, strict=True):
        assert isinstance(record, Record)
        assert record.material == atoms.info["material"]
        assert record.energy == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(record.forces, atoms.get_forces(), atol=1e-7)
        virial = atoms.get_stress(voigt=False) * atoms.get_volume()
        np.testing.assert_allclose(record.virial, virial, atol=1e-7)


def relabelled(**labels) -> Atoms:
    atoms = FRAMES[0].copy()
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results = labels
    return atoms


def nan_position() -> Atoms:
    atoms = relabelled(energy=1.0)
    atoms.positions[1, 2] = np.nan
    return atoms


def overlapping() -> Atoms:
    atoms = relabelled(energy=1.0)
    atoms.positions[1] = atoms.positions[0] + [0.1, 0, 0]
    return atoms


@pytest.mark.parametrize(
    ("atoms", "kind", "reason"),
    [
        (relabelled(), "no usable labels", "no energy, forces or stress"),
        (relabelled(energy=np.nan), "no usable labels", "energy holds NaN"),
        (relabelled(forces=np.full((2, 3), np.inf)), "no usable labels", "forces holds NaN"),
        (relabelled(stress=np.zeros(5)), "no usable labels", "stress has 5 numbers"),
        (relabelled(forces=np.zeros((3, 3))), "no usable labels", "forces has 9 numbers"),
        (relabelled(forces=np.zeros((3, 2))), "no usable labels", "shape (3, 2), not (2, 3)"),
        (relabelled(stress=np.zeros((1, 6))), "no usable labels", "shape (1, 6), not (3, 3)"),
        (nan_position(), "no usable structure", "NaN"),
        (overlapping(), "no usable structure", "apart"),
    ],
)
def test_useless_frames_are_refused_with_their_reason(tmp_path, monkeypatch, atoms, kind, reason):
    path = tmp_path / "any.extxyz"
    path.write_text("what ASE would not write")
    monkeypatch.setattr(
        "mlff2d.training.data.readers.iter_structures",
        lambda path: iter([(0, atoms), (1, FRAMES[1])]),
    )
    refused, taken = iter_records(path, Keys())
    assert isinstance(refused, Rejected)
    assert (refused.where, refused.kind) == ("frame 0", kind)
    assert reason in refused.reason
    assert isinstance(taken, Record)


def test_records_are_canonical_slabs(tmp_path):
    atoms = FRAMES[0].copy()
    atoms.pbc = True
    atoms.positions[:, 2] += 15.0 - atoms.positions[:, 2].mean()
    atoms.wrap()
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    assert np.ptp(atoms.positions[:, 2]) > 10
    ase.io.write(tmp_path / "cut.extxyz", atoms)
    (record,) = iter_records(tmp_path / "cut.extxyz", Keys())
    assert record.pbc.tolist() == [True, True, False]
    assert np.ptp(record.pos[:, 2]) < 1
    assert np.isnan(record.forces).all()
    assert np.isnan(record.virial).all()


def test_material_falls_back_on_the_reduced_formula():
    atoms = Atoms("Mo2S4")
    assert material_of(atoms, "material") == "MoS2"
    atoms.info["name"] = 12
    assert material_of(atoms, "name") == "12"


def written(path: Path, **info: str) -> Path:
    atoms = FRAMES[0].copy()
    atoms.calc = FRAMES[0].calc
    atoms.info = dict(info)
    ase.io.write(path, [atoms, atoms])
    return path


@pytest.mark.parametrize(
    ("name", "info", "expected"),
    [
        ("relax.extxyz", {}, material_of(Atoms(FRAMES[0].symbols), "")),
        ("relax.extxyz", {"material": "mine"}, "mine"),
        ("relax.extxyz", {"material": "mine", "trajectory": "run 3"}, "run 3"),
        ("relax.traj", {"material": "mine"}, "relax.traj"),
        ("relax.traj", {"trajectory": "run 3"}, "run 3"),
    ],
)
def test_what_the_steps_of_a_run_share(tmp_path, name, info, expected):
    path = written(tmp_path / name, **info)
    assert [r.trajectory for r in iter_records(path, Keys())] == [expected] * 2


def test_a_trajectory_file_that_is_a_collection_is_one_trajectory_per_composition(tmp_path):
    ase.io.write(tmp_path / "all.traj", FRAMES)
    names = [r.trajectory for r in iter_records(tmp_path / "all.traj", Keys())]
    compositions = {atoms.symbols.formula.format("hill") for atoms in FRAMES}
    assert names[0] == "all.traj"
    assert len(set(names)) == len(compositions) > 1


def test_frames_behind_a_number_are_the_same(tmp_path):
    path = tmp_path / "frames.extxyz"
    path.write_text("".join(line for block in blocks(tmp_path) for line in block))
    every, later = list(iter_records(path, Keys())), list(iter_records(path, Keys(), skip=3))
    assert [r.frame for r in later] == [r.frame for r in every[3:]] == [3, 4]
    assert [r.energy for r in later] == [r.energy for r in every[3:]]


def test_a_folder_of_any_files(tmp_path):
    (tmp_path / "gpaw").mkdir()
    (tmp_path / "gpaw/relax.txt").write_text(gpaw_text(FRAMES[0], -9.5, -9.4))
    (tmp_path / "gpaw/README.txt").write_text("what this is")
    (tmp_path / "POSCAR").write_text("no labels here")
    written(tmp_path / "b.extxyz", material="b")
    written(tmp_path / "a.traj")
    *records, note = iter_records(tmp_path, Keys())
    assert [r.trajectory for r in records] == ["a.traj"] * 2 + ["b"] * 2 + ["gpaw/relax.txt"]
    assert note.endswith(
        "3 of 5 frames have no 'material' in info; their material is the reduced formula."
    )
    assert [r.frame for r in records] == [0, 1, 2, 3, 4]


def test_a_material_key_that_no_frame_has_is_told(tmp_path):
    path = written(tmp_path / "a.extxyz", system="a")
    for key, note in (
        (
            "sytem",
            "2 of 2 frames have no 'sytem' in info; their material is the reduced formula. "
            "Did you mean 'system'? Valid: system.",
        ),
        ("system", None),
        ("material", None),  # the default, whose absence is no mistake
    ):
        items = list(iter_records(path, Keys(material=key)))
        notes = [item for item in items if isinstance(item, str)]
        assert notes == ([f"a.extxyz: {note}"] if note else [])
        assert list(iter_records(path, Keys(material=key), skip=2)) == notes


@pytest.mark.parametrize(
    ("label", "name", "before", "after"),
    [
        ("forces", "force", ":forces:", ":force:"),
        ("stress", "virial", " stress=", " virial="),
        ("energy", "REF_energy", " energy=", " REF_energy="),
    ],
)
def test_labels_under_another_name_are_told(tmp_path, label, name, before, after):
    path = tmp_path / "a.extxyz"
    ase.io.write(path, [FRAMES[0]] * 2)
    text = path.read_text()
    assert text.count(before) == 2
    path.write_text(text.replace(before, after))
    *records, note = iter_records(path, Keys())
    assert [type(record) for record in records] == [Record] * 2
    assert note.startswith(
        f"a.extxyz: 2 frames without {label} have an entry {name!r}, which is not read; if it is "
    )
    assert len(list(iter_records(path, Keys(labels=False)))) == 2


@needs_data
def test_shared_data_are_read_without_refusals():
    records = [
        item
        for _, item in zip(
            range(300), iter_records(DATA / "teacher2d_v0.extxyz.gz", Keys()), strict=False
        )
    ]
    assert len(records) == 300
    assert all(isinstance(record, Record) for record in records)


def test_a_file_that_is_called_hdf5_and_is_none(tmp_path):
    (tmp_path / "x.h5").write_text("no HDF5\n")
    with pytest.raises(StructureError, match="this is no HDF5 file"):
        list(iter_records(tmp_path / "x.h5", Keys()))
