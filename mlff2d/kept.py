"""What autograd keeps between a forward and a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(run: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes of all tensors but the weights that autograd keeps while something runs.

    Counted, not watched: the same wherever it runs.
    """
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Held, so that no other tensor gets its place while the sum is made.
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own
    )
