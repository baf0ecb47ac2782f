"""Numbers that are no parameters and stay exact whatever the module's dtype."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Constant(nn.Module):
    """A float64 tensor that is handed out in the dtype and on the device of the data it meets.

    A buffer would be rounded to float32 once and stay so after `.to(torch.float64)`; it would also
    be written into every checkpoint.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        # In tuples, so that Module neither registers nor moves them.
        self._value = (value.double(),)
        self._latest = self._value

    def forward(self, like: Tensor) -> Tensor:
        """The tensor in the dtype and on the device of `like`."""
        latest = self._latest[0]
        if latest.dtype != like.dtype or latest.device != like.device:
            # A tensor made in inference mode could not be used in training afterwards.
            with torch.inference_mode(False):
                latest = self._value[0].to(device=like.device, dtype=like.dtype)
            self._latest = (latest,)
        return latest
