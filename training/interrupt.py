"""Stopping a run in good order: on SIGINT, SIGTERM, or when its time is up."""

from __future__ import annotations

import signal
import time

from mlff2d import interrupt

from .distributed import largest

# What a process has to say; of several the largest, a signal's number, counts.
_NOTHING, _TIME_IS_UP = -1, 0


class StopRequest(interrupt.StopRequest):
    """Context that turns signals and a time limit into a question asked between two steps.

    Of several processes, which must all ask, it is enough that one is to stop.
    """

    def __init__(self, max_minutes: float | None) -> None:
        super().__init__()
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes

    @property
    def reason(self) -> str | None:
        """Why to stop now, or None; the same in all processes."""
        is_late = self._deadline is not None and time.monotonic() > self._deadline
        agreed = int(largest(self.signal or (_TIME_IS_UP if is_late else _NOTHING)))
        if agreed == _NOTHING:
            return None
        if agreed == _TIME_IS_UP:
            return "train.max_minutes is up"
        self.signal = agreed
        return f"stopped by {signal.Signals(agreed).name}"
