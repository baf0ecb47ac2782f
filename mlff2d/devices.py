"""Where to compute."""

from __future__ import annotations

import torch


def pick_device(name: str | None) -> torch.device:
    """A device by name; for None or "auto" the GPU if there is one, else the CPU.

    Raises ValueError for a name that torch does not know or a device that is not there.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"the device {name!r} cannot be used here; take 'cpu', or 'cuda' where torch sees a GPU"
        ) from error
