"""Dense layers of few rows, for compiled code."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn.functional import pad

from mlff2d.nn.kernels.update import PANEL, panels

SOURCE = (Path(__file__).parent / "dense.c").read_text(encoding="utf-8")


def filled(n: int) -> int:
    """The next multiple of PANEL, which any number of channels is filled up to."""
    return -(-n // PANEL) * PANEL


def fill_up(tensor: Tensor, n: int, dim: int = 0) -> Tensor:
    """Every n entries along an axis filled up with zeros to a multiple of PANEL."""
    parts = tensor.unflatten(dim, (-1, n)).movedim(dim + 1, -1)
    return pad(parts, (0, filled(n) - n)).movedim(-1, dim + 1).flatten(dim, dim + 1)


class LayerWeights:
    """Weights of dense layers in the order that C code has them.

    Attributes
    ----------
    forward, backward
        For each layer the matrix in panels, from inputs to outputs or the other way, and its bias,
        or None; None too for what there is not.
    sizes
        Channels in and out of each.
    """

    def __init__(self) -> None:
        self.forward: list[Tensor | None] = []
        self.backward: list[Tensor | None] = []
        self.sizes: list[tuple[int, int]] = []

    def add(self, weight: Tensor, bias: Tensor | None, n_in: int, n_out: int) -> None:
        """Add a layer whose inputs and outputs are parts of n_in and n_out channels each.

        `weight` is (outputs, inputs).
        """
        self.sizes.append((n_in, n_out))
        weight = fill_up(fill_up(weight.detach(), n_out), n_in, dim=1)
        own = None if bias is None else fill_up(bias.detach(), n_out).contiguous()
        self.forward += [panels(weight.T), own]
        self.backward += [panels(weight), None]

    def skip(self) -> None:
        """Leave out a layer that a block lacks."""
        self.forward += [None, None]
        self.backward += [None, None]
