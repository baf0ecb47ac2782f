"""A target temperature that changes evenly with the step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """From `start` K at step 0 to `end` K at step `steps`, constant before and behind.

    Steps below 0 are those of an equilibration.
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        """The target in K."""
        share = min(max(step / self.steps, 0.0), 1.0) if self.steps else 1.0
        return self.start + share * (self.end - self.start)

    @property
    def is_flat(self) -> bool:
        """Whether the target never changes."""
        return self.start == self.end


def parse_temperature(text: str) -> tuple[float, float]:
    """The two ends in K of "300:600"; of "300" twice the same.

    Raises ValueError where it is neither, or below zero.
    """
    parts = text.split(":")
    try:
        ends = [float(part) for part in parts]
    except ValueError:
        ends = []
    if not 1 <= len(ends) <= 2 or not all(math.isfinite(t) and t >= 0 for t in ends):
        raise ValueError(f"{text!r} is no temperature in K, such as 300, or 300:600 for a ramp")
    return ends[0], ends[-1]
