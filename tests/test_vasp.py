"""VASP runs: what is taken from them, and what of broken ones is left and said."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from mlff2d.errors import StructureError
from mlff2d.training.data.readers import Keys, Record, Rejected, iter_records, source_files
from mlff2d.training.data.vasp import is_vasp, iter_steps
from tests.relaxations import relaxation
from tests.vasp_files import outcar, vasprun

STEPS = relaxation(6)
WRITERS = {"vasprun.xml": vasprun, "OUTCAR": outcar}
# OUTCAR gives positions with five decimals, forces with six and the stress with five, in kbar.
DECIMALS = {"vasprun.xml": (2e-7, 1e-8, 1e-8), "OUTCAR": (1e-5, 1e-6, 1e-8)}


def records(path: Path) -> list[Record]:
    items = list(iter_records(path, Keys()))
    assert all(isinstance(item, Record) for item in items), items
    return items  # type: ignore[return-value]


def split(path: Path) -> tuple[list[Record], list[Rejected]]:
    items = list(iter_records(path, Keys()))
    taken = [item for item in items if isinstance(item, Record)]
    return taken, [item for item in items if isinstance(item, Rejected)]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_labels_have_ases_units_and_signs(tmp_path, name, suffix, pack):
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(pack(WRITERS[name](STEPS).encode()))
    found = records(path)
    assert [r.frame for r in found] == list(range(6))
    assert {r.trajectory for r in found} == {path.name}
    in_pos, in_forces, in_stress = DECIMALS[name]
    for atoms, record in zip(STEPS, found, strict=True):
        # The free energy: it belongs to the forces.
        assert record.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(record.forces, atoms.get_forces(), atol=in_forces)
        np.testing.assert_allclose(record.cell, atoms.cell.array, atol=2e-8)
        np.testing.assert_allclose(record.pos, atoms.positions, atol=in_pos)
        virial = atoms.get_stress(voigt=False) * atoms.get_volume()
        np.testing.assert_allclose(record.virial, virial, atol=in_stress * atoms.get_volume())
        assert record.pbc.tolist() == [True, True, False]


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_as_ase(tmp_path, name):
    path = tmp_path / name
    path.write_text(WRITERS[name](STEPS))
    for ours, theirs in zip(iter_steps(path), ase.io.read(path, index=":"), strict=True):
        assert isinstance(ours, Atoms)
        assert ours.calc.results["free_energy"] == theirs.calc.results["free_energy"]
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-12)
        np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-12)
        np.testing.assert_allclose(
            ours.get_stress(voigt=False), theirs.get_stress(voigt=False), atol=1e-9
        )
        assert ours.symbols.formula == theirs.symbols.formula


@pytest.mark.parametrize("name", WRITERS)
def test_steps_whose_electrons_did_not_converge_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text(WRITERS[name](STEPS, electronic=[7, 20, 19, 5, 20, 3], nelm=20))
    taken, refused = split(path)
    assert [r.frame for r in taken] == [0, 2, 3, 5]
    assert [(r.where, r.kind) for r in refused] == [
        ("step 1", "SCF not converged"),
        ("step 4", "SCF not converged"),
    ]
    assert "20 electronic steps that NELM allows" in refused[0].reason


@pytest.mark.parametrize("name", WRITERS)
def test_steps_of_a_learned_force_field_are_no_labels(tmp_path, name):
    path = tmp_path / name
    path.write_text(WRITERS[name](STEPS, electronic=[5, 0, 5, 5, 0, 5]))
    taken, refused = split(path)
    assert [r.frame for r in taken] == [0, 2, 3, 5]
    assert {r.kind for r in refused} == {"step without electronic steps"}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fraction", [0.45, 0.6, 0.75, 0.9, 0.98])
def test_a_killed_run_keeps_its_complete_steps(tmp_path, name, fraction):
    text = WRITERS[name](STEPS)
    text = text[: int(fraction * len(text))]
    path = tmp_path / name
    path.write_text(text)
    end = " </calculation>" if name == "vasprun.xml" else "energy(sigma->0)"
    complete = text.count(end)
    taken, refused = split(path)
    assert complete > 0
    assert len(taken) == complete
    (last,) = refused
    assert (last.where, last.kind) == (f"step {complete}", "step that VASP did not finish")
    assert "the steps so far are taken" in last.reason


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_truncated_archive_is_a_killed_run(tmp_path, name, suffix, pack):
    packed = pack(WRITERS[name](relaxation(60)).encode())
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    taken, refused = split(path)
    assert 10 < len(taken) < 60
    assert [r.kind for r in refused] == ["step that VASP did not finish"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_step_that_cannot_be_parsed_spoils_no_other(tmp_path, name):
    text = WRITERS[name](STEPS)
    number = {
        "vasprun.xml": f"{STEPS[2].get_forces()[1, 0]:16.8f}",
        "OUTCAR": f"{STEPS[2].get_forces()[1, 0]:13.6f}",
    }[name]
    assert text.count(number) == 1
    path = tmp_path / name
    path.write_text(text.replace(number, "*" * len(number)))
    taken, refused = split(path)
    assert [r.frame for r in taken] == [0, 1, 3, 4, 5]
    assert [(r.where, r.kind) for r in refused] == [("step 2", "cannot be read")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("OUTCAR", b"\x7fELF\x00\xff" * 5000),
        ("OUTCAR", b""),
        ("OUTCAR", outcar(STEPS)[:500].encode()),
        ("OUTCAR", outcar(STEPS).replace("PAW_PBE Cu", "PAW_PBE Qq").encode()),
        ("OUTCAR.gz", b"not packed"),
        ("vasprun.xml", b"\x7fELF\x00\xff" * 5000),
        ("vasprun.xml", b""),
        ("vasprun.xml", vasprun(STEPS)[:900].encode()),
        ("vasprun.xml.xz", b"not packed"),
    ],
)
def test_a_run_without_a_step_is_one_refusal(tmp_path, name, content):
    (tmp_path / "runs/bad").mkdir(parents=True)
    (tmp_path / "runs/good").mkdir()
    (tmp_path / "runs/bad" / name).write_bytes(content)
    (tmp_path / "runs/good/OUTCAR").write_text(outcar(STEPS))
    taken, refused = split(tmp_path / "runs")
    assert len(taken) == 6
    (only,) = refused
    assert only.where.startswith(f"bad/{name}")
    assert only.kind == "VASP run without a readable step"
    assert "\n" not in only.reason


def test_an_unknown_element_of_vasprun_is_named(tmp_path):
    path = tmp_path / "vasprun.xml"
    path.write_text(vasprun(STEPS).replace("<c>Ag</c>", "<c>r </c>"))
    taken, refused = split(path)
    assert taken == []
    assert "'r' is no element" in refused[0].reason


def test_enthalpies_are_refused(tmp_path):
    path = tmp_path / "vasprun.xml"
    path.write_text(vasprun(STEPS, pstress=50.0))
    taken, refused = split(path)
    assert taken == []
    assert {r.kind for r in refused} == {"run under external pressure"}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Runs as they lie about: nested, restarted, packed, doubled, and other files between them."""
    root = tmp_path / "runs"
    for name, text in {
        "MoS2/relax/vasprun.xml": vasprun(STEPS[:3]),
        "MoS2/relax/OUTCAR": outcar(STEPS),  # the same run; not read
        "MoS2/relax/POSCAR": "not read",
        "MoS2/relax/job.log": "not read either",
        "restarted/OUTCAR.10": outcar(STEPS[4:5]),
        "restarted/OUTCAR.2": outcar(STEPS[2:4]),
        "restarted/vasprun.xml.2": vasprun(STEPS[2:4]),
        "restarted/OUTCAR": outcar(STEPS[5:]),
        "damaged/vasprun.xml": "<modeling>",
        "damaged/OUTCAR": outcar(STEPS[:2]),
        ".hidden/OUTCAR": outcar(STEPS),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    ase.io.write(root / "more.extxyz", STEPS[:2])
    ase.io.write(root / "MoS2/md.traj", STEPS[:2])
    return root


def test_a_folder_of_runs(folder):
    found: dict[str, list[Record]] = {}
    for record in records(folder):
        found.setdefault(record.trajectory, []).append(record)
    assert {name: len(steps) for name, steps in found.items()} == {
        "AgCu3": 2,  # more.extxyz: no run, so by its material
        "MoS2/md.traj": 2,
        "MoS2/relax": 3,
        "damaged": 2,
        "restarted/vasprun.xml.2": 2,
        "restarted/OUTCAR.10": 1,
        "restarted": 1,
    }
    order = [name for name in found if name.startswith("restarted")]
    assert order == ["restarted/vasprun.xml.2", "restarted/OUTCAR.10", "restarted"]
    first = found["restarted/vasprun.xml.2"][0]
    assert first.energy == pytest.approx(STEPS[2].get_potential_energy(), abs=1e-8)
    assert [r.frame for r in records(folder)] == list(range(13))


def test_the_files_of_a_folder_are_those_that_are_read(folder):
    names = {path.relative_to(folder).as_posix() for path in source_files(folder, Keys())}
    assert names == {
        "more.extxyz",
        "MoS2/md.traj",
        "MoS2/relax/vasprun.xml",
        "MoS2/relax/OUTCAR",
        "damaged/vasprun.xml",
        "damaged/OUTCAR",
        "restarted/OUTCAR",
        "restarted/OUTCAR.2",
        "restarted/OUTCAR.10",
        "restarted/vasprun.xml.2",
    }


def test_a_run_that_is_named_itself_has_its_folders_name(folder):
    assert {r.trajectory for r in records(folder / "MoS2/relax")} == {"relax"}


def test_a_broken_file_in_a_folder_is_refused_and_passed(folder):
    (folder / "broken.extxyz").write_text("")
    (folder / "zero.db").write_bytes(b"no database")
    taken, refused = split(folder)
    assert len(taken) == 13
    assert [r.where for r in refused] == ["broken.extxyz", "zero.db"]


def test_linked_folders_are_followed_once(folder):
    (folder / "loop").symlink_to(folder)
    (folder / "again").symlink_to(folder / "MoS2")
    assert len(records(folder)) == 13


def test_a_folder_without_any_calculation_says_what_is_looked_for(tmp_path):
    (tmp_path / "POSCAR").write_text("only a structure")
    (tmp_path / "settings.json").write_text('{"encut": 520}')
    with pytest.raises(StructureError, match=r"vasprun\.xml and OUTCAR"):
        list(iter_records(tmp_path, Keys()))


def test_names_of_vasps_files():
    yes = [
        "vasprun.xml",
        "vasprun.xml.gz",
        "OUTCAR",
        "OUTCAR.1",
        "OUTCAR.relax2.bz2",
        "OUTCAR_MoS2",
    ]
    no = ["POSCAR", "vasprun.txt", "XDATCAR", "results.xml"]
    assert all(is_vasp(Path(name)) for name in yes)
    assert not any(is_vasp(Path(name)) for name in no)
