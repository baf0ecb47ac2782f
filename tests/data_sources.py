"""Two small files of labelled structures, and `mlff2d data` as a user types it."""

from __future__ import annotations

import ase.io
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d import cli
from tests.training_helpers import monolayers

FRAMES = monolayers(1)


def write_sources() -> list[str]:
    """Two files in the current folder, of 20 and 16 frames, two of the first unusable."""
    first = [atoms.copy() for atoms in FRAMES[:20]]
    for k, (copy, atoms) in enumerate(zip(first, FRAMES, strict=False)):
        copy.calc = SinglePointCalculator(copy, **atoms.calc.results)
        if k == 4:
            copy.positions[0] = copy.positions[1]
        if k == 11:
            copy.calc = None
    ase.io.write("first.extxyz", first)
    ase.io.write("second.extxyz", FRAMES[20:])
    return ["first.extxyz", "second.extxyz"]


def data(*arguments: object) -> int:
    try:
        return cli.main(["data", *map(str, arguments)])
    except SystemExit as exit_:
        return int(exit_.code)
