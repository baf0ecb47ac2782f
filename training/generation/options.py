"""What all kinds of `mlff2d generate` take on the command line; nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlff2d.arguments import count, number, positive_count, positive_number

SUFFIXES = (".extxyz", ".extxyz.gz", ".xyz", ".xyz.gz")
"""Endings of the file that is written."""

CLOSEST = 0.6
"""Times the sum of the covalent radii: closer than this no two atoms of a frame should be."""

MAX_ATOMS = 100
"""Atoms of the largest structure that is written by default."""

TOLERANCE = 0.02
"""Å. Structures are the same that differ by less, as `duplicates.Known` says."""


def add_output(parser: argparse.ArgumentParser, apart: str = "drop") -> None:
    """The arguments that all kinds have; `apart` is what becomes of layers that fall apart."""
    group = parser.add_argument_group("output")
    group.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        metavar="FILE",
        help=f"file of structures to write: {', '.join(SUFFIXES)}",
    )
    group.add_argument("--force", action="store_true", help="replace FILE if it exists")
    group.add_argument(
        "--seed", type=count, default=0, metavar="N", help="of all chance (default: %(default)s)"
    )
    group = parser.add_argument_group("what is left out")
    group.add_argument(
        "--closest",
        type=positive_number,
        default=CLOSEST,
        metavar="X",
        help="structures with two atoms closer than X times the sum of their covalent radii "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--max-atoms",
        type=positive_count,
        default=MAX_ATOMS,
        metavar="N",
        help="structures of more atoms (default: %(default)s)",
    )
    group.add_argument(
        "--apart",
        choices=("drop", "mark", "keep"),
        default=apart,
        help="what becomes of structures that are not one connected layer: left out, kept with "
        "info['apart'] saying why, or just kept (default: %(default)s)",
    )
    group.add_argument(
        "--against",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="also leave out what is in this file already; may be given several times",
    )
    group.add_argument(
        "--held-out",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="also leave out compounds with the reduced formula of one in this file, such as those "
        "kept for a test; may be given several times",
    )
    group.add_argument(
        "--same",
        type=positive_number,
        default=TOLERANCE,
        metavar="X",
        help="two structures are the same whose surroundings differ less, about as much as atoms "
        "moved by X Å (default: %(default)s)",
    )
    group.add_argument(
        "--keep-duplicates", action="store_true", help="do not look for equal structures"
    )


def describe(parser: argparse.ArgumentParser, description: str, epilog: str) -> None:
    """Give a parser its texts, lines kept as they are."""
    parser.description, parser.epilog = description, epilog
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def words(text: str) -> tuple[str, ...]:
    """Words with commas between them. Raises ArgumentTypeError for an empty one."""
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of words; give e.g. Mo,W")
    return words


def numbers(text: str) -> tuple[float, ...]:
    """Numbers from 0 on with commas between them. Raises ArgumentTypeError for another."""
    return tuple(_not_negative(word) for word in words(text))


def shares(text: str) -> tuple[float, ...]:
    """Numbers from 0 to 1 with commas between them. Raises ArgumentTypeError for another."""
    shares = numbers(text)
    if max(shares) > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a share is between 0 and 1")
    return shares


def _not_negative(text: str) -> float:
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative")
    return value


def ranges(text: str) -> tuple[tuple[float, float], ...]:
    """Pairs of positive numbers: 0.03,0.05:0.15 is (0.03, 0.03) and (0.05, 0.15).

    Raises ArgumentTypeError for anything else.
    """
    ranges = []
    for word in words(text):
        low, _, high = word.partition(":")
        ends = positive_number(low), positive_number(high or low)
        if ends[0] > ends[1]:
            raise argparse.ArgumentTypeError(f"{word!r} ends below its beginning")
        ranges.append(ends)
    return tuple(ranges)


def supercell(text: str) -> tuple[int, int]:
    """Repetitions, 2x3 or 2 for both. Raises ArgumentTypeError for anything else."""
    first, _, second = text.lower().partition("x")
    return positive_count(first), positive_count(second or first)
