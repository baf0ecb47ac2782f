"""Values on the command line, for the `type` of an argument; nothing heavy is imported here."""

from __future__ import annotations

import argparse
import math


def positive_number(text: str) -> float:
    """A positive, finite number. Raises ArgumentTypeError for any other text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


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
