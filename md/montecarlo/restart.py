"""The state of a Monte Carlo run on disk: one file, replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlff2d import checkpoint
from mlff2d.files import naming

FORMAT = 1
"""Number of the format of the file."""

_DIGESTS = {"structures": "other structures", "model": "another model"}


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and primitives, all or nothing."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write({**content, "format": FORMAT}, path)


def load(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state to go on from, None where there is no file.

    Raises ValueError for a file that is none, and for that of another run, naming what differs.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        number, before = content["format"], content["identity"]
    except Exception as error:  # whatever torch trips over
        raise ValueError(
            f"{path} is not the state of a Monte Carlo run; remove it, or give another file"
        ) from error
    if number != FORMAT:
        raise ValueError(
            f"{path} is of format {number} and this is format {FORMAT}: go on with the version "
            "that wrote it, or remove the file to begin anew"
        )
    changed = [
        _DIGESTS.get(name, f"{name} {before.get(name)!r} (now {identity[name]!r})")
        for name in identity
        if before.get(name) != identity[name]
    ]
    if changed:
        raise ValueError(
            f"{path} was begun with {'; '.join(changed)}: go on as it was begun, or remove the "
            "file to begin anew"
        )
    return content
