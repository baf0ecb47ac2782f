"""How far an atom's environment is from those that a potential was trained on.

The distance is taken between invariant features, those that the energy is read from: J. P. Janet
et al., Chem. Sci. 10, 7913 (2019), find that such a distance tells errors of a network from each
other as well as an ensemble does. As in K. Lee et al., NeurIPS 2018 (arXiv:1807.03888), features
are whitened by their spread within a class, here an element; as one centre is too few for an
element with several kinds of environments, it has up to `MAX_CENTRES`.
Axes: N atoms, F features, K centres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

QUANTILE = 0.999
"""Of the training atoms this share lies nearer than a distance of 1."""

MAX_CENTRES = 16
ATOMS_PER_CENTRE = 30
_ITERATIONS = 30
_LEAST_SPREAD = 1e-3  # of the size of features; less is rounding
_BUFFERS = ("centres", "elements", "mean", "whitening")


class Domain(nn.Module):
    """Where the environments of the training set are, in the space of a model's features.

    Attributes
    ----------
    centres : (K, F) of groups of training atoms of the same element, whitened
    elements : (K,) int64 atomic number of each centre
    mean : (F,) of the training atoms' features
    whitening : (F, F); (features - mean) @ whitening has about unit spread around the centres
    limit : distance in whitened features that counts as 1
    n_atoms : training atoms that it was fitted to
    """

    centres: Tensor
    elements: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        centres: Tensor,
        elements: Tensor,
        mean: Tensor,
        whitening: Tensor,
        limit: float,
        n_atoms: int,
    ) -> None:
        super().__init__()
        n_centres, n_features = centres.shape
        shapes = (elements.shape, mean.shape, whitening.shape)
        if shapes != ((n_centres,), (n_features,), (n_features, n_features)) or not limit > 0:
            raise ValueError("the parts of the domain do not fit each other")
        self.register_buffer("centres", centres.double(), persistent=False)
        self.register_buffer("elements", elements, persistent=False)
        self.register_buffer("mean", mean.double(), persistent=False)
        self.register_buffer("whitening", whitening.double(), persistent=False)
        self.limit, self.n_atoms = float(limit), int(n_atoms)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Domain:
        """Moved to another device only: distances are float64 whatever the model's precision."""
        exact = {name: getattr(self, name) for name in _BUFFERS}
        super()._apply(fn, recurse)
        for name, tensor in exact.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
        return self

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """(N,) float64 distances of atoms from (N, F) features and (N,) atomic numbers.

        In units in which 99.9 % of the training atoms are nearer than 1; infinite for an element
        that is not among them, NaN where features are.
        """
        white = (features.double() - self.mean) @ self.whitening
        distance = torch.full_like(white[:, 0], torch.inf)
        for element in torch.unique(z).tolist():
            rows = z == element
            centres = self.centres[self.elements == element]
            if len(centres):
                distance[rows] = torch.cdist(white[rows], centres).amin(1) / self.limit
        return torch.where(torch.isfinite(white).all(1), distance, torch.nan)

    def as_dict(self) -> dict[str, Any]:
        """What a model file holds of it; the centres are rounded to float32."""
        tensors = {name: getattr(self, name).cpu() for name in _BUFFERS}
        tensors["centres"] = tensors["centres"].float()
        return tensors | {"limit": self.limit, "n_atoms": self.n_atoms}


def fit(features: Tensor, z: Tensor) -> Domain:
    """The domain of training atoms with (N, F) features and (N,) atomic numbers.

    Raises ValueError where there are no atoms, or features are NaN or infinite.
    """
    if len(z) == 0:
        raise ValueError("there are no atoms to fit a domain to")
    features, z = features.detach().double().cpu(), z.cpu()
    if not bool(torch.isfinite(features).all()):
        raise ValueError("the model's features of training atoms are NaN or infinite")
    mean = features.mean(0)
    features = features - mean
    elements = torch.unique(z)
    residual = torch.cat([part - part.mean(0) for part in (features[z == e] for e in elements)])
    size = (features.square().mean() + mean.square().mean()).sqrt()
    whitening = _whitening(residual, size)
    white = features @ whitening
    groups = [_centres(white[z == e]) for e in elements]
    centres = torch.cat(groups)
    of = torch.repeat_interleave(elements, torch.tensor([len(g) for g in groups]))
    domain = Domain(centres, of, mean, whitening, 1.0, len(z))
    # No environment within one standard deviation of a centre is far, however alike the data are.
    domain.limit = max(float(_quantile(domain(features + mean, z))), 1.0)
    return domain


def _whitening(residual: Tensor, size: Tensor) -> Tensor:
    """(F, F) inverse square root of the covariance of (N, F) residuals of zero mean.

    The covariance is shrunk towards a multiple of the identity as far as the number of atoms asks
    for: O. Ledoit and M. Wolf, J. Multivar. Anal. 88, 365 (2004). `size` is the root mean square of
    the features; a direction in which they differ by less than rounding does not count.
    """
    n, n_features = residual.shape
    covariance = residual.T @ residual / n
    target = covariance.diagonal().mean() * torch.eye(n_features).to(covariance)
    noise = (residual.square().sum(1).square().mean() - covariance.square().sum()) / n
    share = (noise / (covariance - target).square().sum().clamp_min(1e-300)).clamp(0.0, 1.0)
    values, vectors = torch.linalg.eigh((1 - share) * covariance + share * target)
    least = (_LEAST_SPREAD * size).clamp_min(1e-15)
    return vectors * values.clamp_min(least.square()).rsqrt()


def _centres(points: Tensor) -> Tensor:
    """(K, F) centres of (N, F) points by k-means, begun with points drawn as in k-means++.

    D. Arthur and S. Vassilvitskii, SODA 2007. The same points give the same centres.
    """
    count = min(MAX_CENTRES, 1 + len(points) // ATOMS_PER_CENTRE)
    centres = points.mean(0, keepdim=True)
    if count == 1:
        return centres
    generator = torch.Generator().manual_seed(0)
    centres = points[torch.cdist(points, centres).argmin()][None]
    for _ in range(count - 1):
        weight = torch.cdist(points, centres).amin(1).square()
        if not bool(weight.sum() > 0):  # fewer different points than that
            break
        drawn = torch.multinomial(weight, 1, generator=generator)
        centres = torch.cat([centres, points[drawn]])
    for _ in range(_ITERATIONS):
        nearest = torch.cdist(points, centres).argmin(1)
        number = torch.bincount(nearest, minlength=len(centres)).unsqueeze(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(number > 0, sums / number.clamp_min(1), centres)
    return centres


def _quantile(distances: Tensor) -> Tensor:
    ordered = distances.sort().values
    return ordered[min(int(QUANTILE * len(ordered)), len(ordered) - 1)]
