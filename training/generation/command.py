"""`mlff2d generate`: its kinds, each of which is loaded when it is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

# Nothing heavy above the functions: --help must not wait for what computes.

ABOUT = "Structures to label: every kind makes layers in one form, without duplicates."

COMMANDS = {
    "prototypes": "known types of layers made of other elements",
    "substitute": "layers whose elements are replaced by others",
    "alloy": "cells of an alloy: all distinct ones, quasirandom ones, or random ones",
    "janus": "layers with atoms of one side replaced",
    "perturb": "frames about structures: rattled, strained, scaled",
    "hot": "frames about structures: molecular dynamics by a model",
    "random": "random layers with the symmetry of a layer group",
}


mover: Callable[..., Any] | None = None
"""What moves structures for the kind hot, a `hot.Mover`; set by who knows one."""


@dataclass(frozen=True)
class _Command:
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def load(name: str) -> _Command:
    """The command of a kind."""
    if name == "prototypes":
        from . import prototype_command as prototypes

        return _Command(prototypes.add_arguments, prototypes.run)
    if name == "substitute":
        from . import substitute_command as substitute

        return _Command(substitute.add_arguments, substitute.run)
    if name in ("alloy", "janus"):
        from . import alloy_command as alloys

        if name == "alloy":
            return _Command(alloys.alloy_arguments, alloys.alloy)
        return _Command(alloys.janus_arguments, alloys.janus)
    if name in ("perturb", "hot"):
        from . import frames_command as frames

        if name == "perturb":
            return _Command(frames.perturb_arguments, frames.perturb)
        if mover is None:
            raise RuntimeError("mlff2d.training.generation.command.mover is not set")
        return _Command(frames.hot_arguments, partial(frames.hot, mover=mover))
    from . import random_command as random

    return _Command(random.add_arguments, random.run)
