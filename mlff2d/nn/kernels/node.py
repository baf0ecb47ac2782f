"""What becomes of the summed messages of an atom, by compiled code.

A linear map of messages, another of the layer's input that may depend on the element, a norm, the
gate, what is kept of the input, and the linear map that the next layer begins with.

Axes: N atoms, Z elements, C channels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlff2d.nn.equivariant import Gate, IrrepsLinear, RMSNorm

SOURCE = (Path(__file__).parent / "node.c").read_text(encoding="utf-8")

_EVEN, _ODD = -1, -2


@dataclass(frozen=True)
class Connection:
    """A linear map of one term of a layer's input: its number, and (Z or 1, C_in, C_out)."""

    source: int
    matrices: Tensor


@dataclass(frozen=True)
class NodeLayer:
    """The update of one layer.

    Attributes
    ----------
    terms : (K, 7) int64
        As the C code has them.
    shapes
        2l + 1 and the channels before and after the gate of each.
    forward, backward : (4 K,)
        Matrices for messages, for input, weights of the norm, and matrices of the next layer, and
        for the gradient the transposed ones; None for what there is not.
    connections, kept
        For each of K terms the term of the input that is mapped, and that which is kept.
    factor
        What the outcome of the gate is multiplied with.
    epsilon
        Of the norm; -1 for none.
    """

    terms: Tensor
    shapes: list[tuple[int, int, int]]
    forward: list[Tensor | None]
    backward: list[Tensor | None]
    connections: list[int | None]
    kept: list[int | None]
    factor: float
    epsilon: float

    @classmethod
    def of(
        cls,
        linear: IrrepsLinear,
        scale: float,
        connections: Sequence[Connection | None],
        norm: RMSNorm | None,
        gate: Gate,
        residual: float,
        kept: Sequence[int | None],
        following: IrrepsLinear | None,
    ) -> NodeLayer:
        """Fold the weights of a layer.

        Parameters
        ----------
        linear, scale
            The map of messages, and what these are multiplied with.
        connections
            For each irrep of the gate's input what is added to it.
        norm
            After that.
        gate
            After that.
        residual
            What the gate's outcome is multiplied with before the input is added; 0 for neither.
        kept
            For each irrep the term of the input that is added.
        following
            The map that the next layer begins with.
        """
        n_gates = {k: gate.irreps_out[k].mul for k in gate.gated}
        place = gate.irreps_out[gate.even].mul
        terms, forward, backward = [], [], []
        for k, (mul, ir) in enumerate(gate.irreps_in):
            kind = _EVEN if k == gate.even else _ODD
            if k in n_gates:
                kind, place = place, place + n_gates[k]
            messages = linear.matrix(k) * scale
            connection = connections[k]
            inputs = None if connection is None else connection.matrices.double()
            by_element = 0 if inputs is None or len(inputs) == 1 else inputs[0].numel()
            n_inputs = 0 if inputs is None else inputs.shape[1]
            n_out = gate.irreps_out[k].mul
            terms.append([ir.dim, mul, len(messages), n_inputs, n_out, kind, by_element])
            weights = None if norm is None else norm.weights[k]
            after = None if following is None else following.matrix(k)
            folded = [messages, inputs, weights, after]
            dtype = linear.weights[k].dtype
            forward += [None if w is None else w.detach().to(dtype).contiguous() for w in folded]
            folded = [None if w is None or w.dim() < 2 else w.mT for w in folded]
            folded[2] = weights
            backward += [None if w is None else w.detach().to(dtype).contiguous() for w in folded]
        return cls(
            torch.tensor(terms),
            [(dim, mul, n_out) for dim, mul, _, _, n_out, _, _ in terms],
            forward,
            backward,
            [None if c is None else c.source for c in connections],
            list(kept) if residual else [None] * len(terms),
            residual or 1.0,
            -1.0 if norm is None else norm.epsilon,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: own for key, own in self.__dict__.items() if key != "addresses"}

    @cached_property
    def addresses(self) -> tuple[Any, Any]:
        """Where `forward` and `backward` are, for C; of a copy, elsewhere."""
        return pointers(self.forward), pointers(self.backward)

    @property
    def n_before(self) -> int:
        """Numbers of an atom before the gate."""
        return sum(dim * mul for dim, mul, _ in self.shapes)

    @property
    def sizes(self) -> list[int]:
        """Numbers of an atom in each term of the outcome."""
        return [dim * mul for dim, _, mul in self.shapes]

    @property
    def is_last(self) -> bool:
        """Whether no layer follows."""
        return self.forward[3] is None


def differentiable(
    eager: Callable[[list[Any]], list[Tensor]],
    inputs: Sequence[Tensor | None],
    by: Sequence[Tensor],
) -> list[Tensor | None]:
    """Gradients that have gradients: those by some inputs of what operations of torch make."""
    # Views, so that what the inputs owe to each other does not count here.
    inputs = [None if t is None else t.view_as(t) for t in inputs]
    wanted = {k: t for k, t in enumerate(inputs) if t is not None and t.requires_grad}
    found = torch.autograd.grad(
        eager(inputs), list(wanted.values()), by, create_graph=True, materialize_grads=True
    )
    gradients: list[Tensor | None] = [None] * len(inputs)
    for k, gradient in zip(wanted, found, strict=True):
        gradients[k] = gradient
    return gradients


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where the numbers of a contiguous tensor are, for C; NULL for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def pointers(tensors: Sequence[Tensor | None]) -> Any:
    """The same of several."""
    found = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(found))(*found)
