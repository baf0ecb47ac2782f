"""`mlff2d active pick`: which of some frames are worth a calculation."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlff2d.arguments import count, positive_count, positive_number

# Nothing heavy above the functions: --help must not wait for torch.

DESCRIPTION = """\
Pick the frames from which a model learns most: on which a committee of models disagrees, or that
are far from what a model was trained on, and that differ from each other. Frames with atoms too
close, that fall apart, or about which the models disagree too much are left out, and counted.
"""

EPILOG = """\
written: the frames as they were given, the first choice first, with uncertainty in their info

examples:
  mlff2d active pick frames.extxyz --committee a.pt b.pt c.pt -n 20 -o picked.extxyz
  mlff2d active pick md/ relaxed.extxyz --committee best.pt --by novelty -n 50 -o picked.extxyz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument(
        "frames", nargs="+", type=Path, metavar="FRAMES", help="files and folders of structures"
    )
    parser.add_argument(
        "--committee",
        nargs="+",
        required=True,
        metavar="MODEL",
        help="model files or shipped models; one is enough for all ways but the committee",
    )
    parser.add_argument(
        "-n", type=positive_count, default=20, metavar="N", help="frames (default: %(default)s)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="extended XYZ to write"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--by",
        choices=("committee", "novelty", "diversity", "random"),
        default="committee",
        help="the disagreement of the forces in eV/Å; the distance from what the first model was "
        "trained on, 1 at its edge; frames that differ, whatever the models say; or chance "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--over",
        choices=("max", "mean"),
        default="max",
        help="what of the atoms counts for a frame (default: %(default)s)",
    )
    parser.add_argument(
        *("--min-uncertainty",),
        type=positive_number,
        default=0.0,
        metavar="X",
        help="leave out frames below (default: none)",
    )
    parser.add_argument(
        "--max-uncertainty",
        type=positive_number,
        metavar="X",
        help="leave out frames above, as unphysical (default: 5 eV/Å of a committee)",
    )
    parser.add_argument(
        "--max-force",
        type=positive_number,
        default=20.0,
        metavar="F",
        help="leave out frames with a larger predicted force, eV/Å (default: %(default)g)",
    )
    parser.add_argument(
        "--apart",
        choices=("drop", "keep"),
        default="drop",
        help="what becomes of frames that are not one connected layer (default: %(default)s)",
    )
    parser.add_argument("--seed", type=count, default=0, metavar="N", help="of --by random")
    parser.add_argument(
        "--device", metavar="D", help="cpu or cuda (default: a GPU if there is one)"
    )


def run(args: argparse.Namespace) -> int:
    """Pick and write.

    Raises ValueError, StructureError, ModelFileError and OSError (one sentence) for what the user
    can mend.
    """
    from mlff2d import checkpoint
    from mlff2d.devices import pick_device

    from ..config import ConfigError
    from ..console import make_console
    from ..data.build import refuse_existing
    from .config import PickConfig
    from .explore import read_frames, write_frames
    from .pick import marked, pick, print_picked

    refuse_existing(args.output, args.force, args.frames)
    if args.output.suffix not in (".extxyz", ".xyz"):
        raise ConfigError(f"{args.output}: frames are written as extended XYZ; name it .extxyz.")
    if args.by == "committee" and len(args.committee) < 2:
        raise ConfigError("one model is no committee; give more, or --by novelty or diversity.")
    settings = PickConfig(
        by=args.by,
        n=args.n,
        over=args.over,
        min_uncertainty=args.min_uncertainty,
        max_uncertainty=args.max_uncertainty,
        max_force=args.max_force,
        apart=args.apart,
    )
    device = pick_device(args.device)
    models = [checkpoint.load(model, device) for model in args.committee]
    console = make_console()
    frames = read_frames(args.frames, console)
    chosen = pick(models, frames, settings, args.seed)
    write_frames(marked(frames, chosen), args.output)
    print_picked(chosen, len(frames), console)
    console.print(f"Written: {args.output}", soft_wrap=True)
    return 0
