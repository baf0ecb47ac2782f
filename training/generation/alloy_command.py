"""`mlff2d generate alloy` and `mlff2d generate janus`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlff2d.arguments import positive_count

from .options import add_output, describe, shares, words

if TYPE_CHECKING:
    from .alloys import Alloy
    from .output import Made


def alloy_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mlff2d generate alloy`."""
    describe(
        parser,
        """\
Share the sites of an element of a layer among several species. By default every cell of up to
--max-sites shared sites is made that no symmetry maps onto another (Hart and Forcade 2008, by the
package icet: pip install 'mlff2d[alloys]'). Cells are compact, not long and oblique.

Lattice constant and thickness follow Vegard's law between the parent and --end-members, and where
an end member is not given, covalent radii.
""",
        """\
info of each structure:
  system   name of the alloy, species in the order given: MoWS2; of an end member its formula
  config   this cell: MoWS2-1H-c4-012 has 4 shared sites; also material, which a split keeps
  nfu      formula units
  x, x_W   share of the last of two species; of each species
  phase    of the parent, or --phase; parent, prototype

examples:
  mlff2d generate alloy mos2.extxyz --sublattice Mo --species Mo,W -o mows2.extxyz
  mlff2d generate alloy tis2.extxyz --sublattice Ti --species Ir,Ru --phase 1T \\
      --end-members irs2.extxyz rus2.extxyz -o irrus2.extxyz
  mlff2d generate alloy mos2.extxyz --sublattice Mo --species Mo,W --sublattice S --species S,Se \\
      --max-sites 3 -o quaternary.extxyz
  mlff2d generate alloy mos2.extxyz --sublattice Mo --species Mo,W --sqs 3 --cells 12 16 \\
      --x 0.25,0.5 -o sqs.extxyz
""",
    )
    parser.add_argument("parents", nargs="+", type=Path, metavar="FILE", help="layers to share")
    parser.add_argument(
        "--sublattice",
        action="append",
        required=True,
        metavar="EL",
        help="element whose sites are shared; may be given several times, each with --species",
    )
    parser.add_argument(
        "--species",
        action="append",
        required=True,
        type=words,
        metavar="A,B",
        help="the species that share them",
    )
    parser.add_argument(
        "--max-sites",
        type=positive_count,
        default=4,
        metavar="N",
        help="shared sites of the largest cell that is enumerated (default: %(default)s)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--sqs",
        type=positive_count,
        metavar="N",
        help="N special quasirandom structures for each of --cells and --x instead",
    )
    how.add_argument(
        "--random",
        type=positive_count,
        metavar="N",
        help="N cells drawn by chance for each of --cells and --x instead",
    )
    parser.add_argument(
        "--cells",
        nargs="+",
        type=positive_count,
        default=[8],
        metavar="K",
        help="primitive cells in these (default: 8)",
    )
    parser.add_argument(
        "--x",
        type=shares,
        default=(0.5,),
        metavar="X,Y",
        help="shares of the last species of each sublattice in these (default: 0.5)",
    )
    _vegard(parser)
    add_output(parser)


def alloy(args: argparse.Namespace) -> int:
    """Make cells of an alloy; the exit status."""
    from .alloys import Alloy, Sublattice, distinct, quasirandom, random_cells
    from .output import parents, read_all, write_generated

    if len(args.sublattice) != len(args.species):
        raise ValueError(
            f"--sublattice is given {len(args.sublattice)} times and --species "
            f"{len(args.species)} times; give both for each sublattice"
        )
    shared = [Sublattice(*pair) for pair in zip(args.sublattice, args.species, strict=True)]
    ends = read_all(args.end_members)

    def cells(alloy: Alloy) -> Iterator[Made]:
        if not (args.sqs or args.random):
            yield from distinct(alloy, args.max_sites)
        for size in args.cells if args.sqs else ():
            yield from quasirandom(alloy, size, args.x, args.sqs, args.seed)
        for size in args.cells if args.random else ():
            yield from random_cells(alloy, size, args.x, args.random, args.seed)

    structures, _ = parents(
        args.parents, lambda atoms: cells(Alloy(atoms, shared, ends, args.phase))
    )
    return write_generated(structures, args)


def janus_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mlff2d generate janus`."""
    describe(
        parser,
        """\
Replace atoms on one side of a layer: MoS2 becomes MoSSe. With --max-sites also every distinct cell
in which only a part of that side is replaced (by the package icet: pip install 'mlff2d[alloys]').

Lattice constant and thickness follow Vegard's law between the parent and --end-members, layers with
both sides replaced; where one is not given, covalent radii.
""",
        """\
info of each structure: as of an alloy, with names such as MoSSe-1H, and MoSSe-1H-j4-002 of a cell
in which a part of 4 sites is replaced; x_Se is the share among the sites of both sides.

examples:
  mlff2d generate janus mos2.extxyz --species Se,Te -o janus.extxyz
  mlff2d generate janus mos2.extxyz --species Se --end-members mose2.extxyz --max-sites 4 \\
      -o mosse.extxyz
""",
    )
    parser.add_argument("parents", nargs="+", type=Path, metavar="FILE", help="layers")
    parser.add_argument(
        "--species", required=True, type=words, metavar="A,B", help="what is put in, one at a time"
    )
    parser.add_argument(
        "--replace",
        metavar="EL",
        help="element whose atoms on the upper side are replaced (default: the one farthest up)",
    )
    parser.add_argument(
        "--max-sites",
        type=positive_count,
        metavar="N",
        help="also cells of up to N sites on the upper side of which a part is replaced",
    )
    _vegard(parser)
    add_output(parser)


def janus(args: argparse.Namespace) -> int:
    """Make Janus layers; the exit status."""
    from .janus import swapped
    from .output import parents, read_all, write_generated

    ends = read_all(args.end_members)
    structures, _ = parents(
        args.parents,
        lambda atoms: swapped(atoms, args.species, args.replace, args.max_sites, ends, args.phase),
    )
    return write_generated(structures, args)


def _vegard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--end-members",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="the parent with one species in place of the replaced element: for Vegard's law",
    )
    parser.add_argument("--phase", default="", help="name of the phase, where the parent has none")
