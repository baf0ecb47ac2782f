"""Cluster expansions of formation energies, fitted to the configurations of one alloy alone.

    E_f = sum over clusters of J times the mean of its cluster functions

(Sanchez, Ducastelle and Gratias, Physica A 128, 334, 1984), by icet (Angqvist et al., Adv. Theory
Simul. 2, 1900015, 2019) and trainstation. Formation energies of end members are zero by definition,
so the fit is among parameters with which they are: each cluster of two sites and more enters as its
function less the interpolation of that between the end members. That is the space of icet's
`get_mixing_energy_constraints` in a basis in which each cluster keeps a parameter of its own,
without which a sparse fit would mean nothing.

Axes: M mixtures, P parameters of icet, Q free ones, S species.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from .config import ExpansionConfig
from .formation import dft_formation
from .method import Answer, Answers, Method, Task
from .system import Configuration, Lattice, System, in_bulk

Array = NDArray[np.float64]
Cutoffs = tuple[float, ...]

FITS = {"ols": "least-squares", "ridge": "ridge", "lasso": "lasso", "ardr": "ardr"}
"""What trainstation calls each kind."""

TIE = 1e-9
"""eV per shared site: of cutoffs whose errors differ by less, those with fewer parameters."""


class Clusters:
    """The clusters of a lattice up to some cutoffs, which are in lattice constants."""

    def __init__(self, lattice: Lattice, cutoffs: Cutoffs) -> None:
        from icet import ClusterSpace

        reach = [lattice.a * cutoff for cutoff in cutoffs]
        self.space = ClusterSpace(lattice.bulk, reach, lattice.species)
        self._rows: dict[tuple[bytes, ...], Array] = {}

    @cached_property
    def basis(self) -> Array:
        """(P, Q) parameters of icet for each free one, none of which moves an end member."""
        from icet.tools import get_mixing_energy_constraints
        from scipy.linalg import null_space

        ends = get_mixing_energy_constraints(self.space).M
        orders = np.array([one["order"] for one in self.space.as_list])
        few, many = np.flatnonzero(orders < 2), np.flatnonzero(orders >= 2)
        # Constant and single sites alone; with one kind of shared site nothing of them is free.
        alone = null_space(ends[:, few])
        basis = np.zeros((len(orders), alone.shape[1] + len(many)))
        basis[few, : alone.shape[1]] = alone
        basis[many, alone.shape[1] + np.arange(len(many))] = 1.0
        basis[few, alone.shape[1] :] = -np.linalg.pinv(ends[:, few]) @ ends[:, many]
        return basis

    def row(self, ideal: Atoms) -> Array:
        """(Q,) of an arrangement, whose product with the free parameters is its energy."""
        key = (ideal.numbers.tobytes(), ideal.positions.tobytes(), ideal.cell.array.tobytes())
        if key not in self._rows:
            self._rows[key] = self.space.get_cluster_vector(in_bulk(ideal)) @ self.basis
        return self._rows[key]

    def rows(self, configurations: Sequence[Configuration]) -> Array:
        """(M, Q) of several."""
        return np.array([self.row(one.ideal) for one in configurations]).reshape(
            -1, self.basis.shape[1]
        )


_KNOWN: WeakKeyDictionary[Lattice, dict[Cutoffs, Clusters]] = WeakKeyDictionary()


def clusters(lattice: Lattice, cutoffs: Cutoffs) -> Clusters:
    """The same object for the same lattice and cutoffs: splits and methods share its rows."""
    known = _KNOWN.setdefault(lattice, {})
    if cutoffs not in known:
        known[cutoffs] = Clusters(lattice, cutoffs)
    return known[cutoffs]


@dataclass(frozen=True)
class Fitted:
    """A cluster expansion of the formation energies of an alloy.

    Attributes
    ----------
    expansion : icet's ClusterExpansion; its property is the formation energy in eV per atom of the
        cell, all atoms counted, which mchammer's calculator wants
    sites_per_atom : shared sites in an atom; a third in MX2
    cutoffs : chosen, in lattice constants
    n_parameters : free parameters that are not zero
    cv_rmse : eV per shared site, by cross-validation over the training mixtures; NaN with one alone
    tried : by cutoffs that could be fitted the error of cross-validation, eV per shared site
    """

    expansion: Any
    sites_per_atom: float
    cutoffs: Cutoffs
    n_parameters: int
    cv_rmse: float
    tried: dict[Cutoffs, float]

    def predict(self, ideal: Atoms) -> float:
        """Formation energy in eV per shared site of an arrangement on the parent's sites."""
        return float(self.expansion.predict(in_bulk(ideal))) / self.sites_per_atom


def fit(
    system: System,
    train: Sequence[Configuration],
    config: ExpansionConfig,
    kind: str,
    seed: int,
) -> Fitted:
    """Fit a cluster expansion with the cutoffs of least error in cross-validation within `train`.

    Parameters
    ----------
    train : configurations of the system with DFT results, end members among them
    kind : ols, ridge, lasso or ardr
    seed : of the folds

    Least squares passes over cutoffs with a parameter that the mixtures of some fold do not
    determine. Raises ValueError where there is no mixture or none of the cutoffs can be fitted.
    """
    from icet import ClusterExpansion

    energies = dft_formation(train)
    if np.isnan(energies).any():
        raise ValueError(
            f"{system.name}: a cluster expansion needs the DFT energy of all end members"
        )
    mixed = [k for k, one in enumerate(train) if one.end_member is None]
    target = energies[mixed]
    mixtures = [train[k] for k in mixed]
    folds = folds_of(len(mixed), config.folds, seed)
    tried: dict[Cutoffs, float] = {}
    for cutoffs in config.cutoffs:
        rows = clusters(system.lattice, cutoffs).rows(mixtures)
        if _can_be_fitted(rows, folds, kind):
            tried[cutoffs] = _cv_rmse(rows, target, folds, kind)
    if not tried:
        raise ValueError(
            f"{system.name}: a cluster expansion with none of expansion.cutoffs can be fitted by "
            f"{FITS[kind]} to the mixtures with DFT results here, {len(mixed)} in number; give "
            "more of them, or shorter cutoffs"
        )
    best = _best(system.lattice, tried)
    chosen = clusters(system.lattice, best)
    free = _solve(chosen.rows(mixtures), target, kind)
    per_atom = float(system.lattice.shared_mask.mean())
    expansion = ClusterExpansion(chosen.space, chosen.basis @ free * per_atom)
    n_parameters = int(np.count_nonzero(free))
    return Fitted(expansion, per_atom, best, n_parameters, tried[best], tried)


def _best(lattice: Lattice, tried: dict[Cutoffs, float]) -> Cutoffs:
    least = np.nanmin([*tried.values(), np.inf])
    equal = [one for one, error in tried.items() if not error > least + TIE]
    return min(equal, key=lambda one: clusters(lattice, one).basis.shape[1])


Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


def folds_of(n: int, wanted: int, seed: int) -> list[Fold]:
    """Places to fit to and to judge on, each judged once; leave-one-out with few, none with one."""
    if n < 2:
        return []
    order = np.random.default_rng(seed).permutation(n)
    parts = np.array_split(order, min(wanted, n))
    return [(np.setdiff1d(order, held), held) for held in parts]


def _can_be_fitted(rows: Array, folds: Sequence[Fold], kind: str) -> bool:
    parts = [rows, *(rows[kept] for kept, _ in folds)]
    fewest = min(len(part) for part in parts)
    if kind == "ols":
        return fewest > 0 and all(
            np.linalg.matrix_rank(part, tol=1e-6) == rows.shape[1] for part in parts
        )
    # LASSO chooses its penalty by cross-validation of its own, ARDR from a variance.
    return fewest >= (1 if kind == "ridge" else 2)


def _cv_rmse(rows: Array, target: Array, folds: Sequence[Fold], kind: str) -> float:
    """eV per shared site over all that is held out; NaN without folds."""
    missed = [
        rows[held] @ _solve(rows[kept], target[kept], kind) - target[held] for kept, held in folds
    ]
    return float(np.sqrt(np.mean(np.concatenate(missed) ** 2))) if missed else np.nan


def _solve(rows: Array, target: Array, kind: str) -> Array:
    """(Q,) free parameters. Columns and energies are brought to a root mean square of one first."""
    from trainstation import fit as fit_linear

    columns = np.sqrt((rows**2).mean(0))
    columns[columns < 1e-9] = 1.0
    scale = np.sqrt((target**2).mean()) or 1.0
    extra: dict[str, Any] = {}
    if kind == "ridge":
        extra = {"alphas": np.logspace(-8, 2, 21)}
    if kind == "lasso":
        extra = {
            "alphas": np.logspace(-4, 0, 9),
            "cv": folds_of(len(rows), 5, 0),
            "max_iter": 10_000,
            "tol": 1e-8,
            "n_jobs": 1,
        }
    found = fit_linear(
        rows / columns,
        target / scale,
        FITS[kind],
        standardize=False,
        check_condition=False,
        **extra,
    )
    return np.asarray(found["parameters"]) / columns * scale


def method(kind: str) -> Method:
    """Cluster expansions of each system by itself: ols, ridge, lasso, ardr, or all.

    "all" is least squares on what DFT has relaxed of `Task.asked` too, held-out configurations
    among them: not a prediction, but what is often printed beside predictions.
    """

    def answer(task: Task) -> Answers:
        of: dict[tuple[str, str], Answer] = {}
        facts: dict[str, dict[str, Any]] = {}
        for name, system in task.systems.items():
            train, asked = task.of(name)
            if kind == "all":
                train = list({one.name: one for one in [*train, *asked] if one.has_dft}.values())
            try:
                fitted = fit(
                    system,
                    train,
                    task.config.expansion,
                    "ols" if kind == "all" else kind,
                    task.seed,
                )
            except ValueError as error:
                of |= {(name, one.name): Answer(np.nan, reason=str(error)) for one in asked}
                facts[name] = {"reason": str(error)}
                continue
            of |= {(name, one.name): Answer(fitted.predict(one.ideal)) for one in asked}
            facts[name] = {
                "cutoffs": list(fitted.cutoffs),
                "parameters": fitted.n_parameters,
                "cv_rmse_mev_per_site": 1000 * fitted.cv_rmse,
            }
        return Answers(of, facts)

    return answer
