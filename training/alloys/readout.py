"""Formation energies by a linear fit to the features of structures that a potential relaxed.

    E_f = a E_f(potential) + w . (sum over atoms of their features, less those of the end members)

The features are those from which the potential, as it is, reads the energy of an atom: summed for
each element by itself, per shared site, and less the shares of the end members' sums, as the
energies are. The weights w are found by ridge regression, its penalty by leaving out each
configuration of the training part in turn, so that a few configurations suffice and an answer does
not depend on chance; the weight of the potential's own formation energy is as good as free. End
members have zero by construction.

Axes: C configurations, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.atoms import to_graph
from mlff2d.potential import Potential

from .formation import dft_formation
from .method import Answer, Answers, Method, Task
from .potentials import Trained, answers, as_it_is, relax, start_of
from .system import Configuration
from .training import Group, by_groups

Array = NDArray[np.float64]

ALPHAS = np.logspace(-10, 0, 21)
"""Of the ridge regression, features being scaled to a root mean square length of one."""

FREE = 10.0
"""Length to which the formation energies of the potential are scaled: penalised a hundredth."""

_FEWEST = 2


def method(name: str) -> Method:
    """The method "readout", or "readout:START"."""

    def answer(task: Task) -> Answers:
        model, start = start_of(task.config, name.partition(":")[2])

        def of_group(group: Group) -> Answers:
            made = as_it_is(task, group, model, start)
            of: dict[tuple[str, str], Answer] = {}
            facts: dict[str, Mapping[str, Any]] = {}
            for system in group.systems:
                found, facts[system] = _of_system(task, made, system)
                of |= found
            return Answers(of, facts)

        return by_groups(task, of_group)

    return answer


def _of_system(
    task: Task, made: Trained, system: str
) -> tuple[dict[tuple[str, str], Answer], dict[str, Any]]:
    """Answers for the configurations of one system, and the figures of the fit."""
    assert made.potential is not None
    train, asked = task.of(system)
    relaxed = relax(made, asked, task.config, made.folder / f"{system}.extxyz")
    before = answers(asked, relaxed, made.shift)
    rows = _rows(made.potential, asked, relaxed)
    places = {one.name: k for k, one in enumerate(asked)}
    mixed = [one.end_member is None for one in train]
    own = np.array([places[one.name] for one in train])[mixed]
    target = dft_formation(train)[mixed]
    by_potential = np.array([before[system, one.name].formation for one in asked])
    known = np.isfinite(rows[own]).all(1) & np.isfinite(target) & np.isfinite(by_potential[own])
    own, target = own[known], target[known]
    if len(own) < _FEWEST:
        reason = (
            f"{system}: a readout needs {_FEWEST} mixtures with DFT results that the potential "
            f"relaxes, and has {len(own)}"
        )
        return {key: Answer(np.nan, reason=reason) for key in before}, {"reason": reason}
    formation, facts = _fit(rows, by_potential, own, target)
    ends = {one.end_member: one.energy for one in train if one.end_member}
    of = {}
    for one, value in zip(asked, formation, strict=True):
        was = before[system, one.name]
        value = 0.0 if one.end_member else float(value)
        energy = value + sum(x * ends[species] for species, x in one.shares.items() if x)
        of[system, one.name] = Answer(value, energy, was.area, was.status, was.reason)
    return of, facts


def _fit(
    rows: Array, by_potential: Array, own: NDArray[np.intp], target: Array
) -> tuple[Array, dict[str, Any]]:
    """(C,) eV per shared site of all, from those at `own`, and the figures of the fit."""
    from sklearn.linear_model import RidgeCV

    unit, size = _rms(by_potential[own]) / FREE, _rms(target)
    columns = np.column_stack([rows / _rms(np.linalg.norm(rows[own], axis=1)), by_potential / unit])
    known = np.isfinite(columns).all(1)
    ridge = RidgeCV(ALPHAS, fit_intercept=False).fit(columns[own], target / size)
    said = np.full(len(rows), np.nan)
    said[known] = ridge.predict(columns[known]) * size
    return said, {
        "alpha": float(ridge.alpha_),
        "weight of the potential": float(ridge.coef_[-1] * size / unit),
        "cv_rmse_mev_per_site": 1000 * float(np.sqrt(-ridge.best_score_) * size),
    }


def _rms(values: Array) -> float:
    """Root mean square; one where all are zero."""
    return float(np.sqrt((values**2).mean())) or 1.0


def _rows(potential: Potential, asked: Sequence[Configuration], relaxed: Sequence[Atoms]) -> Array:
    """(C, F) sums of features per shared site less those of end members; NaN where not relaxed."""
    potential = deepcopy(potential).double()
    elements = sorted({int(z) for atoms in relaxed for z in atoms.numbers})
    sums = np.array(
        [
            _sums(potential, atoms, elements) / one.n_sites
            for one, atoms in zip(asked, relaxed, strict=True)
        ]
    )
    sums[[not atoms.info["met"] for atoms in relaxed]] = np.nan
    ends = {one.end_member: row for one, row in zip(asked, sums, strict=True) if one.end_member}
    nothing = np.full(sums.shape[1], np.nan)
    parts = [
        row - sum(x * ends.get(species, nothing) for species, x in one.shares.items() if x)
        for one, row in zip(asked, sums, strict=True)
    ]
    return np.array(parts)


@torch.no_grad()
def _sums(potential: Potential, atoms: Atoms, elements: Sequence[int]) -> Array:
    """(F,) features summed over the atoms of each element."""
    graph = to_graph(atoms, potential.cutoff, potential.model.state)
    graph = graph.to(next(potential.parameters()).device)
    features = potential.model.mixed_features(graph, graph.edge_vectors()).cpu().numpy()
    return np.concatenate([features[atoms.numbers == z].sum(0) for z in elements])
