"""Multi-layer perceptrons with a gate, as M3GNet uses them.

Chen and Ong, Nat. Comput. Sci. 2, 718 (2022), eq. 7: two perceptrons side by side, of which the
second, ending in a sigmoid, gates the first; SiLU after every other layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu


class _Gated(nn.Module):
    def __init__(self, sizes: Sequence[int], bias: bool, activate_last: bool) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"a gated MLP needs at least two positive sizes, not {tuple(sizes)}")
        self.activate_last = activate_last
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes))
        self.gates = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes))

    def _after_first(self, main: Tensor, gate: Tensor) -> Tensor:
        for layer, gate_layer in zip(self.layers[1:], self.gates[1:], strict=True):
            main = layer(silu(main))
            gate = gate_layer(silu(gate))
        return (silu(main) if self.activate_last else main) * torch.sigmoid(gate)


class GatedMLP(_Gated):
    """A gated MLP of one input.

    Parameters
    ----------
    sizes
        Channels from input to output, at least two numbers.
    bias
        Whether the layers have a bias; without one, zero goes in, zero comes out.
    activate_last
        Whether the last layer of the gated perceptron is followed by a SiLU too.
    """

    def __init__(self, sizes: Sequence[int], bias: bool = True, activate_last: bool = True) -> None:
        super().__init__(sizes, bias, activate_last)

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) -> (..., sizes[-1])."""
        return self._after_first(self.layers[0](x), self.gates[0](x))


class PairGatedMLP(_Gated):
    """A gated MLP of the joined features of receiver, neighbour and edge.

    The same as `GatedMLP` on their concatenation, only that the first layer acts on the atoms
    before they are spread over their edges, of which there are many more.

    Parameters
    ----------
    channels
        C, the channels of atoms, edges and result.
    depth
        Number of layers.
    hidden
        Channels between the layers; None for C.
    """

    def __init__(self, channels: int, depth: int, hidden: int | None = None) -> None:
        between = [channels if hidden is None else hidden] * (depth - 1)
        super().__init__([3 * channels, *between, channels], bias=True, activate_last=True)
        self.channels = channels

    def forward(self, nodes: Tensor, edges: Tensor, edge_index: Tensor) -> Tensor:
        """(N, C) atoms, (E, C) edges, (2, E) receivers and neighbours -> (E, C)."""
        c = self.channels
        # Both perceptrons in one product.
        main_layer, gate_layer = cast(nn.Linear, self.layers[0]), cast(nn.Linear, self.gates[0])
        weight = torch.cat([main_layer.weight, gate_layer.weight])
        bias = torch.cat([main_layer.bias, gate_layer.bias])
        receivers, neighbours = linear(nodes, weight[:, :c]), linear(nodes, weight[:, c : 2 * c])
        joined = (
            linear(edges, weight[:, 2 * c :], bias)
            + receivers.index_select(0, edge_index[0])
            + neighbours.index_select(0, edge_index[1])
        )
        main, gate = joined.chunk(2, dim=-1)
        return self._after_first(main, gate)
