"""Screens where several processes are at work on one run folder at the same moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlff2d.md.screen import spread as spreading
from mlff2d.md.screen.block import run_block
from mlff2d.md.screen.compose import compose
from mlff2d.md.screen.journal import records_in
from mlff2d.md.screen.run_folder import RunFolder
from tests.screens import (
    IDENTITY,
    Killed,
    Wandering,
    assert_same,
    open_folder,
    outputs_in,
    screen,
    write_sheets,
)

TOTAL, BLOCK = 11, 4


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """A folder with an input, and what one run makes of it."""
    folder = tmp_path_factory.mktemp("run")
    screen(write_sheets(folder / "in.extxyz", TOTAL), outputs_in(folder), block=BLOCK)
    return folder


def test_two_that_begin_at_once(uninterrupted, tmp_path, monkeypatch) -> None:
    """While the first writes the first of its files, another does all of the work."""
    source, outputs, replace = uninterrupted / "in.extxyz", outputs_in(tmp_path), os.replace

    def late(new, old) -> None:
        monkeypatch.setattr(os, "replace", replace)
        screen(source, outputs, block=BLOCK)
        replace(new, old)

    monkeypatch.setattr(os, "replace", late)
    screen(source, outputs, Wandering(0), block=BLOCK)
    assert_same(tmp_path, uninterrupted)
    assert not list((tmp_path / "out.progress").glob("new-*"))


def test_a_restart_between_two_blocks_of_another(uninterrupted, tmp_path) -> None:
    source, outputs = uninterrupted / "in.extxyz", outputs_in(tmp_path)
    folder, _ = open_folder(source, outputs, block=BLOCK)
    with folder.at_work(), folder.at_work():  # two may be at work, here on no block
        with pytest.raises(ValueError, match="another run is writing"):
            open_folder(source, outputs, restart=True)
        assert (folder.path / "run.json").exists()
    screen(source, outputs, restart=True, block=BLOCK)
    assert_same(tmp_path, uninterrupted)


def test_a_restart_before_another_sets_to_work(uninterrupted, tmp_path, monkeypatch) -> None:
    """It would mix results of its settings with those of the restart."""
    source, outputs = uninterrupted / "in.extxyz", outputs_in(tmp_path)
    early, _ = open_folder(source, outputs, block=BLOCK)
    monkeypatch.setitem(IDENTITY, "fmax", 0.5)
    open_folder(source, outputs, restart=True, block=BLOCK)
    with pytest.raises(ValueError, match="another run is writing"), early.at_work():
        pass


def test_more_is_finished_while_the_outputs_are_written(uninterrupted, tmp_path, monkeypatch):
    source, outputs = uninterrupted / "in.extxyz", outputs_in(tmp_path)
    with pytest.raises(Killed):
        screen(source, outputs, Wandering(8), block=BLOCK)
    folder, _ = open_folder(source, outputs)
    count = RunFolder.refuse_foreign

    def meanwhile(self, paths) -> None:
        count(self, paths)
        monkeypatch.undo()
        run = Wandering()
        for k in folder.plan.share(None):
            first, last = folder.plan.span(k)
            sources = open_folder(source, outputs)[1]
            run_block(folder, k, sources.read(first, last), run)

    monkeypatch.setattr(RunFolder, "refuse_foreign", meanwhile)
    assert compose(folder, outputs).n_rows == TOTAL, "as many as the files hold"
    assert_same(tmp_path, uninterrupted)


def test_a_journal_that_two_have_written(uninterrupted, tmp_path) -> None:
    """As on a file system without locks."""
    source, outputs = uninterrupted / "in.extxyz", outputs_in(tmp_path)
    with pytest.raises(Killed):
        screen(source, outputs, Wandering(8), block=BLOCK)
    journal = tmp_path / "out.progress" / "block-00000.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] * (BLOCK - len(lines) + 1) + b"".join(lines[1:]))
    assert len(list(records_in(journal))) == BLOCK
    folder, _ = open_folder(source, outputs)
    assert not folder.is_done(0)
    screen(source, outputs)
    assert_same(tmp_path, uninterrupted)


def test_a_line_that_is_being_written_is_read_when_it_is_whole(uninterrupted, tmp_path) -> None:
    folder, _ = open_folder(uninterrupted / "in.extxyz", outputs_in(tmp_path), block=BLOCK)
    whole = uninterrupted / "out.progress" / "block-00000.jsonl"
    lines = whole.read_bytes().splitlines(keepends=True)
    tail = spreading._Tail(folder, 0)
    with folder.journal(0).open("ab", buffering=0) as file:
        file.write(lines[0] + lines[1][:-1])  # but for its end
        assert len(tail.records()) == 1
        file.write(lines[1][-1:] + lines[2])
        assert len(tail.records()) == 2
        assert not tail.records()
