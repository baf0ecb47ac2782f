"""Values on the command line, for the `type` of an argument; nothing heavy is imported here."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path


def positive_number(text: str) -> float:
    """A positive, finite number. Raises ArgumentTypeError for any other text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def number(text: str) -> float:
    """A finite number. Raises ArgumentTypeError for any other text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def share(text: str) -> float:
    """A number from 0 to 1. Raises ArgumentTypeError for any other text."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def count(text: str) -> int:
    """A whole number from 0 on. Raises ArgumentTypeError for any other text."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def positive_count(text: str) -> int:
    """A whole number from 1 on. Raises ArgumentTypeError for any other text."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def listed(meanings: Mapping[str, str]) -> str:
    """Words and what they mean, as lines of the help."""
    width = max(map(len, meanings))
    return "\n".join(f"  {word:{width}}  {meaning}" for word, meaning in meanings.items())


def add_model(group: argparse._ActionsContainer) -> None:
    """The arguments --model and --dtype of what a potential computes."""
    group.add_argument(
        "--model", metavar="FILE", help="model file or shipped model (default: universal)"
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="precision of the model (default: %(default)s)",
    )


def add_model_and_data(parser: argparse.ArgumentParser) -> None:
    """The arguments MODEL and DATA of what looks at labelled structures with a model."""
    parser.add_argument("model", metavar="MODEL", help="model file, or name of a shipped model")
    parser.add_argument(
        "data",
        metavar="DATA",
        type=Path,
        nargs="+",
        help="HDF5 files of `mlff2d data build`, and whatever that reads",
    )


def add_machine(group: argparse._ActionsContainer) -> None:
    """The arguments --device and --threads of where it is computed."""
    group.add_argument("--device", metavar="D", help="cpu or cuda (default: a GPU if there is one)")
    group.add_argument(
        "--threads", type=positive_count, metavar="N", help="of the CPU (default: what torch takes)"
    )


def add_restart(parser: argparse._ActionsContainer) -> None:
    """The argument --restart of what goes on where it was."""
    parser.add_argument(
        "--restart", action="store_true", help="begin anew and write over an earlier run"
    )


def add_pressure(group: argparse._ActionsContainer, default: float) -> None:
    """The argument --pressure of what moves the cell in the plane."""
    group.add_argument(
        "--pressure",
        type=number,
        default=default,
        metavar="P",
        help="in the plane, N/m; a positive one compresses (default: %(default)s)",
    )


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """The argument --set, which overrides settings of a config."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"override a setting, e.g. --set {example}; may be given several times",
    )
