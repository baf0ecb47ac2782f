"""The estimate of the remaining time, and what is shown where there is no terminal."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from mlff2d.md.screen.progress import Estimate, ScreenProgress, duration
from mlff2d.md.screen.row import Record, Row
from mlff2d.md.screen.summary import Summary

RECORD = Record(Row("0", "a.extxyz", "0", "Cu", "converged", steps="3"), "")


def simulated(lengths: np.ndarray, width: int, tick: float) -> list[tuple[float, float | None]]:
    """Relaxations of so many steps each, `width` at a time: the time and the estimate of the end
    after each step."""
    estimate, waiting, flight = Estimate(len(lengths), 1000), list(lengths), []
    now, said = 0.0, []
    estimate.add(0, 0, now)
    while waiting or flight:
        while waiting and len(flight) < width:
            flight.append(waiting.pop(0))
        now += tick * len(flight)
        steps = len(flight)
        flight = [left - 1 for left in flight]
        finished = sum(left == 0 for left in flight)
        flight = [left for left in flight if left]
        estimate.add(finished, steps, now)
        seconds = estimate.seconds(now)
        said.append((now, None if seconds is None else now + seconds))
    return said


@pytest.mark.parametrize(("spread", "from_"), [(0.3, 0.25), (0.8, 0.1), (1.2, 0.1)])
def test_the_estimate_is_honest(spread, from_) -> None:
    """Right within a third: early where lengths differ much, later where all end together."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.0, spread, 600), 1, 1000).astype(int)
    said = simulated(lengths, width=60, tick=0.01)
    end = said[-1][0]
    later = [guess for now, guess in said if now > from_ * end]
    assert None not in later
    assert max(abs(guess / end - 1) for guess in later) < 0.34


def test_the_quick_ones_alone_would_lie() -> None:
    """What finished structures took, times how many there are, says far too little early on."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(1, rng.lognormal(4.0, 0.8, 600)).astype(int)
    order = np.sort(lengths[:60])[:6]  # the first to finish of those that began
    naive = order.mean() * len(lengths) * 0.01
    assert naive < 0.5 * lengths.sum() * 0.01


def test_nothing_is_said_before_something_is_known() -> None:
    estimate = Estimate(100, 1000)
    estimate.add(0, 0, 0.0)
    estimate.add(0, 500, 10.0)
    assert estimate.seconds(10.0) is None
    estimate.add(5, 500, 20.0)
    assert estimate.seconds(20.0) == pytest.approx(95 * 200 / 50)
    estimate.add(95, 0, 21.0)
    assert estimate.seconds(21.0) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.2, "3 s"), (89, "89 s"), (91, "2 min"), (3000, "50 min"), (9000, "2.5 h"), (2e5, "2.3 d")],
)
def test_durations(seconds, text) -> None:
    assert duration(seconds) == text


def test_a_line_a_minute_without_a_terminal() -> None:
    text, time = StringIO(), [0.0]
    console = Console(file=text, width=200)
    with ScreenProgress(40, 10, 1000, console, clock=lambda: time[0]) as progress:
        for _ in range(20):
            time[0] += 10.0
            progress.update([RECORD], 8)
    lines = text.getvalue().splitlines()
    assert lines[0] == "10 of 40 structures are finished already; going on."
    assert lines[1:-1] == [
        "relaxing: 16/40 after 60 s, about 4 min left",
        "relaxing: 22/40 after 2 min, about 3 min left",
        "relaxing: 28/40 after 3 min, about 2 min left",
    ]
    assert lines[-1].startswith("relaxing: 30/40 after 3 min")


def test_the_summary_says_what_a_status_means(tmp_path, capsys) -> None:
    summary = Summary()
    for k in range(12):
        summary.add(Row(str(k), "a.extxyz", str(k), "Cu", reason=f"frame {k} [0, 0] is bad"))
    areas = {"area_before": "5.0", "area_after": "5.1", "lattice_changed": "True"}
    summary.add(Row("12", "a.extxyz", "12", "Cu", "rebuilt", "a bond broke", "7", **areas))
    summary.print([tmp_path / "out.extxyz", tmp_path / "out.csv"])
    printed = capsys.readouterr().out
    for words in (
        "13 structures",
        "2.00 %",
        "92.3 %",
        "failed:     the relaxation could not begin",
        "rebuilt:",
        "frame 9 [0, 0] is bad",
        "and 3 more, see the table",
        "Lattice type changed in 1 of 13",
        "out.csv",
    ):
        assert words in printed
