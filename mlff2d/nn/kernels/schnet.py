"""SchNet by compiled code.

Axes: N atoms, Z elements, C channels, F filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mlff2d.nn.kernels.dense import LayerWeights, filled
from mlff2d.nn.kernels.filters import Call, CompiledFilters, Filters

SOURCE = (Path(__file__).parent / "schnet.c").read_text(encoding="utf-8")


class CompiledSchNet(CompiledFilters):
    """All blocks of a SchNet.

    Parameters
    ----------
    filters
        Of each block, with one part.
    layers
        Of each block: into the filters' channels, and the two after the sum.
    embedding : (Z, C)
        The features that atoms begin with.
    cutoff
        In Å.
    parameters
        All of the model.

    Raises CompilerError where nothing can be compiled.
    """

    def __init__(
        self,
        filters: Sequence[Filters],
        layers: Sequence[tuple[nn.Linear, nn.Linear, nn.Linear]],
        embedding: Tensor,
        cutoff: float,
        parameters: list[Tensor],
    ) -> None:
        embed = layers[0][0].weight.detach()
        n_filters, n = embed.shape
        sent = embedding.detach().double() @ embed.double().T
        weights = LayerWeights()
        for into, hidden, out in layers:
            weights.add(into.weight, None, n, n_filters)
            weights.add(hidden.weight, hidden.bias, n_filters, n)
            weights.add(out.weight, out.bias, n, n)
        super().__init__(SOURCE, filters, n_filters, sent, weights, parameters, cutoff)
        self._n_filters = filled(n_filters)

    def forward(self, call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `CompiledFilters`."""
        n_atoms, width = x.shape
        summed = x.new_empty(n_atoms, self._n_filters)
        kept = x.new_empty(self.n_blocks, n_atoms, width + self._n_filters)
        call("schnet_forward", width, self._n_filters, x, summed, kept)
        return x, kept

    def backward(self, call: Call, by: Tensor, kept: Tensor) -> Tensor:
        """See `CompiledFilters`."""
        n_atoms, width = by.shape
        by_summed = by.new_empty(n_atoms, self._n_filters)
        by_sent = by.new_empty(call.bound.n_threads, n_atoms, self._n_filters)
        by_edges = torch.zeros_like(call.bound.edge_vec)
        tensors = by, by_summed, kept, by_sent, by_edges
        call("schnet_backward", width, self._n_filters, *tensors)
        return by_edges
