"""Bars on a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from mlff2d.training import console as module
from mlff2d.training.console import bars, watched


def test_bars_within_bars_are_on_one_display(monkeypatch: pytest.MonkeyPatch) -> None:
    outside, inside = (Console(file=StringIO(), force_terminal=True) for _ in range(2))
    monkeypatch.setattr(module, "make_console", lambda: inside)
    with bars(outside) as progress:
        progress.add_task("outer", total=2)
        assert list(watched([1, 2], "inner")) == [1, 2]
        for _ in watched([1], "inner"):
            assert [task.description for task in progress.tasks] == ["outer", "inner"]
        assert [task.description for task in progress.tasks] == ["outer"]
    assert inside.file.getvalue() == ""
    assert "outer" in outside.file.getvalue()
    assert list(watched([1, 2], "alone")) == [1, 2]
    assert "alone" in inside.file.getvalue()


def test_there_are_no_bars_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Console(file=StringIO())
    monkeypatch.setattr(module, "make_console", lambda: quiet)
    assert list(watched([1, 2], "alone", 2)) == [1, 2]
    assert quiet.file.getvalue() == ""
