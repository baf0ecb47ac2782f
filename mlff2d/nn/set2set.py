"""Sets of any size read into one vector each.

Axes: M members of all sets, S sets, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlff2d.nn.scatter import segment_sum


class LSTMCell(nn.Module):
    """One step of a long short-term memory: Hochreiter and Schmidhuber, 1997, with forget gates.

    torch's own cannot be differentiated twice on every device, which forces in training need.

    Parameters
    ----------
    n_in, n_out
        Channels of the input, and of the output and the memory.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        # Input, forget, memory and output gates one after another.
        self.input = nn.Linear(n_in, 4 * n_out)
        self.hidden = nn.Linear(n_out, 4 * n_out, bias=False)

    def forward(self, x: Tensor, output: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(S, n_in) input, (S, n_out) last output and memory -> the next output and memory."""
        gates = self.input(x) + self.hidden(output)
        take, keep, new, give = gates.chunk(4, dim=-1)
        memory = torch.sigmoid(keep) * memory + torch.sigmoid(take) * torch.tanh(new)
        return torch.sigmoid(give) * torch.tanh(memory), memory


class Set2Set(nn.Module):
    """Reads sets by attention, in turns of asking and looking.

    Vinyals, Bengio and Kudlur, "Order matters: sequence to sequence for sets", ICLR 2016, eqs. 3 to
    7. In each turn t a query q_t = LSTM(q*_(t-1)) looks at the members x_i with attention
    a_i ~ w_i exp(q_t . x_i), and q*_t = q_t (+) sum_i a_i x_i.

    Parameters
    ----------
    channels
        C.
    n_turns
        Number of turns, at least 1.
    n_layers
        Layers of the LSTM.
    """

    def __init__(self, channels: int, n_turns: int, n_layers: int) -> None:
        super().__init__()
        self.channels = channels
        self.n_turns = n_turns
        self.cells = nn.ModuleList(
            LSTMCell(channels if k else 2 * channels, channels) for k in range(n_layers)
        )

    def forward(self, x: Tensor, index: Tensor, weight: Tensor, nothing: Tensor) -> Tensor:
        """Read all sets.

        Parameters
        ----------
        x : (M, C)
            The members.
        index : (M,) int64
            Set of each member.
        weight : (M, 1)
            w_i; a member of weight 0 is not there.
        nothing : (S, 1)
            Weight of a member of zeros that each set has besides; with 0 the weights of the others
            matter in proportion only.

        Returns
        -------
        (S, 2 C), the query and what it found; of an empty set nothing is found.
        """
        n = nothing.shape[0]
        answer = x.new_zeros(n, 2 * self.channels)
        outputs = [x.new_zeros(n, self.channels) for _ in self.cells]
        memories = list(outputs)
        for _ in range(self.n_turns):
            query = answer
            for k, cell in enumerate(self.cells):
                query, memories[k] = cell(query, outputs[k], memories[k])
                outputs[k] = query
            answer = torch.cat([query, self._look(query, x, index, weight, nothing)], dim=-1)
        return answer

    @staticmethod
    def _look(query: Tensor, x: Tensor, index: Tensor, weight: Tensor, nothing: Tensor) -> Tensor:
        logits = (x * query.index_select(0, index)).sum(-1, keepdim=True)
        # Any number may be taken off all logits of a set; the greatest keeps exp within bounds.
        top = torch.zeros_like(nothing).scatter_reduce(
            0, index.unsqueeze(-1), logits.detach(), "amax", include_self=False
        )
        top = torch.where(nothing > 0.0, top.clamp(min=0.0), top)
        share = weight * torch.exp(logits - top.index_select(0, index))
        total = segment_sum(share, index, query.shape[0]) + nothing * torch.exp(-top)
        found = segment_sum(share * x, index, query.shape[0])
        return found / torch.where(total > 0.0, total, 1.0)
