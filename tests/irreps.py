"""Between our layout of features, a list of (N, 2l+1, C), and e3nn's flat (N, sum C (2l+1))."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from e3nn import o3
from torch import Tensor

from mlff2d.nn.scatter import segment_sum
from mlff2d.nn.tensor_product import NeighbourTensorProduct


def flat(x: list[Tensor]) -> Tensor:
    """Our features as e3nn has them."""
    return torch.cat([part.transpose(1, 2).flatten(1) for part in x], dim=1)


def listed(x: Tensor, irreps: o3.Irreps) -> list[Tensor]:
    """e3nn's features as we have them."""
    parts = x.split([mul * ir.dim for mul, ir in irreps], dim=1)
    return [
        part.view(-1, mul, ir.dim).transpose(1, 2)
        for part, (mul, ir) in zip(parts, irreps, strict=True)
    ]


def random_features(irreps: o3.Irreps, n: int, seed: int = 0) -> list[Tensor]:
    """float64 standard normal features of n nodes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, irreps.dim, generator=generator, dtype=torch.float64)
    return listed(x, irreps)


@contextmanager
def exact() -> Iterator[None]:
    """Modules of e3nn built inside have float64 constants instead of rounded ones."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def reference_product(
    product: NeighbourTensorProduct,
    irreps_in: o3.Irreps,
    l_max: int,
    x: list[Tensor],
    harmonics: Tensor,
    weights: Tensor,
    edge_index: Tensor,
    parity: bool = True,
) -> Tensor:
    """The same messages from e3nn's tensor product, flat."""
    paths = sorted(range(len(product.paths)), key=lambda k: product.paths[k].out)
    middle = o3.Irreps(
        [(irreps_in[product.paths[k].source].mul, product.paths[k].out) for k in paths]
    )
    with exact():
        theirs = o3.TensorProduct(
            irreps_in,
            o3.Irreps.spherical_harmonics(l_max, -1 if parity else 1),
            middle,
            [
                (path.source, path.degree, paths.index(k), "uvu", True)
                for k, path in enumerate(product.paths)
            ],
            shared_weights=False,
            internal_weights=False,
        )
    edges = theirs(flat(x)[edge_index[1]], harmonics, weights)
    return segment_sum(edges, edge_index[0], x[0].shape[0])
