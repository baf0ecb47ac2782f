"""What a layer makes of summed messages, by compiled code: what its kinds have in common.

Features of all terms lie in one tensor, term after term, each (N, 2l+1, C).
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

MATRIX = (Path(__file__).parent / "matrix.c").read_text(encoding="utf-8")

PANEL = 16
"""PANEL of the C code."""

_ATOMS_PER_THREAD = 50
"""Below, starting a thread costs more than it saves."""


@dataclass(frozen=True)
class Atoms:
    """The atoms of a graph for a library's functions.

    Attributes
    ----------
    library
        Of compiled code.
    element : (N,) int64
        Row numbers of the elements.
    """

    library: ctypes.CDLL
    element: Tensor

    @property
    def n(self) -> int:
        """N."""
        return self.element.shape[0]

    @property
    def n_threads(self) -> int:
        """Threads worth starting."""
        return max(1, min(torch.get_num_threads(), self.n // _ATOMS_PER_THREAD))


class Update(ABC):
    """The update of a layer: from summed messages to features, and to what the next layer sums.

    Attributes
    ----------
    source
        C that it needs.
    is_read
        Whether the first term, of scalars, is a feature that the energy is read from.
    """

    source: ClassVar[str]
    is_read: bool

    @property
    @abstractmethod
    def sizes(self) -> list[int]:
        """Numbers of an atom in each term of the outcome."""

    @abstractmethod
    def forward(
        self, atoms: Atoms, m: Any, inputs: Sequence[int], scale: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What `backward` needs, the outcome, and what the next layer sums.

        Parameters
        ----------
        atoms
            N.
        m
            Where the terms of the messages begin.
        inputs
            Where those of the layer's input begin.
        scale : (N,) or None
            What messages are multiplied with.
        """

    @abstractmethod
    def backward(
        self,
        atoms: Atoms,
        saved: Tensor,
        scale: Tensor | None,
        by_out: Tensor,
        by_y: Tensor | None,
        by_m: Any,
        by_inputs: Sequence[int],
        by_scale: Tensor | None,
    ) -> None:
        """From the gradients by the outcome and by what the next layer sums to the others.

        All others are added to; they are zero at the start.
        """


def panels(matrix: Tensor) -> Tensor:
    """(..., k, n) -> (..., n / 16, k, 16) as products of C take it, filled up with zeros."""
    filled = pad(matrix, (0, -matrix.shape[-1] % PANEL))
    return filled.unflatten(-1, (-1, PANEL)).transpose(-3, -2).contiguous()


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


def starts(tensor: Tensor, n_atoms: int, sizes: Sequence[int]) -> list[int]:
    """Where terms of so many numbers an atom begin, for C."""
    first, step = tensor.data_ptr(), n_atoms * tensor.element_size()
    return [first + step * before for before in accumulate(sizes[:-1], initial=0)]


def term_pointers(tensor: Tensor | None, n_atoms: int, sizes: Sequence[int]) -> Any:
    """The same as an array of C, of NULL for None."""
    if tensor is None:
        return (ctypes.c_void_p * len(sizes))()
    return (ctypes.c_void_p * len(sizes))(*starts(tensor, n_atoms, sizes))


def chosen(where: Sequence[int], which: Sequence[int | None]) -> Any:
    """Some of them as an array of C, of NULL for None."""
    return (ctypes.c_void_p * len(which))(*[None if k is None else where[k] for k in which])
