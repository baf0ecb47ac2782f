"""`mlff2d evaluate`: its arguments, and the way from them to a report."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlff2d.arguments import add_model_and_data, positive_count, positive_number

# Nothing heavy above the functions: --help must not wait for torch.
if TYPE_CHECKING:
    from .evaluate import Options

relaxer: Callable[..., Any] | None = None
"""What relaxes structures, `mlff2d.md.relaxation.batch.relax_many`: the program puts it here, as
this package and md do not know each other."""

DESCRIPTION = """\
Judge a model on data with energies, forces and stress, or with the property that it predicts. On
data that it was trained on these are the materials of the test part, by the split in its file; on
other data all of them. Baselines stand beside it, and other models where they are given.
"""

EPILOG = """\
written into the folder:
  index.html     one page with everything: open it in a browser, it needs nothing else
  *.png, *.csv   each figure and each table of it; direct-structures.csv has every structure
  metrics.json   every figure of merit
  relaxations.jsonl
                 with --relax: what is finished, so that the same command goes on after a kill

energies: data that a model was not trained on may have another zero of energy. The reference
energies of the model are then moved by a fit to the data, which is said wherever such errors stand;
--energies given compares them as they are, --energies moved moves them in any case.

after relaxation (--relax): the first frame of each trajectory is relaxed, and energy per atom, area
|a x b| / N and thickness are compared with those of the trajectory's frame with the lowest force;
with --reference with those of what that potential relaxes the same start to.

examples:
  mlff2d evaluate runs/mos2/best.pt mos2.h5
  mlff2d evaluate universal teacher.extxyz.gz --against runs/tuned/best.pt -o report
  mlff2d evaluate universal trajectories.h5 --relax
  mlff2d evaluate universal teacher.extxyz.gz --relax --reference nequix.pt --limit 50
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model_and_data(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where the report goes (default: evaluation-MODEL-DATA in this folder)",
    )
    parser.add_argument(
        "--part",
        choices=("test", "val", "train", "all"),
        help="part of the data (default: test of data that the model was trained on, else all)",
    )
    parser.add_argument(
        "--against",
        metavar="MODEL",
        action="append",
        default=[],
        help="another model in the same tables and figures; may be given several times",
    )
    parser.add_argument(
        "--energies",
        choices=("auto", "given", "moved"),
        default="auto",
        help="whether reference energies are moved by a fit to the data (default: where needed)",
    )
    parser.add_argument(
        "--material-key",
        metavar="KEY",
        help="entry of info that a split keeps together (default: as the model was trained)",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="precision (default: %(default)s)",
    )
    _add_relaxation(parser)


def _add_relaxation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("after relaxation")
    group.add_argument("--relax", action="store_true", help="also relax and compare the minima")
    group.add_argument(
        "--reference",
        metavar="MODEL",
        help="potential whose relaxed structures are the truth (default: those in the data)",
    )
    group.add_argument(
        "--limit",
        type=positive_count,
        metavar="N",
        help="relax at most N structures, drawn by name",
    )
    # The defaults are those of `mlff2d relax`; a test compares them.
    for name, default, what in (
        ("--fmax", 0.02, "largest force on an atom, eV/Å"),
        ("--smax", 0.05, "largest in-plane stress, N/m"),
        ("--reference-fmax", 0.1, "largest force component of a relaxed frame of the data, eV/Å"),
    ):
        group.add_argument(
            name,
            type=positive_number,
            default=default,
            metavar=name.strip("-")[0].upper(),
            help=f"{what} (default: %(default)s)",
        )
    group.add_argument(
        "--steps",
        type=positive_count,
        default=1000,
        metavar="N",
        help="steps before giving up (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Judge what the arguments name; 0 when the report is written.

    Raises ModelFileError, StructureError, ValueError and OSError (one sentence) for what the user
    can mend.
    """
    from .evaluate import Options, evaluate

    if not args.relax:
        for option in ("reference", "limit"):
            if getattr(args, option) is not None:
                raise ValueError(f"--{option} is about relaxation; add --relax")
    if args.relax and relaxer is None:
        raise ValueError("there is nothing here that relaxes; use the program mlff2d")
    options: Options = Options(
        model=args.model,
        data=args.data,
        output=args.output,
        part=args.part,
        against=args.against,
        energies=args.energies,
        material_key=args.material_key,
        device=args.device,
        dtype=args.dtype,
        relaxer=relaxer if args.relax else None,
        reference=args.reference,
        limit=args.limit,
        fmax=args.fmax,
        smax=args.smax,
        steps=args.steps,
        reference_fmax=args.reference_fmax,
    )
    evaluate(options)
    return 0
