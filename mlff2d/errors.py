"""Errors that users meet, and the hints inside them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StructureError(ValueError):
    """A structure that no potential can work on; the message says why and what to do."""


class ModelFileError(ValueError):
    """A file that is not a usable model; the message says why and what to do."""


class TrainingStateError(ModelFileError):
    """The saved state of a training, given in place of a model."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint ' Did you mean X?' for a misspelt word, followed by the valid choices."""
    choices = sorted(choices)
    lower = {choice.lower(): choice for choice in reversed(choices)}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    hint = f" Did you mean {lower[close[0]]!r}?" if close else ""
    return f"{hint} Valid: {', '.join(choices)}."


def counted(n: int, noun: str) -> str:
    """'1 frame', '1,200 frames': a number and what there is of it."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
