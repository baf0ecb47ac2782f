"""Plain multi-layer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

SILU_GAIN = 1.6765324703310907
"""1 / sqrt(E[silu(z)^2]) for a standard normal z: keeps the second moment at 1."""

TANH_GAIN = 1.5925374197228312
"""The same for tanh."""


def scaled_silu(x: Tensor) -> Tensor:
    """SiLU that keeps the second moment of standard normal input."""
    return torch.nn.functional.silu(x) * SILU_GAIN


def scaled_tanh(x: Tensor) -> Tensor:
    """tanh that keeps the second moment of standard normal input."""
    return torch.tanh(x) * TANH_GAIN


class ScaledLinear(nn.Module):
    """A linear map without bias whose weights are of unit variance and scaled when they are used.

    y = gain / sqrt(n_in) W x. An optimiser that moves every weight by about the learning rate,
    as Adam does, then changes all layers by the same fraction, however many inputs they have.

    Parameters
    ----------
    n_in, n_out
        Channels.
    gain
        Standard deviation of the output for input of unit variance, at the start.
    """

    def __init__(self, n_in: int, n_out: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in))
        self.factor = gain / math.sqrt(n_in)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., n_out)."""
        return torch.nn.functional.linear(x, self.weight * self.factor)


class MLP(nn.Module):
    """Linear layers without bias, with a scaled SiLU between them.

    Without bias zero goes in, zero comes out: what an envelope brought to zero stays there.
    At the start input of second moment 1 gives output of second moment gain^2.

    Parameters
    ----------
    sizes
        Channels from input to output, at least two numbers.
    gain
        Standard deviation of the output at the start.

    Raises ValueError for other sizes.
    """

    def __init__(self, sizes: Sequence[int], gain: float = 1.0) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"an MLP needs at least two positive sizes, not {tuple(sizes)}")
        self.layers = nn.ModuleList(
            ScaledLinear(n_in, n_out, gain if k == len(sizes) - 2 else 1.0)
            for k, (n_in, n_out) in enumerate(pairwise(sizes))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) -> (..., sizes[-1])."""
        for layer in self.layers[:-1]:
            x = scaled_silu(layer(x))
        return self.layers[-1](x)
