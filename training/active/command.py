"""`mlff2d active`: rounds of explore, pick, label and retrain."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlff2d.arguments import add_overrides

# Nothing heavy above the functions: --help must not wait for torch.

relaxer: Callable[..., Any] | None = None
mover: Callable[..., Any] | None = None
"""What relaxes and moves, see `explore`; the program, which knows md, sets both."""

DESCRIPTION = """\
Make a model good where it is used, with few calculations. A round

  explores  relaxations and molecular dynamics by the present model, and perturbed structures
  picks     the frames that teach most: on which a committee of models disagrees, that differ from
            each other, and that are no nonsense
  labels    them by DFT or by a teacher, see mlff2d label
  retrains  the committee on all that is labelled so far
  judges    it on held-out frames where there are some, and says whether what the models were
            unsure of is what they were wrong about

Killed at any moment, the same command goes on with the step it was in.
"""

EPILOG = """\
written into run_dir:
  round-01/, round-02/, ...
    explored.extxyz   all frames that were seen, without labels
    picked.extxyz     those that were picked; info has their uncertainty
    labelled.h5       those with labels
    models/member-0/best.pt, ...
                      the committee; the first explores in the next round
    report.json       the figures of the round
  round-00/           models and report before the first round
  rounds.csv, rounds.png
                      the learning curve

examples:
  mlff2d active active.yaml
  mlff2d active active.yaml --set rounds=5
      goes on with more rounds
  mlff2d active active.yaml --set pick.by=random --set run_dir=runs/random
      the same by chance, to compare
  mlff2d active pick frames.extxyz --committee a.pt b.pt c.pt -n 20 -o picked.extxyz
      only picks, from frames of any origin; see mlff2d active pick --help
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument(
        "config",
        metavar="CONFIG.yaml",
        type=Path,
        help="settings; training/configs/active.yaml is a commented example",
    )
    add_overrides(parser, "pick.n=40")


def run(args: argparse.Namespace) -> int:
    """Do the rounds; 0 when they are done, 128 and the number of a signal that stopped them.

    Raises ConfigError, StructureError, ModelFileError and OSError (one sentence) for what the user
    can mend.
    """
    from . import explore
    from .config import load_active
    from .rounds import run_rounds

    explore.relaxer, explore.mover = relaxer, mover
    signal = run_rounds(load_active(args.config, args.overrides))
    return 128 + signal if signal else 0
