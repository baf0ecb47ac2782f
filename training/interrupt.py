"""Stopping a run in good order: on SIGINT, SIGTERM, or when its time is up."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType

from .distributed import largest

# What a process has to say; of several the largest, a signal's number, counts.
_NOTHING, _TIME_IS_UP = -1, 0


class StopRequest:
    """Context that turns signals and a time limit into a question asked between two steps.

    Of several processes, which must all ask, it is enough that one is to stop. A second SIGINT is
    not caught, so that a hanging run can still be ended by hand.
    """

    def __init__(self, max_minutes: float | None) -> None:
        self.signal: int | None = None
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: whoever runs it handles its signals
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

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
