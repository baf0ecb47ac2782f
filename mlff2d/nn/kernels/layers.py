"""All layers of a model by compiled code, as one operation with one gradient.

Axes: N atoms, E edges, W radial weights, F numbers of an atom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mlff2d.nn.kernels.sums import BoundSums, SumLayer, radial_of
from mlff2d.nn.kernels.update import (
    Atoms,
    Update,
    differentiable,
    pointer,
    starts,
    term_pointers,
)

Eager = Callable[[Tensor, list[Tensor | None], list[Tensor | None]], Tensor]


def features(
    bound: BoundSums,
    element: Tensor,
    x: Tensor,
    y: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor | None],
    eager: Eager,
) -> Tensor:
    """The first terms that the layers which are read leave, side by side: (N, F).

    Parameters
    ----------
    bound
        Sums and updates of all layers, over certain edges.
    element : (N,) int64
        Row numbers of the elements.
    x, y : (N, F)
        The first layer's input, of one term, and what it sums over neighbours.
    weights
        (E, W) radial weights of each layer; none where tabulated.
    scales
        (N,) for each layer what its messages are multiplied with, or None.
    eager
        The same of edge vectors, radial weights and scales by operations of torch, for second
        derivatives.
    """
    none = [None] * len(scales)
    found: Tensor = _Layers.apply(
        bound, eager, element, x, y, bound.edge_vec, *(weights or none), *scales
    )
    return found


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        bound: BoundSums,
        eager: Eager,
        element: Tensor,
        x: Tensor,
        y: Tensor,
        edge_vec: Tensor,
        *given: Tensor | None,
    ) -> Tensor:
        n_atoms, atoms = bound.n_atoms, Atoms(bound.library, element)
        given = tuple(None if part is None else part.contiguous() for part in given)
        summed, kept, read = [], [], []
        for (layer, update), weights, scale in _layers(bound, given):
            shapes = [dim * mul for dim, mul in layer.shapes]
            m = edge_vec.new_zeros(n_atoms * sum(shapes))
            messages = term_pointers(m, n_atoms, shapes)
            bound.run(
                f"{layer.name}_forward",
                bound.n_threads,
                *radial_of(layer, weights),
                term_pointers(y, n_atoms, layer.inputs),
                messages,
            )
            inputs = starts(x, n_atoms, layer.inputs)
            saved, x, after = update.forward(atoms, messages, inputs, scale)
            if update.is_read:
                read.append(x[: n_atoms * update.sizes[0]].view(n_atoms, -1))
            summed.append(y)
            kept.append(saved)
            if after is not None:
                y = after
        ctx.parts = bound, eager, len(given)
        ctx.save_for_backward(element, edge_vec, *given, *summed, *kept)
        return read[0] if len(read) == 1 else torch.cat(read, dim=1)

    @staticmethod
    def backward(ctx: Any, by: Tensor) -> Any:
        bound, eager, n_given = ctx.parts
        element, edge_vec, *saved = ctx.saved_tensors
        given, saved = saved[:n_given], saved[n_given:]
        none = None, None, None, None, None
        n_layers = n_given // 2
        if torch.is_grad_enabled():  # a second derivative will be asked for
            return *none, *differentiable(
                lambda inputs: [eager(inputs[0], inputs[1 : n_layers + 1], inputs[n_layers + 1 :])],
                [edge_vec, *given],
                [by],
            )
        n_atoms, atoms = bound.n_atoms, Atoms(bound.library, element)
        by_edge_vec = torch.zeros_like(edge_vec)
        by_given = [None if part is None else torch.zeros_like(part) for part in given]
        of_layers = list(zip(_layers(bound, given), _pairs(by_given), strict=True))
        by_x, by_y = None, None
        end = by.shape[1]
        for k in range(n_layers - 1, -1, -1):
            ((layer, update), weights, scale), (by_weights, by_scale) = of_layers[k]
            y, own = saved[k], saved[n_layers + k]
            by_out = by_x
            if by_out is None:
                by_out = edge_vec.new_zeros(n_atoms * sum(update.sizes))
            if update.is_read:
                begin = end - update.sizes[0]
                by_out[: n_atoms * update.sizes[0]].view(n_atoms, -1).add_(by[:, begin:end])
                end = begin
            shapes = [dim * mul for dim, mul in layer.shapes]
            by_m = edge_vec.new_zeros(n_atoms * sum(shapes))
            by_messages = term_pointers(by_m, n_atoms, shapes)
            by_x = edge_vec.new_zeros(n_atoms * sum(layer.inputs))
            by_inputs = starts(by_x, n_atoms, layer.inputs)
            update.backward(atoms, own, scale, by_out, by_y, by_messages, by_inputs, by_scale)
            n_threads = bound.n_threads
            by_sum = edge_vec.new_zeros(n_threads, n_atoms * sum(layer.inputs))
            bound.run(
                f"{layer.name}_backward",
                n_threads,
                *radial_of(layer, weights),
                term_pointers(y, n_atoms, layer.inputs),
                by_messages,
                pointer(by_edge_vec),
                pointer(by_weights),
                pointer(by_sum),
            )
            by_y = by_sum[0] if n_threads == 1 else by_sum.sum(0)
        return *none, by_edge_vec, *by_given


Given = Sequence[Tensor | None]


def _pairs(given: Given) -> list[tuple[Tensor | None, Tensor | None]]:
    """Radial weights and scale of each layer."""
    n_layers = len(given) // 2
    return list(zip(given[:n_layers], given[n_layers:], strict=True))


def _layers(
    bound: BoundSums, given: Given
) -> list[tuple[tuple[SumLayer, Update], Tensor | None, Tensor | None]]:
    of_layers = zip(bound.sums.layers, bound.sums.updates, strict=True)
    return [(pair, *own) for pair, own in zip(of_layers, _pairs(given), strict=True)]
