"""`mlff2d generate perturb` and `mlff2d generate hot`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mlff2d.arguments import add_machine, add_model, positive_count, positive_number

from .options import add_output, describe, numbers, ranges, supercell

if TYPE_CHECKING:
    from ase import Atoms

    from .hot import Mover


def perturb_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mlff2d generate perturb`."""
    describe(
        parser,
        """\
Frames about structures, so that a model learns forces: atoms moved by normal random numbers, the
lattice strained or scaled in the plane. Each frame is seeded by --seed, its structure and its
number, so that adding structures or frames changes none of the others.
""",
        """\
info of each structure: what describes its parent (material, system, config, ...), and
  mode     near (moved by up to 0.03 Å), rattled (up to 0.15 Å), hot (more), or scaled
  rattle   Å, strain, scale, thickness_scale: what was drawn

examples:
  mlff2d generate perturb mows2.extxyz --rattle 0.05,0.10,0.15 --strain 0.025 -o rattled.extxyz
  mlff2d generate perturb monolayers.extxyz.gz --rattle 0.03,0.05:0.15,0.18:0.32 \\
      --strain 0.01,0.03,0.03 --scale 0.88:1.15 --n 2 -o frames.extxyz.gz
""",
    )
    parser.add_argument("structures", nargs="+", type=Path, metavar="FILE", help="files or folders")
    parser.add_argument(
        "--rattle",
        type=ranges,
        default=(),
        metavar="LIST",
        help="Å, standard deviations of each component of the displacements, e.g. 0.05,0.1 or "
        "0.05:0.15 to draw one for each frame",
    )
    parser.add_argument(
        "--strain",
        type=numbers,
        default=(0.0,),
        metavar="LIST",
        help="standard deviation of each component of the strain in the plane, one for all or one "
        "for each of --rattle (default: 0)",
    )
    parser.add_argument(
        "--scale",
        type=ranges,
        default=(),
        metavar="LIST",
        help="factors on the lattice, e.g. 0.88:1.15; the thickness goes with it or against it",
    )
    parser.add_argument(
        "--n",
        type=positive_count,
        default=1,
        metavar="K",
        help="frames for each entry of --rattle and --scale (default: %(default)s)",
    )
    _supercell(parser)
    add_output(parser, apart="mark")


def perturb(args: argparse.Namespace) -> int:
    """Make frames about structures; the exit status."""
    from .output import parents, write_generated
    from .perturb import perturbed

    if not (args.rattle or args.scale):
        raise ValueError("nothing to do: give --rattle, --scale, or both")
    if len(args.strain) not in (1, len(args.rattle)):
        raise ValueError(
            f"--strain has {len(args.strain)} entries and --rattle {len(args.rattle)}; "
            "give one for all, or one for each"
        )

    def frames(atoms: Atoms) -> Iterator[Atoms]:
        return perturbed(
            atoms, args.rattle, args.strain, args.scale, args.n, args.supercell, args.seed
        )

    structures, n = parents(args.structures, frames)
    total = n * args.n * (len(args.rattle) + len(args.scale))
    return write_generated(structures, args, total)


def hot_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mlff2d generate hot`."""
    describe(
        parser,
        """\
Frames of short molecular dynamics by a model, many structures in one batch. The temperature rises
from the first to the second over the run (Langevin's thermostat, fixed cell), and frames are taken
at even distances.

Killed or interrupted, the same command goes on from FILE.progress/.
""",
        """\
info of each structure: what describes its parent, mode hot, and the temperature (of the thermostat)

examples:
  mlff2d generate hot monolayers.extxyz --temperature 300:1500 --frames 5 -o hot.extxyz
  mlff2d generate hot mos2.extxyz --model my.pt --supercell 3x3 --temperature 1000 --frames 20 \\
      --apart drop -o hot.extxyz
""",
    )
    parser.add_argument("structures", nargs="+", type=Path, metavar="FILE", help="files or folders")
    parser.add_argument(
        "--temperature",
        type=_one_range,
        default=(300.0, 1500.0),
        metavar="K:K",
        help="of the first and of the last step, or one for both (default: 300:1500)",
    )
    parser.add_argument(
        "--frames",
        type=positive_count,
        default=5,
        metavar="K",
        help="of each structure (default: %(default)s)",
    )
    parser.add_argument(
        "--every",
        type=positive_count,
        default=200,
        metavar="N",
        help="steps from one to the next (default: %(default)s)",
    )
    parser.add_argument(
        "--timestep", type=positive_number, default=1.0, metavar="FS", help="(default: 1 fs)"
    )
    _supercell(parser)
    parser.add_argument(
        "--restart", action="store_true", help="forget what FILE.progress/ holds, and begin anew"
    )
    add_model(parser)
    add_machine(parser)
    add_output(parser, apart="mark")


def hot(args: argparse.Namespace, mover: Mover) -> int:
    """Make frames of molecular dynamics; the exit status."""
    import torch
    from ase import Atoms

    from mlff2d.calculator import MLFF2DCalculator

    from .hot import heated
    from .layers import standard
    from .output import parents, require_output, write_generated

    require_output(args.output, args.force)
    if args.threads:
        torch.set_num_threads(args.threads)
    potential = MLFF2DCalculator(args.model, device=args.device, dtype=args.dtype).potential
    read = list(parents(args.structures, lambda atoms: iter([standard(atoms)]))[0])
    structures = [item for item in read if isinstance(item, Atoms)]
    failed = [item for item in read if not isinstance(item, Atoms)]
    folder = args.output.with_name(args.output.name + ".progress")
    if args.restart and folder.exists():
        shutil.rmtree(folder)
    made = heated(
        structures,
        potential,
        mover,
        folder,
        args.temperature,
        args.frames,
        args.every,
        args.timestep,
        args.supercell,
        args.apart != "drop",
        args.seed,
    )
    return write_generated(chain(failed, made), args, len(structures) * args.frames)


def _one_range(text: str) -> tuple[float, float]:
    found = ranges(text)
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give one temperature or two, as 300:1500")
    return found[0]


def _supercell(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--supercell",
        type=supercell,
        default=(1, 1),
        metavar="AxB",
        help="repeat the structure first, e.g. 2x2 (default: 1x1)",
    )
