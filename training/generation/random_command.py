"""`mlff2d generate random`."""

from __future__ import annotations

import argparse

from mlff2d.arguments import positive_count

from .options import add_output, describe

_GROUPS = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mlff2d generate random`."""
    describe(
        parser,
        """\
Random layers as random structure search draws them: one of the 80 layer groups, sites on its
general and special positions until they hold a composition, an area and distances that suit the
radii of the elements. All are connected layers; relax them before use.
""",
        """\
info of each structure:
  config       a name; also material
  layer_group  as drawn: what is found may be a larger one

examples:
  mlff2d generate random --formula MoS2 NbSe2 --atoms 3:12 --n 200 -o random.extxyz
  mlff2d generate random --elements Mo W S Se Te --kinds 2:3 --n 1000 -o random.extxyz.gz
  mlff2d generate random --elements metal chalcogen --groups 65:80 --n 100 -o hexagonal.extxyz
""",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--formula", nargs="+", metavar="FORMULA", help="formulas to draw from, e.g. MoS2 MoS3"
    )
    what.add_argument(
        "--elements",
        nargs="+",
        metavar="EL",
        help="elements to draw from, or classes of them such as metal, chalcogen, halogen",
    )
    parser.add_argument("--n", type=positive_count, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--atoms",
        type=_span,
        default=(2, 12),
        metavar="A:B",
        help="atoms of the primitive cell (default: 2:12)",
    )
    parser.add_argument(
        "--kinds",
        type=_span,
        default=(2, 3),
        metavar="A:B",
        help="different elements, with --elements (default: 2:3)",
    )
    parser.add_argument(
        "--groups",
        type=_span,
        default=(1, _GROUPS),
        metavar="A:B",
        help="layer groups to draw from (default: 1:80)",
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Make random layers; the exit status."""
    from .elements import require_elements
    from .output import write_generated
    from .random_crystals import Drawn, Given, random_layers

    if args.groups[1] > _GROUPS:
        raise ValueError(f"--groups: layer groups are numbered from 1 to {_GROUPS}")
    if args.formula:
        draw: Drawn | Given = Given(tuple(args.formula), args.atoms)
    else:
        elements = require_elements(args.elements)
        if args.kinds[0] > min(len(elements), args.atoms[1]):
            raise ValueError(
                f"--kinds asks for {args.kinds[0]} different elements, and there are "
                f"{len(elements)} to draw from for up to {args.atoms[1]} atoms; "
                "give more of either, or e.g. --kinds 1"
            )
        draw = Drawn(elements, args.kinds, args.atoms)
    groups = range(args.groups[0], args.groups[1] + 1)
    return write_generated(random_layers(draw, args.n, groups, args.seed), args, args.n)


def _span(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    ends = positive_count(low), positive_count(high or low)
    if ends[0] > ends[1]:
        raise argparse.ArgumentTypeError(f"{text!r} ends below its beginning")
    return ends
