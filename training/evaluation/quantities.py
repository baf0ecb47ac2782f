"""Quantities that a model predicts, beside what is true, for whoever judges or draws them.

Axes: V values, S structures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..property_metrics import spearman

Values = NDArray[np.floating]


@dataclass(frozen=True)
class Quantity:
    """True and predicted values of one quantity in the unit that it is shown in.

    Attributes
    ----------
    key : for names of files, e.g. "energy"
    name, unit : for titles, e.g. "Energy" and "meV/atom"
    digits : decimals in tables
    true : (V,)
    predicted : (V,) by method; a model by its name, or a baseline
    baselines : the methods that are baselines
    owner : (V,) place of the structure that a value belongs to in its `Population`
    element : (V,) atomic number of the atom that a value belongs to; None for those of structures
    """

    key: str
    name: str
    unit: str
    digits: int
    true: Values
    predicted: Mapping[str, Values]
    baselines: tuple[str, ...]
    owner: NDArray[np.integer]
    element: NDArray[np.uint8] | None = None

    @property
    def models(self) -> list[str]:
        """The methods that are no baselines, the model that is judged first."""
        return [method for method in self.predicted if method not in self.baselines]

    @property
    def label(self) -> str:
        """Name with unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def error(self, method: str) -> Values:
        """(V,) predicted minus true."""
        return self.predicted[method] - self.true


@dataclass(frozen=True)
class Scores:
    """Figures of merit; NaN where they have no meaning.

    Attributes
    ----------
    n : number of values
    mae, median, rmse : mean and median absolute error, root mean square error
    bias : mean of predicted minus true
    r2 : one minus the mean square error over the variance of the true values
    spearman : rank correlation; NaN where all values of one side are equal
    """

    n: int
    mae: float
    median: float
    rmse: float
    bias: float
    r2: float
    spearman: float


def scores(true: NDArray[np.floating], predicted: NDArray[np.floating]) -> Scores:
    """The figures of merit of (V,) predicted for (V,) true values."""
    if len(true) == 0:
        return Scores(0, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan)
    a, b = true.astype(np.float64), predicted.astype(np.float64)
    error = b - a
    mse, variance = float((error**2).mean()), float(a.var())
    return Scores(
        n=len(true),
        mae=float(np.abs(error).mean()),
        median=float(np.median(np.abs(error))),
        rmse=mse**0.5,
        bias=float(error.mean()),
        r2=1 - mse / variance if variance > 0 else float("nan"),
        spearman=spearman(b, a),
    )


MIN_FORCE = 50.0
"""meV/Å. The direction of a force smaller than this is not judged: it is mostly noise."""


@dataclass(frozen=True)
class Directions:
    """How predicted forces lie to the true ones.

    Attributes
    ----------
    n : atoms whose true force is at least `MIN_FORCE`; the following are of these
    mean_angle : between the two, in degrees, each atom weighted by its true force
    median_angle : of the atoms, unweighted
    cosine : mean, each atom weighted by its true force
    ratio : median of predicted over true magnitude
    slope : of predicted on true components through the origin, over all atoms; below one the
        potential is too soft
    """

    n: int
    mean_angle: float
    median_angle: float
    cosine: float
    ratio: float
    slope: float


def directions(true: Values, predicted: Values) -> Directions:
    """See `Directions`; forces (N, 3) in meV/Å."""
    size, cosine, ratio = compare_vectors(true, predicted)
    square = float((true.astype(np.float64) ** 2).sum())
    slope = float((true.astype(np.float64) * predicted).sum()) / square if square else np.nan
    if len(size) == 0:
        return Directions(0, np.nan, np.nan, np.nan, np.nan, slope)
    angle = np.degrees(np.arccos(cosine))
    return Directions(
        n=len(size),
        mean_angle=float(np.average(angle, weights=size)),
        median_angle=float(np.median(angle)),
        cosine=float(np.average(cosine, weights=size)),
        ratio=float(np.median(ratio)),
        slope=slope,
    )


def compare_vectors(true: Values, predicted: Values) -> tuple[Values, Values, Values]:
    """True magnitude, cosine and ratio of magnitudes of the forces of at least `MIN_FORCE`.

    Where a model predicts no force at all the cosine is zero: any direction is as good.
    """
    size = np.linalg.norm(true.astype(np.float64), axis=1)
    large = size >= MIN_FORCE
    size, true, predicted = size[large], true[large], predicted[large].astype(np.float64)
    length = np.linalg.norm(predicted, axis=1)
    product = (true * predicted).sum(1)
    cosine = np.divide(product, size * length, out=np.zeros_like(product), where=length > 0)
    return size, np.clip(cosine, -1, 1), length / size
