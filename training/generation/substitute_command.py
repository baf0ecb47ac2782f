"""`mlff2d generate substitute`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlff2d.arguments import positive_count, positive_number, share

from .options import add_output

# Nothing heavy above the functions: --help must not wait for what computes.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = """\
Replace elements of layers by others, all atoms of an element at once: by chemical neighbours, which
are near in column and row of the periodic table and have an oxidation state in common, or by any
element. The plane and the thickness are stretched as bonds are by the covalent radii.
"""
    parser.epilog = """\
info of each structure: what describes its parent, and
  material   new formula, and the prototype of the parent, or its name: WSe2-1H
  parent     the parent's material
  mode       substituted

examples:
  mlff2d generate substitute monolayers.extxyz.gz --n 3 -o substituted.extxyz.gz
  mlff2d generate substitute monolayers.extxyz.gz --n 2 --any-share 0.35 --seed 1 -o wild.extxyz.gz
  mlff2d generate substitute mos2.extxyz --n 20 --share 1 --elements transition chalcogen \\
      -o kin.extxyz
"""
    parser.add_argument("structures", nargs="+", type=Path, metavar="FILE", help="files or folders")
    parser.add_argument(
        "--n",
        type=positive_count,
        default=1,
        metavar="K",
        help="different layers of each structure (default: %(default)s)",
    )
    parser.add_argument(
        "--share",
        type=share,
        default=0.5,
        metavar="X",
        help="chance of each element of a layer to be replaced, one always is; 1 replaces all of "
        "them (default: %(default)s)",
    )
    parser.add_argument(
        "--any-share",
        type=share,
        default=0.0,
        metavar="X",
        help="chance that one of them is replaced by any element (default: %(default)s)",
    )
    parser.add_argument(
        "--within",
        type=positive_number,
        default=2.0,
        metavar="D",
        help="columns and rows between an element and its neighbours (default: %(default)s)",
    )
    parser.add_argument(
        "--elements",
        nargs="+",
        default=[],
        metavar="EL",
        help="symbols and classes that may come in, e.g. lanthanide (default: all 89)",
    )
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="EL", help="symbols and classes that may not"
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    from .elements import chosen_elements
    from .output import parents, write_generated
    from .substitute import substituted

    elements = chosen_elements(args.elements, args.exclude)
    structures, n = parents(
        args.structures,
        lambda atoms: substituted(
            atoms, args.n, args.share, args.any_share, args.within, elements, args.seed
        ),
    )
    return write_generated(structures, args, n * args.n)
