"""`mlff2d alloy`: from DFT frames of an alloy to formation energies, hulls and order."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlff2d.arguments import add_overrides, listed

from .choices import METHODS, STEPS

# Nothing heavy above the functions: --help must not wait for torch.

relaxer: Callable[..., Any] | None = None
"""What relaxes many structures, see `potentials`; the program, which knows md, sets it."""

sampler: Callable[..., Any] | None = None
"""What swaps atoms with a potential, see `montecarlo`; set by the program too."""

DESCRIPTION = """\
Formation energies of the configurations of an alloy, by potentials, cluster expansions and
composition alone, compared on the same held-out configurations.

A YAML file names the layer, the element whose sites are shared, the species that share them, and
files with DFT frames: relaxed ones, steps of relaxations, rattled ones, in any cell. Frames are
sorted by configuration; those of end members are needed. Killed at any moment, the same
command goes on; with more frames the same command does anew what depends on them.
"""

EPILOG = """\
steps, all of them by default; the report is written after any:
{steps}

methods, for `methods:` in the YAML file:
{methods}

written into run_dir:
  report/report.html  everything on one page; its tables as CSV and figures as PNG beside it
  cells/NAME.extxyz   all configurations of an alloy, from which potentials relax; NAME.csv
  predicted/NAME.csv  formation energies of all of them by every method
  predicted/*.pt      potentials that were trained on all frames
  kept/               what was computed; may be deleted when the study is done

examples:
  mlff2d alloy mows2.yaml
  mlff2d alloy mows2.yaml cells
      only which configurations there are, in a few seconds
  mlff2d alloy mows2.yaml compare --set 'methods=[fine-tuned, ce-ardr]' --set splits.repeats=3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.format(steps=listed(STEPS), methods=listed(METHODS))
    parser.add_argument(
        "config",
        metavar="CONFIG.yaml",
        type=Path,
        help="settings; training/configs/alloy.yaml is a commented example",
    )
    parser.add_argument(
        "steps", metavar="STEP", nargs="*", default=[], help="only these steps, see below"
    )
    add_overrides(parser, "splits.repeats=3")


def run(args: argparse.Namespace) -> int:
    """Do the steps; 0 when they are done, 128 and the number of a signal that stopped them.

    Raises ConfigError, StructureError, ModelFileError, ValueError and OSError (one sentence) for
    what the user can mend.
    """
    from mlff2d.errors import nearest

    from . import montecarlo, potentials
    from .config import load_alloy
    from .study import run_study

    for step in args.steps:
        if step not in STEPS:
            raise ValueError(f"there is no step {step!r}.{nearest(step, STEPS)}")
    potentials.relaxer, montecarlo.sampler = relaxer, sampler
    signal = run_study(load_alloy(args.config, args.overrides), args.steps or tuple(STEPS))
    return 0 if signal is None else 128 + signal
