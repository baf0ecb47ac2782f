"""Sums of messages over neighbours by compiled code that can be derived twice, for training.

A sum F is linear in the features x of the neighbours, in the harmonics Y of the edges and in their
radial weights w, and so is (F, g), its product with a gradient g, in all four. The gradients of
(F, g) by x, Y and w are therefore sums of the same kind, and the gradients of these are F and its
gradients with one of x, Y and w replaced at a time: two functions in C are enough for energies,
forces and the training on forces.

Axes: N atoms, E edges, H = (l_max + 1)^2 harmonics, W radial weights, C channels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mlff2d.nn.kernels.compiler import CompilerError, load_library
from mlff2d.nn.kernels.source import Kernel, library
from mlff2d.nn.kernels.update import pointer, pointers
from mlff2d.nn.tensor_product import NeighbourTensorProduct

_REAL = {torch.float32: "float", torch.float64: "double"}

_EDGES_PER_THREAD = 500
"""Below, starting a thread costs more than it saves."""

_DEVIATION = {torch.float32: 1e-4, torch.float64: 1e-12}
"""Of the greatest number, by which compiled code may differ from torch."""


class _Kernel(Kernel):
    """With harmonics given, of which that of degree 0 is a constant, `unit`."""

    arguments = "const real *harmonics, const real *radial, double unit, double unused"

    def _edge(self, slopes: bool) -> Iterator[str]:
        n_harmonics = (self.l_max + 1) ** 2
        yield "            whole j = neighbour[e];"
        yield f"            const real *y = harmonics + e * {n_harmonics};"
        yield f"            const real *weight = radial + e * {self.n_weights};"
        if slopes:
            yield f"            real *by_weight = by_radial + e * {self.n_weights};"
        yield "            real y0 = unit;"
        for m in range(1, n_harmonics):
            yield f"            real y{m} = y[{m}];"
        yield from self._couplings()

    def _to_vectors(self) -> Iterator[str]:
        n_harmonics = (self.l_max + 1) ** 2
        for m in range(1, n_harmonics):
            yield f"            by_vectors[e * {n_harmonics} + {m}] = gy{m};"


class TrainableSum:
    """The sum of one tensor product, on a CPU, in one precision."""

    def __init__(self, product: NeighbourTensorProduct, dtype: torch.dtype) -> None:
        """Raises CompilerError where it cannot be compiled."""
        if dtype not in _REAL:
            raise CompilerError(f"there is no compiled code for {dtype}")
        kernel = _Kernel(product, "sum", table=False)
        self._text = library([*kernel.forward(), *kernel.backward()], _REAL[dtype])
        self._dtype = dtype
        self._inputs = [term.dim for term in product.irreps_in]
        self._shapes = [(ir.dim, mul) for mul, ir in product.irreps_out]
        self._library: ctypes.CDLL | None = load_library(self._text)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_library": None}

    def __call__(
        self, x: list[Tensor], harmonics: Tensor, weights: Tensor, edge_index: Tensor
    ) -> list[Tensor] | None:
        """As `NeighbourTensorProduct.forward`; None for what it is not made for."""
        given = (*x, harmonics, weights)
        if any(t.dtype != self._dtype or t.device.type != "cpu" for t in given):
            return None
        if torch.is_autocast_enabled("cpu"):
            return None
        if self._library is None:
            self._library = load_library(self._text)
        edge_index = edge_index.contiguous()
        first = torch.empty(x[0].shape[0] + 1, dtype=torch.int64)
        n_edges = edge_index.shape[1]
        size = ctypes.c_int64(n_edges), ctypes.c_int64(x[0].shape[0])
        if not self._library.rows(*size, pointer(edge_index), pointer(first)):
            return None
        run = _Run(self, first, edge_index[1], n_edges)
        return list(_Sum.apply(run, harmonics, weights, *x))


class _Run:
    """The functions over certain edges."""

    def __init__(self, own: TrainableSum, first: Tensor, neighbour: Tensor, n_edges: int) -> None:
        self._library, self._inputs, self._shapes = own._library, own._inputs, own._shapes
        self._first, self._neighbour = first, neighbour
        self._n_atoms = len(first) - 1
        self._n_threads = max(1, min(torch.get_num_threads(), n_edges // _EDGES_PER_THREAD))

    def add(
        self, out: list[Tensor], harmonics: Tensor, weights: Tensor, x: list[Tensor], unit: float
    ) -> None:
        """Add the sum to (N, 2l+1, C) tensors."""
        self._call("sum_forward", harmonics, weights, unit, pointers(x), pointers(out))

    def gradients(
        self,
        by_out: list[Tensor],
        harmonics: Tensor,
        weights: Tensor,
        x: list[Tensor],
        unit: float,
    ) -> list[Tensor]:
        """By harmonics, by weights, and by each part of x; nothing by harmonics of degree 0."""
        by_harmonics, by_weights = torch.zeros_like(harmonics), torch.empty_like(weights)
        by_x = harmonics.new_zeros(self._n_threads, self._n_atoms * sum(self._inputs))
        self._call(
            "sum_backward",
            harmonics,
            weights,
            unit,
            pointers(x),
            pointers(by_out),
            pointer(by_harmonics),
            pointer(by_weights),
            pointer(by_x),
        )
        total = by_x[0] if self._n_threads == 1 else by_x.sum(0)
        parts = total.split([self._n_atoms * size for size in self._inputs])
        of_x = [part.view_as(own) for part, own in zip(parts, x, strict=True)]
        return [by_harmonics, by_weights, *of_x]

    def zeros(self, like: Tensor) -> list[Tensor]:
        """For `add`."""
        return [like.new_zeros(self._n_atoms, *shape) for shape in self._shapes]

    def _call(self, name: str, harmonics: Tensor, weights: Tensor, unit: float, *rest: Any) -> None:
        getattr(self._library, name)(
            ctypes.c_int64(self._n_atoms),
            ctypes.c_int64(self._n_threads),
            pointer(self._first),
            pointer(self._neighbour),
            pointer(harmonics),
            pointer(weights),
            ctypes.c_double(unit),
            ctypes.c_double(0.0),
            *rest,
        )


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: _Run, harmonics: Tensor, weights: Tensor, *x: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.run = run
        harmonics, weights, *parts = (t.contiguous() for t in (harmonics, weights, *x))
        ctx.save_for_backward(harmonics, weights, *parts)
        out = run.zeros(harmonics)
        run.add(out, harmonics, weights, parts, 1.0)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *by_out: Tensor) -> Any:
        return None, *_Gradients.apply(ctx.run, len(by_out), *by_out, *ctx.saved_tensors)


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, n_out: int, *given: Tensor) -> tuple[Tensor, ...]:
        given = tuple(t.contiguous() for t in given)
        ctx.run, ctx.n_out = run, n_out
        ctx.save_for_backward(*given)
        ctx.set_materialize_grads(False)
        by_out, (harmonics, weights, *x) = list(given[:n_out]), given[n_out:]
        return tuple(run.gradients(by_out, harmonics, weights, x, 1.0))

    @staticmethod
    def backward(ctx: Any, *by: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "compiled sums have no third derivatives; set `compiled` of the model's tensor "
                "products to None"
            )
        run, n_out = ctx.run, ctx.n_out
        by_out, (harmonics, weights, *x) = (
            list(ctx.saved_tensors[:n_out]),
            ctx.saved_tensors[n_out:],
        )
        of_harmonics, of_weights, *of_x = (None if t is None else t.contiguous() for t in by)
        total: list[Tensor | None] = [None] * (2 + len(x))
        out = run.zeros(harmonics)
        # Each of the three in turn gives its place to the gradient by its gradient.
        replaced: list[tuple[int, Tensor, Tensor, list[Tensor], float]] = []
        if of_harmonics is not None:
            replaced.append((0, of_harmonics, weights, x, 0.0))
        if of_weights is not None:
            replaced.append((1, harmonics, of_weights, x, 1.0))
        if any(t is not None for t in of_x):
            filled = [
                torch.zeros_like(own) if t is None else t for t, own in zip(of_x, x, strict=True)
            ]
            replaced.append((2, harmonics, weights, filled, 1.0))
        for place, own_harmonics, own_weights, own_x, unit in replaced:
            run.add(out, own_harmonics, own_weights, own_x, unit)
            found = run.gradients(by_out, own_harmonics, own_weights, own_x, unit)
            for k, gradient in enumerate(found):
                if min(k, 2) != place:
                    total[k] = gradient if total[k] is None else total[k] + gradient
        return None, None, *out, *total


def compile_product(product: NeighbourTensorProduct, dtype: torch.dtype) -> None:
    """Have a tensor product computed by compiled code from now on.

    Raises CompilerError where it cannot be, or where it gives other numbers than torch.
    """
    product.compiled = None
    found = TrainableSum(product, dtype)
    expected = _numbers(product, product, dtype)
    for f, e in zip(_numbers(product, found, dtype), expected, strict=True):
        # Written so that NaN fails.
        if not bool((f - e).abs().max() <= _DEVIATION[dtype] * e.abs().max()):
            raise CompilerError("compiled code gave other numbers than torch when it was tested")
    product.compiled = found


def _numbers(product: NeighbourTensorProduct, how: Any, dtype: torch.dtype) -> list[Tensor]:
    """A sum over some edges, its gradients, and theirs."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return drawn.to(dtype).requires_grad_()

    x = [random(4, ir.dim, mul) for mul, ir in product.irreps_in]
    vectors, weights = random(9, (product.l_max + 1) ** 2 - 1), random(9, product.n_weights)
    harmonics = torch.cat([torch.ones(9, 1, dtype=dtype), vectors], dim=1)
    edge_index = torch.tensor([[0, 0, 0, 1, 1, 3, 3, 3, 3], [1, 2, 0, 3, 0, 0, 1, 2, 3]])
    inputs = [t for t in (vectors, weights, *x) if t.numel()]
    out = how(x, harmonics, weights, edge_index)
    by = torch.autograd.grad(_square(out), inputs, create_graph=True)
    again = torch.autograd.grad(_square(by), inputs)
    return [t.detach() for t in (*out, *by, *again)]


def _square(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]).square().sum()
