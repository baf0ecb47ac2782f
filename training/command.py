"""`mlff2d train`: its arguments, and the way from them to a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from .config import load_config
from .loop import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("config", type=Path, help="YAML file with the settings of the run")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a setting, e.g. --set train.lr=1e-3; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    """Train; the exit status is 0 for a run that finished or whose time was up.

    A run stopped by a signal has saved its state and gives 128 plus the signal's number. Raises
    ValueError (one sentence) for a config, data or a loss with which training cannot go on.
    """
    outcome = train(load_config(args.config, args.overrides))
    return 0 if outcome.signal is None else 128 + outcome.signal
