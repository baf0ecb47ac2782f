"""`mlff2d generate prototypes`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mlff2d.arguments import positive_count

from .options import add_output

# Nothing heavy above the functions: --help must not wait for what computes.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = """\
Put elements into prototypes of two-dimensional materials: MX2 in 1H, 1T, 1T' and Janus, MXenes with
and without terminations, honeycombs flat and buckled, GaSe, CrI3, FeOCl, MnPS3, perovskites,
pentagons and many more; --list shows them. By default those elements are taken that occur in a
prototype, with common oxidation states that make the layer neutral where its known compounds are.

Lattice and heights are guessed from radii, to about 3 % of the lattice constant: relax the
structures before their lattice means anything.
"""
    parser.epilog = """\
info of each structure:
  material   formula and prototype, MoS2-1H
  prototype  its name
  mode       prototype

examples:
  mlff2d generate prototypes --list
  mlff2d generate prototypes --prototypes 1H 1T --elements transition S Se Te -o tmds.extxyz
  mlff2d generate prototypes --n 5000 --exclude actinide noble -o many.extxyz.gz
  mlff2d generate prototypes --prototypes BiI3 --elements Cr Ru lanthanide Cl I -o trihalides.extxyz
  mlff2d generate prototypes --n 2000 --any --seed 1 -o anything.extxyz.gz
"""
    parser.add_argument(
        "--list", action=_List, nargs=0, help="show the prototypes, and leave it at that"
    )
    parser.add_argument(
        "--prototypes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names or aliases of --list (default: all)",
    )
    parser.add_argument(
        "--elements",
        nargs="+",
        default=[],
        metavar="EL",
        help="symbols, and classes such as transition, lanthanide, chalcogen (default: all 89)",
    )
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="EL", help="symbols and classes to leave out"
    )
    parser.add_argument(
        "--n",
        type=positive_count,
        metavar="N",
        help="as many drawn by chance, from each prototype alike (default: all that there are)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--neutral",
        dest="anything",
        action="store_false",
        help="elements and charges of known compounds; the default",
    )
    how.add_argument(
        "--any", dest="anything", action="store_true", help="any element in any place instead"
    )
    parser.set_defaults(anything=False)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    from .decorate import decorated
    from .elements import chosen_elements
    from .output import write_generated
    from .prototypes import find_prototypes, prototypes

    names = args.prototypes or list(prototypes())
    elements = chosen_elements(args.elements, args.exclude)
    if args.anything and args.n is None:
        raise ValueError("--any leaves millions of choices; say with --n how many to draw")
    structures = decorated(find_prototypes(names), elements, args.n, args.anything, args.seed)
    return write_generated(structures, args, args.n)


class _List(argparse.Action):
    """Prints the prototypes and ends, as --version does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from .prototypes import prototypes

        for p in prototypes().values():
            also = f"; also {', '.join(p.aliases)}" if p.aliases else ""
            print(f"{p.name}: {p.formula}, layer group {p.layer_group}{also}")
            print(f"    {p.about}")
        parser.exit()
