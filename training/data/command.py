"""`mlff2d data`: the arguments of its commands, and where they are done."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlff2d.arguments import add_overrides

# Nothing heavy above the functions: --help must not wait for torch.

ABOUT = "Sets of labelled structures, to train on and to evaluate with."

COMMANDS = {
    "build": "read calculations of any kind into one HDF5 file, once",
    "merge": "join such files, or keep only what a config trains on",
    "stats": "what is in such files, as figures and tables",
}


@dataclass(frozen=True)
class _Command:
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def load(name: str) -> _Command:
    """The command of this name."""
    return {
        "build": _Command(_build_arguments, _build),
        "merge": _Command(_merge_arguments, _merge),
        "stats": _Command(_stats_arguments, _stats),
    }[name]


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    _describe(
        parser,
        """\
Read calculations into one HDF5 file that training, evaluation and fine-tuning take as data.files.
Every frame that can be used is taken; filters and the choice of frames along a trajectory belong to
the config of a training, which can then be changed without reading again. What cannot be used is
counted by kind, with an example of each. Where positions allow it, energies are compared with
forces and stress along the trajectories, and a wrong sign or unit is reported.

Killed or interrupted, the same command goes on where it was.
""",
        """\
sources:
  vasprun.xml, OUTCAR, or a folder with runs of VASP at any depth
  extended XYZ, ASE trajectories and databases, GPAW output, and whatever else ASE reads; .gz, .bz2
  and .xz too
  JSON trajectories of the Alexandria database (stress in kbar; .json or .json.bz2)
  for a property (--target) also folders of CIF files with an id_prop.csv

examples:
  mlff2d data build runs/ -o data.h5
  mlff2d data build mos2.extxyz ws2.db -o tmd.h5 --material-key system
  mlff2d data build cifs/ -o gaps.h5 --target gap
""",
    )
    parser.add_argument("sources", nargs="+", type=Path, help="files and folders, see below")
    _output(parser)
    parser.add_argument(
        "--material-key",
        default="material",
        metavar="KEY",
        help="entry of atoms.info that a split keeps together; without it in a structure the "
        "reduced formula (default: %(default)s)",
    )
    parser.add_argument(
        "--state",
        action="append",
        default=[],
        metavar="KEY",
        help="entry of atoms.info that the model takes in, such as a temperature; may be given "
        "several times",
    )
    parser.add_argument(
        "--target", metavar="KEY", help="the property to learn, in place of energy and forces"
    )


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    _describe(
        parser,
        """\
Join files of `mlff2d data build` into one. With --config only the frames are kept that pass its
filters and its selection, for example to send a small file to a cluster.
""",
        """\
examples:
  mlff2d data merge a.h5 b.h5 -o all.h5
  mlff2d data merge all.h5 -o small.h5 --config train.yaml
""",
    )
    parser.add_argument("files", nargs="+", type=Path, help="HDF5 files of mlff2d data build")
    _output(parser)
    _config(parser, "keep only the frames that this training config takes")


def _stats_arguments(parser: argparse.ArgumentParser) -> None:
    _describe(
        parser,
        """\
Distributions of energies, forces, stresses, sizes, elements and layer groups: a table on the
terminal, figures as PNG and the numbers behind them as CSV. With --config also what each of its
filters would remove, with an example, and the split.
""",
        """\
examples:
  mlff2d data stats data.h5
  mlff2d data stats data.h5 --config train.yaml -o stats
""",
    )
    parser.add_argument("files", nargs="+", type=Path, help="HDF5 files of mlff2d data build")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for figures and numbers (default: NAME-stats in this folder)",
    )
    _config(parser, "show what this training config would take")


def _describe(parser: argparse.ArgumentParser, description: str, epilog: str) -> None:
    parser.description, parser.epilog = description, epilog
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="HDF5 file to write"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def _config(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--config", type=Path, metavar="YAML", help=what)
    add_overrides(parser, "filters.max_force=10")


def _build(args: argparse.Namespace) -> int:
    from .build import build
    from .record import Keys

    keys = Keys(args.material_key, tuple(args.state), args.target)
    build(args.sources, args.output, keys, force=args.force)
    return 0


def _merge(args: argparse.Namespace) -> int:
    from ..config import load_config
    from .merge import merge

    config = None if args.config is None else load_config(args.config, args.overrides)
    merge(args.files, args.output, config, force=args.force)
    return 0


def _stats(args: argparse.Namespace) -> int:
    from ..config import load_config
    from ..console import make_console
    from .merge import open_for
    from .stats import print_stats

    config = None if args.config is None else load_config(args.config, args.overrides)
    folder = args.output or Path(f"{args.files[0].stem}-stats")
    print_stats(open_for(args.files, config), folder, config, make_console())
    return 0
