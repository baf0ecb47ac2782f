"""Models whose messages are filtered by functions of the distance, by compiled code.

In float32 filters come from splines, where these err no more than rounding does; else the code
multiplies what the filters are linear in by a matrix. All blocks are one operation with one
gradient.

Axes: N atoms, E edges, K distances, Z elements, C channels, B functions.
"""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mlff2d.nn.filters import RadialFilterBasis, shifted_softplus
from mlff2d.nn.kernels.compiler import CompilerError, load_library
from mlff2d.nn.kernels.dense import SOURCE as DENSE
from mlff2d.nn.kernels.dense import LayerWeights, fill_up, filled
from mlff2d.nn.kernels.source import library
from mlff2d.nn.kernels.spline import RadialSpline, radial_spline
from mlff2d.nn.kernels.sums import BoundSums, CompiledSums
from mlff2d.nn.kernels.update import (
    MATRIX,
    PANEL,
    Atoms,
    differentiable,
    panels,
    pointer,
    pointers,
)

SOURCE = (Path(__file__).parent / "edges.c").read_text(encoding="utf-8")

_REAL = {torch.float32: "float", torch.float64: "double"}

_MOST = 1024
"""Channels that the C code has room for on a thread's stack."""

Eager = Callable[[Tensor], Tensor]


class FilterFunctions(nn.Module):
    """What filters are linear in.

    Parameters
    ----------
    basis
        Of distances.
    hidden
        A layer with shifted softplus after it, unless filters are linear in the basis.
    """

    def __init__(self, basis: RadialFilterBasis, hidden: nn.Linear | None = None) -> None:
        super().__init__()
        self.basis = basis
        self.hidden = hidden

    def forward(self, r: Tensor) -> Tensor:
        """(K,) distances in Å -> (K, B), the last of them the envelope."""
        radial, envelope = self.basis(r)
        if self.hidden is not None:
            radial = shifted_softplus(self.hidden(radial))
        return torch.cat([radial * envelope, envelope], dim=1)


@dataclass
class Filters:
    """The filters of a block.

    Attributes
    ----------
    functions
        What they are linear in.
    matrix : (parts C, B)
        Of what atoms send the parts are multiplied with these.
    """

    functions: FilterFunctions
    matrix: Tensor

    def fill_up(self, n: int) -> Filters:
        """Filled up to what the code takes, the parts of 16 channels one after another."""
        matrix = fill_up(self.matrix, n)
        rows = matrix.view(-1, filled(n) // PANEL, PANEL, matrix.shape[1])
        return Filters(self.functions, rows.transpose(0, 1).reshape(matrix.shape))

    def is_same(self, other: Filters) -> bool:
        """Whether one table serves both."""
        return self.functions is other.functions and torch.equal(self.matrix, other.matrix)

    def spline(self, cutoff: float) -> RadialSpline | None:
        """A table of them."""

        def function(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
            functions = deepcopy(self.functions).to(dtype).requires_grad_(False)
            return lambda r: linear(functions(r), self.matrix.to(dtype))

        return radial_spline(function, cutoff)


class _Task(ctypes.Structure):
    """`task` of the C code."""

    _fields_ = (
        *[(name, ctypes.c_int64) for name in ("n_atoms", "n_blocks", "n_functions")],
        *[(name, ctypes.c_int64) for name in ("edge_threads", "atom_threads")],
        *[(name, ctypes.c_void_p) for name in ("first", "neighbour", "element", "vectors")],
        *[(name, ctypes.c_void_p) for name in ("functions", "by_functions", "radial")],
        *[(name, ctypes.c_void_p) for name in ("transposed", "scales")],
        ("cutoff", ctypes.c_double),
        *[(name, ctypes.c_void_p) for name in ("sent", "weights")],
    )


class CompiledFilters(CompiledSums):
    """All blocks of a model; see `CompiledSums`. A subclass says what becomes of the sums.

    Parameters
    ----------
    text
        C of the subclass.
    filters
        Of each block; the first may have fewer parts.
    n_channels
        C.
    sent : (Z, parts C)
        What atoms of each element send in the first block.
    weights
        Of the subclass.
    parameters
        All of the model.
    cutoff
        In Å.

    Raises CompilerError where nothing can be compiled.
    """

    def __init__(
        self,
        text: str,
        filters: Sequence[Filters],
        n_channels: int,
        sent: Tensor,
        weights: LayerWeights,
        parameters: list[Tensor],
        cutoff: float,
    ) -> None:
        dtype = parameters[0].dtype
        if dtype not in _REAL:
            raise CompilerError(f"there is no compiled code for {dtype}")
        if max(n_channels, *(size for own in weights.sizes for size in own)) > _MOST:
            raise CompilerError(f"there is no compiled code for more than {_MOST} channels")
        text = library([MATRIX, DENSE, SOURCE, text], _REAL[dtype])
        super().__init__(text, [], [], parameters, cutoff, dtype)
        self._library = load_library(text)
        self._weights = weights
        self._sent = fill_up(sent.detach(), n_channels, dim=1).to(dtype).contiguous()
        filters = [own.fill_up(n_channels) for own in filters]
        splines = _splines(filters, cutoff) if dtype == torch.float32 else None
        if splines is None:
            self._functions = [own.functions for own in filters]
            self._radial = [panels(own.matrix.T.to(dtype)) for own in filters]
            self._transposed = [panels(own.matrix.to(dtype)) for own in filters]
            self._scales = torch.zeros(len(filters), dtype=torch.float64)
        else:
            self._functions = []
            self._radial = [spline.rows for spline in splines]
            self._transposed = []
            self._scales = torch.tensor([s.scale for s in splines], dtype=torch.float64)

    def __getstate__(self) -> dict[str, Any]:
        return {k: own for k, own in super().__getstate__().items() if k != "_addresses"}

    @property
    def tabulated(self) -> bool:
        """Whether filters come from splines."""
        return not self._functions

    @property
    def n_blocks(self) -> int:
        """Blocks of the model."""
        return len(self._radial)

    def features(self, bound: BoundSums, x: Tensor, element: Tensor, eager: Eager) -> Tensor:
        """Features of the atoms after the last block, (N, C).

        Parameters
        ----------
        bound
            What `bind` gave.
        x : (N, C)
            The embedding of the atoms' elements.
        element : (N,) int64
            Row numbers of the elements.
        eager
            The same of edge vectors by operations of torch, for second derivatives.
        """
        found: Tensor = _Blocks.apply(self, bound, eager, x, element, bound.edge_vec)
        return found

    @abstractmethod
    def forward(self, call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C) filled up -> the features, and what the gradient needs."""

    @abstractmethod
    def backward(self, call: Call, by: Tensor, kept: Tensor) -> Tensor:
        """The (E, 3) gradient by edge vectors, of that by features."""

    def functions_of(self, edge_vec: Tensor) -> list[Tensor]:
        """(E, B) functions of each block; none where there are splines."""
        if self.tabulated:
            return []
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        known = {own: own(r).contiguous() for own in dict.fromkeys(self._functions)}
        return [known[own] for own in self._functions]

    @cached_property
    def _addresses(self) -> tuple[Any, Any, Any, Any]:
        """Where filters and weights are, for C; of a copy, elsewhere."""
        weights = self._weights
        return (
            pointers(self._radial),
            pointers(self._transposed),
            pointers(weights.forward),
            pointers(weights.backward),
        )


@dataclass
class Call:
    """A `CompiledFilters` over certain edges."""

    sums: CompiledFilters
    bound: BoundSums
    element: Tensor
    functions: list[Tensor]
    by_functions: list[Tensor]

    def __call__(self, name: str, *rest: int | float | Tensor) -> None:
        """Call a function of the subclass's C."""
        bound, sums = self.bound, self.sums
        radial, transposed, *weights = sums._addresses
        functions, by_functions = pointers(self.functions), pointers(self.by_functions)
        task = _Task(
            bound.n_atoms,
            sums.n_blocks,
            self.functions[0].shape[1] if self.functions else 0,
            bound.n_threads,
            Atoms(bound.library, self.element).n_threads,
            bound.first.data_ptr(),
            bound.neighbour.data_ptr(),
            self.element.data_ptr(),
            bound.edge_vec.data_ptr(),
            ctypes.addressof(functions),
            ctypes.addressof(by_functions),
            ctypes.addressof(radial),
            ctypes.addressof(transposed),
            sums._scales.data_ptr(),
            sums._cutoff,
            sums._sent.data_ptr(),
            ctypes.addressof(weights[name.endswith("backward")]),
        )
        getattr(bound.library, name)(ctypes.byref(task), *[_argument(own) for own in rest])


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sums: CompiledFilters,
        bound: BoundSums,
        eager: Eager,
        x: Tensor,
        element: Tensor,
        edge_vec: Tensor,
    ) -> Tensor:
        with torch.enable_grad():  # what C leaves to torch has a graph of its own
            leaf = edge_vec.detach().requires_grad_(True)
            functions = sums.functions_of(leaf)
        call = Call(sums, bound, element, functions, [])
        found, kept = sums.forward(call, _own(x))
        ctx.parts = sums, bound, eager, leaf, functions
        ctx.save_for_backward(element, edge_vec, kept)
        return found[:, : x.shape[1]]

    @staticmethod
    def backward(ctx: Any, by: Tensor) -> Any:
        sums, bound, eager, leaf, functions = ctx.parts
        element, edge_vec, kept = ctx.saved_tensors
        none = None, None, None, None, None
        if torch.is_grad_enabled():  # a second derivative will be asked for
            return *none, *differentiable(lambda inputs: [eager(inputs[0])], [edge_vec], [by])
        gradients = {own: torch.zeros_like(own) for own in dict.fromkeys(functions)}
        call = Call(sums, bound, element, functions, [gradients[own] for own in functions])
        by_edges = sums.backward(call, _own(by), kept)
        if functions:
            by_edges += torch.autograd.grad(
                list(gradients), leaf, list(gradients.values()), retain_graph=True
            )[0]
        return *none, by_edges


def _splines(filters: Sequence[Filters], cutoff: float) -> list[RadialSpline] | None:
    """Splines of the filters of all blocks; None where one of them would err."""
    splines: list[RadialSpline] = []
    for k, own in enumerate(filters):
        same = [n for n in range(k) if own.is_same(filters[n])]
        spline = splines[same[0]] if same else own.spline(cutoff)
        if spline is None:
            return None
        splines.append(spline)
    return splines


def _own(x: Tensor) -> Tensor:
    """(N, C) filled up, to be written to."""
    return fill_up(x, x.shape[1], dim=1).clone(memory_format=torch.contiguous_format)


def _argument(own: int | float | Tensor) -> Any:
    if isinstance(own, Tensor):
        return pointer(own)
    return ctypes.c_int64(own) if isinstance(own, int) else ctypes.c_double(own)
