"""What composition alone explains: ridge regression, judged on materials that it was not fitted on.

Axes: S structures, C compositions, Z elements, P features, K folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from ..data.splits import uniform_of
from .population import Population

Array = NDArray[np.float64]

N_FOLDS = 5
STRENGTHS = (1e-3, 1e-1, 1e1)
"""Of the ridge, for features that are shares of elements and products of them."""


def composition_regression(
    judged: Population, values: Array, train: Population | None = None, known: Array | None = None
) -> Array:
    """(S,) values of the judged structures, predicted from their compositions alone.

    Ridge regression on the shares x_i of the elements and their products 2 x_i x_j. With a training
    part and its `known` values it is fitted there, else by cross-validation in five folds of
    materials: each structure is predicted by a fit to other materials. How strong the ridge is
    comes from a fold of the fitted structures held back. NaN throughout where nothing can be
    fitted: a single material, or no value.
    """
    if train is not None and known is not None and np.isfinite(known).any():
        n_judged = len(judged.compositions)
        features = _features(
            np.concatenate([judged.compositions.fractions, train.compositions.fractions])
        )
        model = _fit_best(features, _tally(train, known, n_judged, features.shape[0]))
        return model.predict(features)[judged.compositions.of]
    features = _features(judged.compositions.fractions)
    tally = _tally(judged, values, 0, features.shape[0])
    predicted = np.full(len(judged), np.nan)
    folds = _folds(judged)
    for fold in range(N_FOLDS):
        others = [k for k in range(N_FOLDS) if k != fold]
        inside = folds == fold
        if inside.any() and tally.weights[others].any():
            model = _fit_best(features, tally.only(others))
            predicted[inside] = model.predict(features)[judged.compositions.of[inside]]
    return predicted


@dataclass(frozen=True)
class _Tally:
    """Structures by fold and composition.

    Attributes
    ----------
    weights : (K, C) number of structures
    sums : (K, C) sum of their values
    """

    weights: Array
    sums: Array

    def only(self, folds: list[int]) -> _Tally:
        return _Tally(self.weights[folds], self.sums[folds])


@dataclass(frozen=True)
class _Ridge:
    mean: float
    weights: Array  # (P,)

    def predict(self, features: sparse.csr_array) -> Array:
        return np.asarray(self.mean + features @ self.weights)


def _features(fractions: Array) -> sparse.csr_array:
    """(C, P) shares of the elements and their products, without columns that are zero."""
    shares = sparse.csr_array(fractions)
    n_elements = fractions.shape[1]
    rows, columns, values = [], [], []
    for row in range(shares.shape[0]):
        inside = slice(shares.indptr[row], shares.indptr[row + 1])
        element, x = shares.indices[inside].astype(np.int64), shares.data[inside]
        first, second = np.triu_indices(len(element), 1)
        columns += [element, (element[first] + 1) * n_elements + element[second]]
        values += [x, 2 * x[first] * x[second]]
        rows += [row] * (len(element) + len(first))
    _, column = np.unique(np.concatenate(columns), return_inverse=True)
    return sparse.csr_array((np.concatenate(values), (rows, column)))


def _folds(population: Population) -> NDArray[np.int64]:
    """(S,) fold of each structure, that of its material; folds are of nearly equal size."""
    materials = population.materials
    order = np.argsort([uniform_of(name, N_FOLDS) for name in materials.names], kind="stable")
    fold = np.empty(len(order), dtype=np.int64)
    fold[order] = np.arange(len(order)) % N_FOLDS
    return fold[materials.codes]


def _tally(population: Population, values: Array, first: int, n: int) -> _Tally:
    """Of the structures with a value; their compositions are rows of the features from `first`."""
    finite = np.isfinite(values)
    cell = _folds(population)[finite] * n + first + population.compositions.of[finite]
    weights = np.bincount(cell, minlength=N_FOLDS * n).astype(np.float64)
    sums = np.bincount(cell, values[finite], minlength=N_FOLDS * n).astype(np.float64)
    return _Tally(weights.reshape(N_FOLDS, n), sums.reshape(N_FOLDS, n))


def _fit_best(features: sparse.csr_array, tally: _Tally) -> _Ridge:
    """The ridge with the strength that is best for one fold, fitted to all of them."""
    used = np.flatnonzero(tally.weights.any(1)).tolist()
    strength = STRENGTHS[1]
    if len(used) > 1:
        rest, held = tally.only(used[1:]), tally.only(used[:1])
        costs = [_cost(_fit(features, rest, s).predict(features), held) for s in STRENGTHS]
        strength = STRENGTHS[int(np.argmin(costs))]
    return _fit(features, tally, strength)


def _fit(features: sparse.csr_array, tally: _Tally, strength: float) -> _Ridge:
    weights, sums = tally.weights.sum(0), tally.sums.sum(0)
    mean = float(sums.sum() / weights.sum())
    normal = (features.T @ sparse.diags_array(weights) @ features).toarray()
    normal[np.diag_indices_from(normal)] += strength
    right = features.T @ (sums - mean * weights)
    return _Ridge(mean, linalg.solve(normal, right, assume_a="pos"))


def _cost(predicted: Array, tally: _Tally) -> float:
    """Sum of squared errors but for a constant."""
    weights, sums = tally.weights.sum(0), tally.sums.sum(0)
    return float((weights * predicted**2 - 2 * sums * predicted).sum())
