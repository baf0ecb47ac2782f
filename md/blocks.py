"""Errors of means of numbers that follow each other in time, and so depend on each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEWEST_BLOCKS = 8
"""Means of fewer blocks say too little of how they scatter."""


def block_error(values: NDArray[np.floating]) -> float:
    """Standard error of the mean of a series (T,), NaN where it is too short to tell.

    Neighbours are averaged two by two again and again, until their means no longer depend on each
    other; the error that they seem to have grows until then (Flyvbjerg and Petersen, J. Chem. Phys.
    91, 461 (1989)). Taken is the largest of at least `FEWEST_BLOCKS` blocks.
    """
    series = np.asarray(values, dtype=float)
    largest = np.nan
    while len(series) >= FEWEST_BLOCKS:
        largest = np.fmax(largest, series.std(ddof=1) / np.sqrt(len(series)))
        even = len(series) // 2 * 2
        series = series[:even].reshape(-1, 2).mean(1)
    return float(largest)
