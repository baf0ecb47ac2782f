"""The domain of a potential from the features of a sample of its training set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mlff2d.domain import Domain, fit
from mlff2d.potential import Potential

from ..console import watched
from ..data.batches import iter_batches, pack
from ..data.dataset import Dataset

MAX_ATOMS = 50_000
"""Of more atoms a sample is taken; the 50 farthest of them then lie beyond 1."""

RARE = 100
"""Of an element with fewer atoms in the sample that many are added, or all there are."""


def fit_domain(potential: Potential, data: Dataset, ids: NDArray[np.int64]) -> Domain:
    """The domain of a potential that was trained on some structures, of a sample of them.

    Raises ValueError where features are NaN or infinite.
    """
    chosen = sample(data, ids)
    batches = pack(chosen, data.n_edges, 64, 8000)
    device = next(potential.parameters()).device
    features, numbers = [], []
    loader = iter_batches(data, batches, potential.dtype, device)
    with torch.no_grad():
        for graph, _ in watched(loader, "where the training set is", len(batches)):
            found = potential.model.mixed_features(graph, graph.edge_vectors())
            features.append(found.cpu())
            numbers.append(graph.z.cpu())
    return fit(torch.cat(features), torch.cat(numbers)).to(device)


def sample(data: Dataset, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Structures of up to `MAX_ATOMS` atoms, drawn evenly, and more where an element is rare."""
    order = np.random.default_rng(0).permutation(ids)
    n_drawn = int(np.searchsorted(np.cumsum(data.n_atoms[order]), MAX_ATOMS)) + 1
    drawn, rest = order[:n_drawn], order[n_drawn:]
    if len(rest) == 0:
        return np.sort(drawn)
    z_drawn, z_rest = data.atoms_of("z", np.sort(drawn)), data.atoms_of("z", np.sort(rest))
    owner = np.repeat(np.sort(rest), data.n_atoms[np.sort(rest)])
    added = [drawn]
    for z in np.unique(z_rest):
        lacking = RARE - int((z_drawn == z).sum())
        if lacking > 0:
            owners = owner[z_rest == z]
            added.append(owners[np.linspace(0, len(owners) - 1, lacking).astype(np.int64)])
    return np.unique(np.concatenate(added))
