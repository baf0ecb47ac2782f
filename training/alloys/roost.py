"""Roost: messages between the elements of a composition, each weighted by its share.

Goodall and Lee, "Predicting materials properties without crystal structure: deep representation
learning from stoichiometry", Nature Communications 11, 6280 (2020); equation numbers are the
paper's. What an element is at first are the 92 features of CGCNN in place of the paper's embedding
of words, and the network is smaller.

Axes: U compositions, E elements, H heads, F features, D inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlff2d.nn.atom_features import AtomEmbedding


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A network with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class WeightedAttention(nn.Module):
    """Mean of messages over a set, by soft attention weighted with the shares (eqs. 2 to 5).

    An element with no share in the composition has no weight, so that it is as if it were not
    there.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.score = perceptron(inputs, hidden, heads)
        self.message = perceptron(inputs, hidden, heads * outputs)
        self.heads = heads

    def forward(self, features: Tensor, shares: Tensor) -> Tensor:
        """(..., E, D) and (..., E) shares -> (..., F)."""
        weights = torch.softmax(self.score(features) + torch.log(shares)[..., None], dim=-2)
        messages = self.message(features).unflatten(-1, (self.heads, -1))
        return (weights[..., None] * messages).sum(-3).mean(-2)


class Roost(nn.Module):
    """A number for each composition.

    Parameters
    ----------
    elements : atomic numbers, ascending
    features : F of an element, its share among them
    hidden : size of the hidden layers
    layers, heads : of the messages
    """

    numbers: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        features: int = 24,
        hidden: int = 48,
        layers: int = 2,
        heads: int = 2,
    ) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.tensor(elements), persistent=False)
        self.embedding = AtomEmbedding("cgcnn92", elements, features - 1)
        self.messages = nn.ModuleList(
            WeightedAttention(2 * features, features, hidden, heads) for _ in range(layers)
        )
        self.pool = WeightedAttention(features, features, hidden, heads)
        self.output = perceptron(features, hidden, 1)

    def forward(self, shares: Tensor) -> Tensor:
        """(U, E) shares of the elements -> (U,)."""
        n, n_elements = shares.shape
        known = self.embedding(self.numbers).expand(n, -1, -1)
        h = torch.cat([known, shares[..., None]], dim=-1)
        for layer in self.messages:
            receiver = h[:, :, None].expand(-1, -1, n_elements, -1)
            sender = h[:, None].expand(-1, n_elements, -1, -1)
            pair = torch.cat([receiver, sender], dim=-1)
            h = h + layer(pair, shares[:, None].expand(-1, n_elements, -1))
        return self.output(self.pool(h, shares)).squeeze(-1)
