"""`mlff2d finetune`: from a trained model and new calculations to a better model and a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mlff2d.arguments import add_overrides

if TYPE_CHECKING:
    from ..sections import Config

EPILOG = """\
examples:
  mlff2d finetune --from universal alloy.extxyz -o runs/alloy
  mlff2d finetune runs/alloy/config.yaml --set train.lr=2e-4 --set run_dir=runs/alloy-2
  mlff2d finetune --from universal --from other.pt alloy.extxyz --curve 10,30,100,300 --seeds 3

The first chooses settings by the number of frames and prints the file that holds them; the second
goes on from such a file. A run that was stopped goes on when the same command is given again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "sources",
        metavar="CONFIG.yaml | DATA",
        type=Path,
        nargs="+",
        help="a config with model.from and the section finetune; or, with --from, calculations: "
        "files, folders of VASP runs, or an HDF5 file of `mlff2d data build`",
    )
    parser.add_argument(
        "--from",
        dest="starts",
        metavar="MODEL",
        action="append",
        default=[],
        help="model to start from: a file, or the name of a shipped one (universal); with --curve "
        "several may be given, to compare them",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="folder of the run (default: runs/finetune-DATA)"
    )
    add_overrides(parser, "train.lr=1e-4")
    parser.add_argument(
        "--curve",
        metavar="N,N,...",
        type=_sizes,
        help="learning curve: fine-tune on so many frames each, and train from scratch on the same",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs for each point of a curve (default: 3)"
    )
    parser.add_argument(
        "--skip-bad-batch",
        action="store_true",
        help="go on after a loss that was NaN or jumped, without the structures that caused it",
    )


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 10,30,100")
    return sizes


def run(args: argparse.Namespace) -> int:
    """Fine-tune and report; the exit status is that of `mlff2d train`.

    Raises ValueError (one sentence) for a config, data or a loss with which training cannot go on.
    """
    from .curve import draw_curve
    from .report import fine_tune

    _refuse_idle(args)
    configs = _configs(args)
    if args.curve:
        outcome = draw_curve(configs, args.curve, 3 if args.seeds is None else args.seeds)
    else:
        outcome = fine_tune(configs[0], skip_bad_batch=args.skip_bad_batch)
    return 0 if outcome is None or outcome.signal is None else 128 + outcome.signal


def _refuse_idle(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that would do nothing."""
    from ..config import ConfigError

    if args.seeds is not None and not args.curve:
        raise ConfigError("--seeds is about a learning curve; add --curve N,N,... or leave it out.")
    if args.seeds is not None and args.seeds < 1:
        raise ConfigError("--seeds must be at least 1.")
    if args.skip_bad_batch and args.curve:
        raise ConfigError(
            "--skip-bad-batch is about one run; leave it out, or go on with that run of the curve "
            "by mlff2d finetune CONFIG.yaml --skip-bad-batch."
        )


def _configs(args: argparse.Namespace) -> list[Config]:
    """One config for each start; only a curve has several."""
    from ..config import ConfigError, load_config, make_config
    from ..console import make_console
    from ..sections import FinetuneConfig
    from .recipe import default_settings

    is_config = [path.suffix in (".yaml", ".yml") for path in args.sources]
    if any(is_config):
        if len(args.sources) > 1 or args.starts:
            raise ConfigError(
                f"{args.sources[is_config.index(True)]} is a config, which names model.from and "
                "data.files itself; give it alone, or leave it out and give --from MODEL and data."
            )
        output = [] if args.output is None else [f"run_dir={args.output}"]
        config = load_config(args.sources[0], [*args.overrides, *output])
        if config.model.start is None:
            raise ConfigError(f"{args.sources[0]}: model.from is missing, the model to start from.")
        return [config.model_copy(update={"finetune": config.finetune or FinetuneConfig()})]
    if not args.starts:
        raise ConfigError("--from is missing: the model to start from, e.g. --from universal.")
    if len(args.starts) > 1 and not args.curve:
        raise ConfigError("several --from are compared by a learning curve; add --curve N,N,...")
    run_dir = args.output or Path("runs") / f"finetune-{args.sources[0].name.split('.')[0]}"
    configs, console = [], make_console()
    for start in args.starts:
        settings, notes = default_settings(start, args.sources, run_dir)
        configs.append(make_config(settings, Path("settings"), args.overrides))
    for note in notes:
        console.print(note)
    if not args.curve:
        console.print(f"Settings, to go on from: {configs[0].run_dir / 'config.yaml'}")
    return configs
