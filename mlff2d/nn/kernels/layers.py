"""All layers of a model by compiled code, as one operation with one gradient.

Features of all terms lie in one tensor, term after term, each (N, 2l+1, C).

Axes: N atoms, E edges, W radial weights, F numbers of an atom.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from mlff2d.nn.kernels.node import NodeLayer, differentiable, pointer
from mlff2d.nn.kernels.sums import BoundSums, SumLayer, radial_of

_ATOMS_PER_THREAD = 50
"""Below, starting a thread costs more than it saves."""

Eager = Callable[[Tensor, list[Tensor]], Tensor]


def features(
    bound: BoundSums,
    element: Tensor,
    x: Tensor,
    y: Tensor,
    weights: Sequence[Tensor],
    eager: Eager,
) -> Tensor:
    """What the last layer leaves of one term: (N, F).

    Parameters
    ----------
    bound
        Sums and nodes of all layers, over certain edges.
    element : (N,) int64
        Row numbers of the elements.
    x, y : (N, F)
        The first layer's input, of one term, and what it sums over neighbours.
    weights
        (E, W) radial weights of each layer, unless tabulated.
    eager
        The same of edge vectors and radial weights by operations of torch, for second derivatives.
    """
    found: Tensor = _Layers.apply(bound, eager, element, x, y, bound.edge_vec, *weights)
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
        *weights: Tensor,
    ) -> Tensor:
        n_atoms = bound.n_atoms
        weights = tuple(part.contiguous() for part in weights)
        summed, before = [], []
        for k, (layer, node) in enumerate(_layers(bound)):
            m = edge_vec.new_zeros(n_atoms * sum(dim * mul for dim, mul in layer.shapes))
            bound.run(
                f"{layer.name}_forward",
                bound.n_threads,
                *radial_of(layer, weights[k] if weights else None),
                _terms(y, n_atoms, layer.inputs),
                _terms(m, n_atoms, [dim * mul for dim, mul in layer.shapes]),
            )
            z = edge_vec.new_zeros(n_atoms * node.n_before)
            out = edge_vec.new_empty(n_atoms * sum(node.sizes))
            after = None if node.is_last else torch.zeros_like(out)
            inputs = _starts(x, n_atoms, layer.inputs)
            bound.library.node_forward(
                *_common(bound, node, element),
                node.addresses[0],
                _terms(m, n_atoms, [dim * mul for dim, mul in layer.shapes]),
                _chosen(inputs, node.connections),
                _chosen(inputs, node.kept),
                ctypes.c_double(node.factor),
                ctypes.c_double(node.epsilon),
                _terms(z, n_atoms, [dim * mul for dim, mul, _ in node.shapes]),
                _terms(out, n_atoms, node.sizes),
                _terms(after, n_atoms, node.sizes),
            )
            summed.append(y)
            before.append(z)
            x = out
            if after is not None:
                y = after
        ctx.parts = bound, eager, len(weights)
        ctx.save_for_backward(element, edge_vec, *weights, *summed, *before)
        return x.view(n_atoms, -1)

    @staticmethod
    def backward(ctx: Any, by: Tensor) -> Any:
        bound, eager, n_weights = ctx.parts
        element, edge_vec, *saved = ctx.saved_tensors
        weights, saved = saved[:n_weights], saved[n_weights:]
        none = None, None, None, None, None
        if torch.is_grad_enabled():  # a second derivative will be asked for
            return *none, *differentiable(
                lambda inputs: [eager(inputs[0], inputs[1:])], [edge_vec, *weights], [by]
            )
        n_atoms = bound.n_atoms
        pairs = list(_layers(bound))
        by_edge_vec = torch.zeros_like(edge_vec)
        by_weights = [torch.zeros_like(part) for part in weights]
        by_out, by_y = by.contiguous(), None
        for k in range(len(pairs) - 1, -1, -1):
            layer, node = pairs[k]
            y, z = saved[k], saved[len(pairs) + k]
            shapes = [dim * mul for dim, mul in layer.shapes]
            by_m = edge_vec.new_zeros(n_atoms * sum(shapes))
            by_x = edge_vec.new_zeros(n_atoms * sum(layer.inputs))
            by_inputs = _starts(by_x, n_atoms, layer.inputs)
            bound.library.node_backward(
                *_common(bound, node, element),
                node.addresses[1],
                ctypes.c_double(node.factor),
                ctypes.c_double(node.epsilon),
                _terms(z, n_atoms, [dim * mul for dim, mul, _ in node.shapes]),
                _terms(by_out, n_atoms, node.sizes),
                _terms(by_y, n_atoms, node.sizes),
                _terms(by_m, n_atoms, shapes),
                _chosen(by_inputs, node.connections),
                _chosen(by_inputs, node.kept),
            )
            n_threads = bound.n_threads
            by_sum = edge_vec.new_zeros(n_threads, n_atoms * sum(layer.inputs))
            bound.run(
                f"{layer.name}_backward",
                n_threads,
                *radial_of(layer, weights[k] if weights else None),
                _terms(y, n_atoms, layer.inputs),
                _terms(by_m, n_atoms, shapes),
                pointer(by_edge_vec),
                pointer(by_weights[k] if weights else None),
                pointer(by_sum),
            )
            by_out, by_y = by_x, by_sum[0] if n_threads == 1 else by_sum.sum(0)
        return *none, by_edge_vec, *by_weights


def _layers(bound: BoundSums) -> zip[tuple[SumLayer, NodeLayer]]:
    return zip(bound.sums.layers, bound.sums.nodes, strict=True)


def _common(bound: BoundSums, node: NodeLayer, element: Tensor) -> tuple[Any, ...]:
    n_atoms = bound.n_atoms
    return (
        ctypes.c_int64(n_atoms),
        ctypes.c_int64(max(1, min(torch.get_num_threads(), n_atoms // _ATOMS_PER_THREAD))),
        ctypes.c_int64(len(node.shapes)),
        ctypes.c_int64(node.n_before),
        pointer(node.terms),
        pointer(element),
    )


def _starts(tensor: Tensor, n_atoms: int, sizes: Sequence[int]) -> list[int]:
    """Where terms of so many numbers an atom begin, for C."""
    first, step = tensor.data_ptr(), n_atoms * tensor.element_size()
    return [first + step * before for before in accumulate(sizes[:-1], initial=0)]


def _terms(tensor: Tensor | None, n_atoms: int, sizes: Sequence[int]) -> Any:
    """The same as an array of C, of NULL for None."""
    if tensor is None:
        return (ctypes.c_void_p * len(sizes))()
    return (ctypes.c_void_p * len(sizes))(*_starts(tensor, n_atoms, sizes))


def _chosen(starts: Sequence[int], which: Sequence[int | None]) -> Any:
    return (ctypes.c_void_p * len(which))(*[None if k is None else starts[k] for k in which])
