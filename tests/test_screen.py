"""Screens: a row for everything, and a run killed at any byte ends as if it had not been."""

import csv
import errno
import json
import os
from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import killed_screen
from mlff2d.md.screen import block
from mlff2d.md.screen.compose import compose
from mlff2d.md.screen.journal import Journal, records_in
from mlff2d.md.screen.plan import Plan, block_size
from mlff2d.md.screen.row import COLUMNS, relaxed
from mlff2d.sources import Found
from tests.screens import (
    Killed,
    Wandering,
    assert_same,
    open_folder,
    outputs_in,
    result_of,
    screen,
    sheet,
    write_sheets,
)

TOTAL, BLOCK = 23, 8


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """A folder with an input of 23 structures, and what one run makes of it."""
    folder = tmp_path_factory.mktemp("run")
    screen(write_sheets(folder / "in.extxyz", TOTAL), outputs_in(folder), block=BLOCK)
    return folder


def test_blocks() -> None:
    assert [block_size(n) for n in (1, 64, 65, 512, 1000, 5000, 88483)] == [
        *(64, 64, 64, 64, 125, 512, 512),
    ]
    plan = Plan(23, 8)
    assert [plan.span(k) for k in plan.share(None)] == [(0, 8), (8, 16), (16, 23)]
    shares = [list(plan.share((i, 2))) for i in (1, 2)]
    assert shares == [[0, 2], [1]]
    with pytest.raises(ValueError, match=r"shard 5/6: 23 structures are 3 blocks of 8.*--block 3 "):
        plan.share((5, 6))


def test_a_row_for_every_structure_in_order(uninterrupted) -> None:
    rows = table(uninterrupted / "out.csv")
    assert list(rows[0]) == list(COLUMNS)
    assert [int(row["index"]) for row in rows] == list(range(TOTAL))
    frames = ase.io.read(uninterrupted / "out.extxyz", ":")
    refused = [row for row in rows if row["status"] == "failed"]
    assert [int(row["index"]) for row in refused] == list(range(3, TOTAL, 5))
    assert "in.extxyz, frame 8 (Cu): it is a molecule" in refused[1]["reason"]
    kept = [row for row in rows if row["status"] != "failed"]
    assert [a.info["relax_index"] for a in frames] == [int(row["index"]) for row in kept]
    for row, atoms in zip(kept, frames, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(float(row["energy_per_atom"]))
        assert atoms.info["relax_status"] == row["status"]
        assert (row["frame"], row["layer_group_before"]) == (row["index"], "80")


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    turns=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    cuts=st.dictionaries(st.integers(0, 2), st.tuples(st.floats(0, 1), st.floats(0, 1))),
    hole=st.booleans(),
    often=st.booleans(),
)
def test_killed_at_any_byte(uninterrupted, tmp_path_factory, turns, cuts, hole, often) -> None:
    """Killed at any step, with journals and snapshots cut off anywhere or filled with zeros."""
    folder = tmp_path_factory.mktemp("killed")
    source = uninterrupted / "in.extxyz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "SAVE_SECONDS", 0.0 if often else 2.0)
        for left in turns:
            try:
                screen(source, outputs_in(folder), Wandering(left), block=BLOCK)
            except Killed:
                for k, parts in cuts.items():
                    for suffix, part in zip((".jsonl", ".state"), parts, strict=True):
                        damage(folder / "out.progress" / f"block-{k:05d}{suffix}", part, hole)
        screen(source, outputs_in(folder))
    assert_same(folder, uninterrupted)
    assert not list((folder / "out.progress").glob("*.state"))


def damage(path: Path, part: float, hole: bool) -> None:
    """Leave so much of a file, and zeros behind it where it has a hole."""
    if path.exists():
        content = path.read_bytes()
        kept = content[: int(part * len(content))]
        path.write_bytes(kept.ljust(len(content), b"\0") if hole else kept)


def test_numbers_do_depend_on_the_company(uninterrupted, tmp_path) -> None:
    """Else the test above could not fail."""
    screen(uninterrupted / "in.extxyz", outputs_in(tmp_path), block=5)
    assert (tmp_path / "out.csv").read_bytes() != (uninterrupted / "out.csv").read_bytes()


def test_what_is_in_flight_goes_on(uninterrupted, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(block, "SAVE_SECONDS", 0.0)
    source, outputs = uninterrupted / "in.extxyz", outputs_in(tmp_path)
    with pytest.raises(Killed):
        screen(source, outputs, Wandering(12), block=BLOCK)
    before = {record.index for record in records_in(tmp_path / "out.progress/block-00000.jsonl")}
    assert before
    work, done = Wandering(), []
    screen(source, outputs, work, report=lambda finished, _: done.extend(finished))
    assert not before & set(work.begun), "those finished are not begun again"
    assert sorted(before | {r.index for r in done}) == list(range(TOTAL))
    assert len(done) == TOTAL - len(before)
    screen(source, outputs, Wandering(0))
    assert_same(tmp_path, uninterrupted)


def test_a_snapshot_that_is_ahead_of_its_journal(uninterrupted, tmp_path, monkeypatch) -> None:
    """As after a power cut: what the snapshot says is finished is not there."""
    monkeypatch.setattr(block, "SAVE_SECONDS", 0.0)
    source = uninterrupted / "in.extxyz"
    with pytest.raises(Killed):
        screen(source, outputs_in(tmp_path), Wandering(12), block=BLOCK)
    journal = tmp_path / "out.progress" / "block-00000.jsonl"
    journal.write_bytes(journal.read_bytes()[:-100])
    screen(source, outputs_in(tmp_path))
    assert_same(tmp_path, uninterrupted)


def test_one_by_one_leaves_out_what_is_finished(uninterrupted, tmp_path) -> None:
    source = uninterrupted / "in.extxyz"
    with pytest.raises(Killed):
        screen(source, outputs_in(tmp_path), Wandering(30, one_by_one=True))
    assert not list((tmp_path / "out.progress").glob("*.state"))
    before = {record.index for record in records_in(tmp_path / "out.progress/block-00000.jsonl")}
    work = Wandering(one_by_one=True)
    screen(source, outputs_in(tmp_path), work)
    assert sorted(work.begun) == sorted(set(range(TOTAL)) - before)


def test_a_stop_keeps_what_is_in_flight(uninterrupted, tmp_path) -> None:
    source, turns = uninterrupted / "in.extxyz", []

    def stopping(finished, steps) -> None:
        turns.append(steps)
        if len(turns) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen(source, outputs_in(tmp_path), report=stopping, block=BLOCK)
    folder, _ = open_folder(source, outputs_in(tmp_path))
    assert (folder.path / "block-00001.state").exists()
    summary = compose(folder, outputs_in(tmp_path))
    rows = table(tmp_path / "out.csv")
    assert len(rows) == summary.n_rows < TOTAL
    assert [int(row["index"]) for row in rows] == sorted(int(row["index"]) for row in rows)
    work = Wandering()
    screen(source, outputs_in(tmp_path), work)
    assert len(work.begun) < TOTAL - BLOCK
    assert_same(tmp_path, uninterrupted)


def test_shards_make_the_same_files(uninterrupted, tmp_path) -> None:
    source = uninterrupted / "in.extxyz"
    for i in (2, 1, 3):
        with pytest.raises(Killed):
            screen(source, outputs_in(tmp_path), Wandering(7), shard=(i, 3), block=BLOCK)
    for i in (3, 1, 2):
        screen(source, outputs_in(tmp_path), shard=(i, 3))
    assert_same(tmp_path, uninterrupted)


def test_a_block_is_worked_on_once(uninterrupted, tmp_path) -> None:
    """Of two processes the second takes what the first leaves free."""
    source = uninterrupted / "in.extxyz"
    folder, sources = open_folder(source, outputs_in(tmp_path), block=BLOCK)
    journal = folder.claim(1)
    with journal:
        second = Wandering()
        taken = [
            k
            for k in folder.plan.share(None)
            if not block.run_block(folder, k, sources.read(*folder.plan.span(k)), second)
        ]
        assert taken == [1]
        assert not set(second.begun) & set(range(*folder.plan.span(1)))
        with pytest.raises(ValueError, match="another run is writing"):
            open_folder(source, outputs_in(tmp_path), restart=True)
    screen(source, outputs_in(tmp_path))
    assert_same(tmp_path, uninterrupted)


class Tripping(Wandering):
    """Trips over some structures, in whatever company."""

    def entered(self, key: int, atoms: Atoms) -> None:
        if key in (4, 11):
            raise ZeroDivisionError("nobody foresaw this")


def test_what_nobody_foresaw_costs_one_structure(uninterrupted, tmp_path) -> None:
    for folder, turns in ((tmp_path / "whole", []), (tmp_path / "killed", [5, 20, 35])):
        folder.mkdir()
        for left in turns:
            with pytest.raises(Killed):
                screen(uninterrupted / "in.extxyz", outputs_in(folder), Tripping(left), block=BLOCK)
        screen(uninterrupted / "in.extxyz", outputs_in(folder), Tripping(), block=BLOCK)
    rows = table(tmp_path / "whole" / "out.csv")
    assert [int(r["index"]) for r in rows if r["status"] == "failed"] == [3, 4, 8, 11, 13, 18]
    assert rows[4]["reason"].endswith("frame 4 (Cu): ZeroDivisionError: nobody foresaw this")
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_notes_of_a_relaxer_are_passed_on_once(uninterrupted, tmp_path, caplog) -> None:
    work = Wandering()
    work.notes = ["memory ran out"]
    screen(uninterrupted / "in.extxyz", outputs_in(tmp_path), work)
    assert caplog.messages == ["memory ran out"]


def test_a_snapshot_that_does_not_fit_costs_no_structure(uninterrupted, tmp_path) -> None:
    source = uninterrupted / "in.extxyz"
    with pytest.raises(Killed):
        screen(source, outputs_in(tmp_path), Wandering(5), block=BLOCK)
    folder, _ = open_folder(source, outputs_in(tmp_path))
    folder.save_state(0, {"of": "another version"}, 0)
    screen(source, outputs_in(tmp_path))
    assert_same(tmp_path, uninterrupted)


def test_other_input_or_settings_are_refused(uninterrupted, tmp_path) -> None:
    source, outputs = tmp_path / "in.extxyz", outputs_in(tmp_path)
    source.write_bytes((uninterrupted / "in.extxyz").read_bytes())
    with pytest.raises(Killed):
        screen(source, outputs, Wandering(12), block=BLOCK)
    before = {path: path.read_bytes() for path in (tmp_path / "out.progress").iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(screen.__globals__["IDENTITY"], "fmax", 0.5)
        with pytest.raises(ValueError, match=r"begun with fmax 0\.02, now 0\.5: .*--restart"):
            screen(source, outputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(screen.__globals__["IDENTITY"], "model", "other")
        with pytest.raises(ValueError, match="begun with another model"):
            screen(source, outputs)
    with pytest.raises(ValueError, match="begun with block 8, now 9"):
        screen(source, outputs, block=9)
    ase.io.write(source, sheet(), append=True)
    with pytest.raises(ValueError, match="begun with another input"):
        screen(source, outputs)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out.progress").iterdir()}
    assert screen(source, outputs, restart=True).n_rows == TOTAL + 1


def test_foreign_files_are_not_written_over(uninterrupted, tmp_path) -> None:
    source, outputs = uninterrupted / "in.extxyz", outputs_in(tmp_path)
    for path in outputs.paths:
        path.write_text("precious")
        with pytest.raises(ValueError, match=rf"{path.name} exists and belongs to no run.*restart"):
            screen(source, outputs)
        assert path.read_text() == "precious"
        path.unlink()
    (tmp_path / "out.progress").mkdir()
    for other in (
        "[1, 2]",
        "{}",
        '{"identity": {"model": 1}, "plan": ["to rest"], "measured": {}}',
    ):
        (tmp_path / "out.progress" / "run.json").write_text(other)
        with pytest.raises(ValueError, match=r"out\.progress is no folder of a relaxation"):
            screen(source, outputs)
    screen(source, outputs, restart=True, block=BLOCK)
    outputs.table.write_text("edited by hand")
    with pytest.raises(ValueError, match=r"out\.csv exists and is not what this run wrote"):
        screen(source, outputs)
    assert outputs.table.read_text() == "edited by hand"
    outputs.table.unlink()
    screen(source, outputs, Wandering(0))
    assert_same(tmp_path, uninterrupted)


def test_a_restart_leaves_the_old_files_until_there_are_new(uninterrupted, tmp_path) -> None:
    source, outputs = uninterrupted / "in.extxyz", outputs_in(tmp_path)
    outputs.table.write_text("old")
    with pytest.raises(Killed):
        screen(source, outputs, Wandering(3), restart=True, block=BLOCK)
    assert outputs.table.read_text() == "old"
    screen(source, outputs)
    assert_same(tmp_path, uninterrupted)


def test_killed_while_the_outputs_are_written(uninterrupted, tmp_path, monkeypatch) -> None:
    source, outputs = uninterrupted / "in.extxyz", outputs_in(tmp_path)
    replace = os.replace
    for kill in (outputs.frames, outputs.table):

        def killed(new, old, last=kill) -> None:
            if Path(old) == last:
                raise Killed
            replace(new, old)

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            screen(source, outputs, block=BLOCK)
    monkeypatch.setattr(os, "replace", replace)
    screen(source, outputs, Wandering(0))
    assert_same(tmp_path, uninterrupted)


def test_a_full_disk_is_one_sentence(uninterrupted, tmp_path, monkeypatch) -> None:
    source, outputs = uninterrupted / "in.extxyz", outputs_in(tmp_path)
    whole, records = Journal.add, []

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def write(self, data: bytes) -> None:
            self.file.write(data[:20])
            self.file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name):
            return getattr(self.file, name)

    def full(self, record) -> None:
        records.append(record)
        if len(records) == 6:
            self._file = Full(self._file)
        whole(self, record)

    monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(OSError, match=r"block-00000\.jsonl could not be written \(No space left"):
        screen(source, outputs, block=BLOCK)
    monkeypatch.setattr(Journal, "add", whole)
    assert len(list(records_in(tmp_path / "out.progress" / "block-00000.jsonl"))) == 5
    screen(source, outputs)
    assert_same(tmp_path, uninterrupted)


def test_what_an_earlier_relaxation_or_a_database_left_does_no_harm() -> None:
    atoms = sheet()
    atoms.info |= {
        "relax_reason": "not converged after 2 steps",
        "note": "two\nlines",
        "empty": "",
        "kept": 'a "quoted" = text',
        "energy": 5.0,
    }
    atoms.arrays["forces"] = atoms.positions + 1.0
    frame = relaxed(Found(3, "a.traj", 1, atoms), result_of(atoms, -1.5, 2)).frame
    (read,) = ase.io.read(StringIO(frame), ":", format="extxyz")
    assert (read.info["relax_status"], read.info["relax_index"]) == ("converged", 3)
    assert "relax_reason" not in read.info
    assert (read.info["note"], read.info["kept"]) == ("two lines", 'a "quoted" = text')
    assert read.get_potential_energy() == -1.5
    assert not read.get_forces().any()


@pytest.mark.parametrize(("name", "content"), [("label", "A 1"), ("object", object())])
def test_entries_that_no_file_can_hold_are_left_out(name, content) -> None:
    atoms = sheet()
    atoms.info["odd"] = {1: {2, 3}}
    atoms.arrays[name] = np.array([content])
    record = relaxed(Found(0, "a.traj", 0, atoms), result_of(atoms, -1.5, 2))
    assert json.loads(record.as_json())["row"]["status"] == "converged"
    read = ase.io.read(StringIO(record.frame), format="extxyz")
    assert read.info["relax_status"] == "converged"
    assert "left out" in read.info["relax_note"]
    assert read.get_potential_energy() == -1.5


@pytest.mark.slow
def test_kill_9(capsys) -> None:
    """The real program with the shipped model, killed as no handler can see."""
    options = ["--structures", "30", "--kills", "3", "--seed", "1"]
    assert killed_screen.main([*options, "--", "--threads", "1", "--block", "10"]) == 0
    assert capsys.readouterr().out.count("the same to the byte") == 2
