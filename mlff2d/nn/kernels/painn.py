"""PaiNN by compiled code.

Axes: N atoms, Z elements, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mlff2d.nn.kernels.dense import LayerWeights
from mlff2d.nn.kernels.filters import Call, CompiledFilters, Filters

SOURCE = (Path(__file__).parent / "painn.c").read_text(encoding="utf-8")

_KEPT = 20
"""Numbers of an atom, block and channel that the gradient needs; KEPT of the C code."""


class CompiledPaiNN(CompiledFilters):
    """All blocks of a PaiNN.

    Parameters
    ----------
    filters
        Of each block, with 3 parts.
    messages, updates
        The layers of each block.
    embedding : (Z, C)
        The scalars that atoms begin with.
    epsilon, cutoff
        Of the config.
    parameters
        All of the model.

    Raises CompilerError where nothing can be compiled.
    """

    def __init__(
        self,
        filters: Sequence[Filters],
        messages: Sequence[tuple[nn.Linear, nn.Linear]],
        updates: Sequence[tuple[nn.Linear, nn.Linear, nn.Linear]],
        embedding: Tensor,
        epsilon: float,
        cutoff: float,
        parameters: list[Tensor],
    ) -> None:
        n = embedding.shape[1]
        # There are no vectors yet that the first block could send.
        first = Filters(filters[0].functions, filters[0].matrix[: 2 * n])
        sent = _first_sent(embedding, messages[0])
        weights = LayerWeights()
        for k, ((hidden, out), (mix, inner, gates)) in enumerate(
            zip(messages, updates, strict=True)
        ):
            for layer in (hidden, out):
                if k:
                    weights.add(layer.weight, layer.bias, n, n)
                else:
                    weights.skip()
            weights.add(mix.weight, None, n, n)
            weights.add(inner.weight, inner.bias, n, n)
            used = (2 if k == len(updates) - 1 else 3) * n
            weights.add(gates.weight[:used], gates.bias[:used], n, n)
        super().__init__(SOURCE, [first, *filters[1:]], n, sent, weights, parameters, cutoff)
        self._epsilon = epsilon

    def forward(self, call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `CompiledFilters`."""
        n_atoms, width = x.shape
        vectors = x.new_zeros(n_atoms, 3, width)
        kept = x.new_empty(self.n_blocks, _KEPT, n_atoms, width)
        call("painn_forward", width, self._epsilon, x, vectors, kept)
        return x, kept

    def backward(self, call: Call, by: Tensor, kept: Tensor) -> Tensor:
        """See `CompiledFilters`."""
        n_atoms, width = by.shape
        by_vectors = by.new_zeros(n_atoms, 3, width)
        by_sent = by.new_empty(call.bound.n_threads, n_atoms, 5, width)
        by_edges = torch.zeros_like(call.bound.edge_vec)
        tensors = by, by_vectors, kept, by_sent, by_edges
        call("painn_backward", width, self._epsilon, *tensors)
        return by_edges


@torch.no_grad()
def _first_sent(embedding: Tensor, message: tuple[nn.Linear, nn.Linear]) -> Tensor:
    """(Z, 2 C): what atoms of each element send in the first block, in float64."""
    hidden, out = (deepcopy(layer).double() for layer in message)
    found: Tensor = out(silu(hidden(embedding.double())))
    return found[:, : 2 * embedding.shape[1]]
