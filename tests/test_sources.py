"""Structures of many files as one list: every frame has a number, whatever is damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, mx2
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlff2d.errors import StructureError
from mlff2d.reading import frame_file, iter_structures
from mlff2d.sources import Found, Sources, structure_files
from mlff2d.training.data.convert import convert
from mlff2d.training.data.record import Keys

PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, "": bytes}


def sheet(k: int = 0) -> Atoms:
    atoms = fcc111("Cu", (1, 1, 1 + k % 3), a=3.6 + 0.01 * k, vacuum=6.0)
    atoms.info = {"material": f"sheet {k}"}
    return atoms


def said(found: Found) -> object:
    """What tells a structure from another."""
    if isinstance(found.structure, StructureError):
        return str(found.structure)
    return found.structure.positions.tolist(), found.structure.cell.tolist(), found.structure.info


def assert_any_stretch(sources: Sources, expected: list[object]) -> None:
    """Every structure is the same read in a stretch and with all others."""
    assert len(sources) == len(expected)
    whole = list(sources.read())
    assert [said(found) for found in whole] == expected
    assert [found.index for found in whole] == list(range(len(whole)))
    for first in range(len(whole)):
        assert [said(f) for f in sources.read(first, first + 2)] == expected[first : first + 2]
    assert list(sources.read(len(whole), len(whole) + 5)) == []


LINES = (
    *("1\n", "2\n", "0\n", "7\n", " 3 \n", "\n", "\r\n", "garbage\n", "Cu 0 0 0\n", "Cu 0 0 1\r\n"),
    *('Lattice="3 0 0 0 3 0 0 0 9" Properties=species:S:1:pos:R:3\n', "VEC1 1 0 0\n", "Xq a b\n"),
    *("Cu 0 0\n", "99999999999999999999999999999999999\n", "\xb2\n", "5"),
)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    lines=st.lists(st.sampled_from(LINES), min_size=1, max_size=25),
    suffix=st.sampled_from(sorted(PACKERS)),
    kept=st.just(1.0) | st.floats(0.3, 1.0),
)
def test_damaged_xyz_is_counted_as_it_is_read(tmp_path_factory, lines, suffix, kept):
    path = tmp_path_factory.mktemp("xyz") / f"any.extxyz{suffix}"
    packed = PACKERS[suffix]("".join(lines).encode("latin-1"))
    path.write_bytes(packed[: int(len(packed) * kept) or 1])
    try:
        frames = [Found(k, str(path), k, frame) for k, frame in iter_structures(path)]
    except StructureError as error:
        with pytest.raises(StructureError, match=re.escape(str(error))):
            Sources([path])
        return
    assert frame_file(path).count() == len(frames)
    assert_any_stretch(Sources([path]), [said(found) for found in frames])


def test_a_count_that_is_a_typo_ends_at_once(tmp_path):
    path = tmp_path / "in.extxyz"
    path.write_text("99999999999999999999999\nnothing\nCu 0 0 0\n")
    (found,) = Sources([path]).read()
    assert "fewer lines than its count" in str(found.structure)


def test_a_byte_that_is_no_text_spoils_its_own_frame(tmp_path):
    path = tmp_path / "in.extxyz"
    ase.io.write(path, [sheet(), sheet(), sheet()])
    first, second, *rest = path.read_bytes().split(b"sheet 0")
    path.write_bytes(b"sheet 0".join([first, b"sheet \xe4".join([second, *rest[:1]]), *rest[1:]]))
    found = [frame for _, frame in iter_structures(path)]
    assert [isinstance(frame, StructureError) for frame in found] == [False, True, False]
    assert "frame 1" in str(found[1])


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_archives_that_break_off(tmp_path, suffix):
    plain, path = tmp_path / "in.extxyz", tmp_path / f"in.extxyz{suffix}"
    rng = np.random.default_rng(0)
    many = [Atoms("Cu", rng.normal(size=(1, 3)), cell=[3, 3, 9], pbc=True) for _ in range(600)]
    ase.io.write(plain, many)
    packed = PACKERS[suffix](plain.read_bytes())
    for share in (0.5, 0.9):
        path.write_bytes(packed[: int(len(packed) * share)])
        try:
            frames = [frame for _, frame in iter_structures(path)]
        except StructureError:  # bzip2 unpacks whole blocks only
            assert suffix == ".bz2"
            continue
        assert isinstance(frames[-1], StructureError)
        sources = Sources([path])
        assert len(sources) == len(frames) > 100
        for first in (0, 1, len(frames) // 2, len(frames) - 2, len(frames) - 1):
            found = list(sources.read(first))
            assert [f.index for f in found] == list(range(first, len(frames)))
            assert said(found[-1]) == str(frames[-1])
            if first < len(frames) - 1:
                np.testing.assert_array_equal(found[0].structure.positions, frames[first].positions)


def write_file(path: Path, number: int = 5) -> Path:
    """Sheets in whatever format the name says."""
    sheets = [sheet(k) for k in range(number)]
    if path.suffix in (".db", ".json"):
        with ase.db.connect(path) as database:
            for atoms in sheets:
                database.write(atoms, **atoms.info)
    elif path.suffix == ".h5":
        for k, atoms in enumerate(sheets):
            atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * k)
        ase.io.write(path.with_name("labelled.extxyz"), sheets)
        convert([path.with_name("labelled.extxyz")], path, Keys())
    elif path.suffix == ".gz":
        write_file(path.with_suffix(""), number)
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    else:
        ase.io.write(path, sheets)
    return path


FORMATS = ("in.db", "in.json", "in.traj", "in.extxyz", "in.traj.gz", "in.h5")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_in_stretches(tmp_path, name):
    path = write_file(tmp_path / name)
    sources = Sources([path])
    whole = list(sources.read())
    for k, found in enumerate(whole):
        assert found.structure.info["material"] == f"sheet {k}"
        np.testing.assert_allclose(found.structure.cell[:2], sheet(k).cell[:2], atol=1e-6)
        assert found.structure.pbc[:2].all()
        assert len(found.structure) == len(sheet(k))
        assert (found.source, found.frame) == (str(path), k)
    assert_any_stretch(sources, [said(found) for found in whole])


def spoil_row(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE systems SET numbers = ? WHERE id = 3", (b"\1\2\3",))


def spoil_frame(path: Path) -> None:
    """The third frame's place in the file is behind its end."""
    with path.open("r+b") as file:
        file.seek(24)  # magic and tag, then version, number of frames and where their places are
        _, _, places = np.frombuffer(file.read(24), "<i8")
        file.seek(int(places) + 16)
        file.write(np.array([10**9], "<i8").tobytes())


def spoil_atoms(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["material"][2] = 99


@pytest.mark.parametrize(
    ("name", "spoil"), [("in.db", spoil_row), ("in.traj", spoil_frame), ("in.h5", spoil_atoms)]
)
def test_one_damaged_frame_is_a_row(tmp_path, name, spoil):
    path = write_file(tmp_path / name)
    spoil(path)
    whole = list(Sources([path]).read())
    assert [isinstance(found.structure, StructureError) for found in whole] == [
        *(False, False, True, False, False),
    ]
    assert f"{path}, frame 2: it cannot be read" in str(whole[2].structure)
    assert_any_stretch(Sources([path]), [said(found) for found in whole])


def test_a_database_with_holes_counts_what_is_there(tmp_path):
    path = write_file(tmp_path / "in.db")
    with ase.db.connect(path) as database:
        database.delete([2, 4])
    found = list(Sources([path]).read())
    assert [f.frame for f in found] == [0, 1, 2]
    assert [f.structure.info["material"] for f in found] == ["sheet 0", "sheet 2", "sheet 4"]


def test_files_that_cannot_be_read_hold_their_place(tmp_path):
    good = write_file(tmp_path / "good.extxyz", 2)
    empty, text, h5, cif = (tmp_path / n for n in ("a.extxyz", "b.unknown", "c.h5", "d.cif"))
    empty.write_text("")
    text.write_text("what is this")
    h5.write_text("no HDF5")
    cif.write_text("data_nothing\n_cell_length_a 3\n")
    paths = [empty, good, text, h5, cif, good.rename(tmp_path / "last.extxyz")]
    write_file(good, 2)
    found = list(Sources(paths).read())
    assert [f.source for f in found] == [str(paths[k]) for k in (0, 1, 1, 2, 3, 4, 5, 5)]
    faulty = [f for f in found if isinstance(f.structure, StructureError)]
    assert [f.index for f in faulty] == [0, 3, 4, 5]
    for one in faulty:
        assert one.source in str(one.structure), "the sentence names the file"
    with pytest.raises(StructureError, match="empty"):
        Sources([empty, text])
    with pytest.raises(StructureError, match=r"none\.cif: there is no such file"):
        Sources([good, tmp_path / "none.cif"])


@pytest.mark.parametrize("name", ["in.extxyz", "in.db", "in.h5", "in.cif"])
def test_a_file_that_changes_behind_ones_back_ends_the_reading(tmp_path, name):
    """Else other structures would stand under the names of those counted."""
    path = write_file(tmp_path / name)
    sources = Sources([path])
    before = [said(found) for found in sources.read()]
    kept = path.rename(tmp_path / "kept")
    write_file(path, 2)
    with pytest.raises(OSError, match=rf"{name} was changed or removed"):
        list(sources.read())
    path.unlink()
    with pytest.raises(OSError, match=rf"{name} was changed or removed"):
        list(sources.read())
    kept.rename(path)
    os.utime(path)  # a new time alone is no change
    assert [said(found) for found in sources.read()] == before


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = write_file(tmp_path / "in.extxyz")
    reading = Sources([path]).read()
    next(reading)
    ase.io.write(path, sheet(1), append=True)
    with pytest.raises(OSError, match="was changed or removed"):
        list(reading)


def test_a_folder(tmp_path):
    for name in ("b.cif", "a/POSCAR", "a/CONTCAR", "c/CONTCAR", "A.XYZ", "out.extxyz", "d.vasp"):
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = "vasp" if "CAR" in name or name == "d.vasp" else file.suffix.lower()[1:]
        ase.io.write(file, sheet(), format={"xyz": "extxyz"}.get(kind, kind))
    for name in (".hidden.cif", "notes.txt", "a/OUTCAR", ".git/x.cif", "out.progress/x.cif"):
        file = tmp_path / "in" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("nothing")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    folder = tmp_path / "in"
    left_out = [folder / "out.extxyz", folder / "out.progress"]
    found = [path.relative_to(folder).as_posix() for path in structure_files([folder], left_out)]
    assert found == ["A.XYZ", "b.cif", "d.vasp", "a/POSCAR", "c/CONTCAR"]
    twice = structure_files([folder / "a" / ".." / "b.cif", folder], left_out)
    assert [path.name for path in twice] == ["b.cif", "A.XYZ", "d.vasp", "POSCAR", "CONTCAR"]
    assert all(isinstance(f.structure, Atoms) for f in Sources([folder], left_out).read())
    (tmp_path / "none").mkdir()
    with pytest.raises(StructureError, match="holds no structure at any depth"):
        Sources([tmp_path / "none"])


def test_a_database_whose_names_are_damaged(tmp_path):
    good, bad = write_file(tmp_path / "good.db", 2), write_file(tmp_path / "bad.db", 2)
    content = bad.read_bytes()
    bad.write_bytes(content.replace(b"CREATE TABLE systems", b"CREATE \x90ABLE systems"))
    assert bad.read_bytes() != content
    found = list(Sources([good, bad]).read())
    assert [isinstance(f.structure, StructureError) for f in found] == [False, False, True]
    assert f"{bad}: the file cannot be read" in str(found[2].structure)


def test_several_structures_in_a_cif_file(tmp_path):
    path = tmp_path / "three.cif"
    ase.io.write(path, [sheet(0), sheet(1), sheet(2)])
    assert len(Sources([path])) == 3
    assert_any_stretch(Sources([path]), [said(found) for found in Sources([path]).read()])
    path.write_text("data_a\n_nothing 1\n" + path.read_text())
    assert len(Sources([path])) == 3, "a block without a structure is none"


def test_a_site_that_is_partly_occupied_is_refused(tmp_path):
    path = tmp_path / "alloy.cif"
    ase.io.write(path, mx2("MoS2", vacuum=6.0))
    text = path.read_text()
    site = next(line for line in text.splitlines() if line.split()[:2] == ["Mo", "Mo1"])
    path.write_text(text.replace(site, site.removesuffix("1.0000") + "0.5000"))
    (found,) = Sources([path]).read()
    assert f"{path}, frame 0: a site is partly occupied" in str(found.structure)


@pytest.mark.parametrize("name", ["in.extxyz", "in.db", "in.h5", "in.cif"])
def test_the_digest_changes_with_the_content(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = write_file(Path(name))
    before = Sources([path]).digest
    assert Sources([path]).digest == before
    copy = tmp_path / "copy"
    copy.mkdir()
    path.rename(copy / name).rename(path)
    assert Sources([path]).digest == before
    assert Sources([tmp_path / path]).digest != before, "the table names files as they were given"
    path.unlink()
    write_file(path, 4)
    assert Sources([path]).digest != before


def test_the_digest_of_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr("mlff2d.sources.HASHED", 1000)
    monkeypatch.setattr("mlff2d.sources._PIECE", 100)
    path = write_file(tmp_path / "in.extxyz", 40)
    before = Sources([path]).digest
    times = path.stat()
    content = path.read_bytes()
    place = content.index(b"sheet 20")
    only = {
        "its length": content + b"\n",
        "its beginning": b"9" + content[1:],
        "its end": content[:-2] + b"9\n",
    }
    for what, changed in only.items():
        path.write_bytes(changed)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert Sources([path]).digest != before, f"where only {what} tells"
    path.write_bytes(content[:place] + b"SHEET" + content[place + 5 :])
    assert Sources([path]).digest != before, "where only the time tells"
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Sources([path]).digest == before


def test_progress_is_told(tmp_path):
    paths = [write_file(tmp_path / name) for name in ("a.extxyz", "b.extxyz")]
    told = []
    Sources(paths, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
