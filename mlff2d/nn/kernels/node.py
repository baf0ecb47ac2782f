"""What becomes of the summed messages of an atom, by compiled code.

A linear map of messages, another of the layer's input that may depend on the element, a norm, the
gate, what is kept of the input, and the linear map that the next layer begins with.

Axes: N atoms, Z elements, C channels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mlff2d.nn.equivariant import Gate, IrrepsLinear, RMSNorm
from mlff2d.nn.kernels.compiler import CompilerError
from mlff2d.nn.kernels.update import Atoms, Update, chosen, panels, pointer, pointers, term_pointers

SOURCE = (Path(__file__).parent / "node.c").read_text(encoding="utf-8")

_EVEN, _ODD = -1, -2

_MOST = 4000
"""Numbers of an atom before the gate that the stack of a thread has room for."""


@dataclass(frozen=True)
class Connection:
    """A linear map of one term of a layer's input: its number, and (Z or 1, C_in, C_out)."""

    source: int
    matrices: Tensor


@dataclass(frozen=True)
class GateUpdate(Update):
    """The update of one layer.

    Attributes
    ----------
    terms : (K, 7) int64
        As the C code has them.
    shapes
        2l + 1 and the channels before and after the gate of each.
    weights, by_weights : (4 K,)
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
    weights: list[Tensor | None]
    by_weights: list[Tensor | None]
    connections: list[int | None]
    kept: list[int | None]
    factor: float
    epsilon: float

    source: ClassVar[str] = SOURCE

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
    ) -> GateUpdate:
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

        Raises CompilerError for more channels than there is room for.
        """
        if gate.irreps_in.dim > _MOST:
            raise CompilerError(
                f"there is no compiled code for as many channels: {gate.irreps_out}"
            )
        n_gates = {k: gate.irreps_out[k].mul for k in gate.gated}
        place = gate.irreps_out[gate.even].mul
        terms: list[list[int]] = []
        forward: list[Tensor | None] = []
        backward: list[Tensor | None] = []
        for k, (mul, ir) in enumerate(gate.irreps_in):
            kind = _EVEN if k == gate.even else _ODD
            if k in n_gates:
                kind, place = place, place + n_gates[k]
            messages = linear.matrix(k) * scale
            connection = connections[k]
            inputs = None if connection is None else connection.matrices.double()
            n_inputs = 0 if inputs is None else inputs.shape[1]
            by_element = int(inputs is not None and len(inputs) > 1)
            n_out = gate.irreps_out[k].mul
            terms.append([ir.dim, mul, len(messages), n_inputs, n_out, kind, by_element])
            after = None if following is None else following.matrix(k)
            dtype = linear.weights[k].dtype
            own = None if norm is None else norm.weights[k].detach()
            matrices = [None if w is None else w.to(dtype) for w in (messages, inputs, after)]
            for of, packed in (
                (forward, [None if w is None else panels(w) for w in matrices]),
                (backward, [None if w is None else panels(w.mT) for w in matrices]),
            ):
                of += [*packed[:2], own, packed[2]]
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
        """Where `weights` and `by_weights` are, for C; of a copy, elsewhere."""
        return pointers(self.weights), pointers(self.by_weights)

    @property
    def n_before(self) -> int:
        """Numbers of an atom before the gate."""
        return sum(self._before)

    @property
    def _before(self) -> list[int]:
        return [dim * mul for dim, mul, _ in self.shapes]

    @property
    def sizes(self) -> list[int]:
        """Numbers of an atom in each term of the outcome."""
        return [dim * mul for dim, _, mul in self.shapes]

    @property
    def is_last(self) -> bool:
        """Whether no layer follows."""
        return self.weights[3] is None

    is_read = is_last

    def forward(
        self, atoms: Atoms, m: Any, inputs: Sequence[int], scale: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `Update`; what is kept is what goes into the norm. There is no scale."""
        like = self.weights[0]
        assert like is not None
        assert scale is None
        before = like.new_zeros(atoms.n * self.n_before)
        out = like.new_empty(atoms.n * sum(self.sizes))
        after = None if self.is_last else torch.zeros_like(out)
        atoms.library.node_forward(
            *self._common(atoms),
            self.addresses[0],
            m,
            chosen(inputs, self.connections),
            chosen(inputs, self.kept),
            ctypes.c_double(self.factor),
            ctypes.c_double(self.epsilon),
            term_pointers(before, atoms.n, self._before),
            term_pointers(out, atoms.n, self.sizes),
            term_pointers(after, atoms.n, self.sizes),
        )
        return before, out, after

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
        """See `Update`."""
        atoms.library.node_backward(
            *self._common(atoms),
            self.addresses[1],
            ctypes.c_double(self.factor),
            ctypes.c_double(self.epsilon),
            term_pointers(saved, atoms.n, self._before),
            term_pointers(by_out, atoms.n, self.sizes),
            term_pointers(by_y, atoms.n, self.sizes),
            by_m,
            chosen(by_inputs, self.connections),
            chosen(by_inputs, self.kept),
        )

    def _common(self, atoms: Atoms) -> tuple[Any, ...]:
        return (
            ctypes.c_int64(atoms.n),
            ctypes.c_int64(atoms.n_threads),
            ctypes.c_int64(len(self.shapes)),
            ctypes.c_int64(self.n_before),
            pointer(self.terms),
            pointer(atoms.element),
        )
