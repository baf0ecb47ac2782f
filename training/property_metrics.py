"""Figures of a predicted property: errors and correlations. Axis: S structures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class PropertyMetrics(Metrics):
    """Errors over a part of the data; NaN where there is nothing to judge.

    Attributes
    ----------
    mae, rmse : mean absolute error and root mean square error, in the property's unit
    r2 : one minus the mean square error over the variance of the values
    spearman : rank correlation; NaN where all predictions, or all values, are equal
    """

    mae: float
    rmse: float
    r2: float
    spearman: float


def property_metrics(
    predicted: NDArray[np.float64], true: NDArray[np.float64], loss: float
) -> PropertyMetrics:
    """The figures of predictions (S,) of true values (S,); `loss` as in training."""
    error = predicted - true
    mse, variance = float((error**2).mean()), float(true.var())
    return PropertyMetrics(
        mae=float(np.abs(error).mean()),
        rmse=mse**0.5,
        r2=1 - mse / variance if variance > 0 else np.nan,
        spearman=spearman(predicted, true),
        loss=loss,
    )


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation, equal values sharing the mean of their ranks; NaN if all are."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if not (ranks_a.std() > 0 and ranks_b.std() > 0):
        return float("nan")
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    mean: NDArray[np.float64] = (below + (counts - 1) / 2)[place]
    return mean
