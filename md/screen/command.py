"""`mlff2d relax`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlff2d.arguments import positive_number

# Nothing heavy above the functions: --help must not wait for torch.
if TYPE_CHECKING:
    from mlff2d.potential import Potential

DESCRIPTION = """\
Relax every structure of a file with FIRE: its atoms and its cell in the plane. The vacuum is never
touched. A structure has converged when its largest force and its in-plane stress are both below
their thresholds. What cannot be relaxed gets a row that says why; the others go on.
"""

EPILOG = """\
written, for -o OUT.extxyz:
  OUT.extxyz           the relaxed structures with energy, forces and relax_* values, in the order
                       of the input and without those that failed
  OUT.csv              a row for each input structure, in order:
    index, formula     place in the input from 0, chemical formula
    status, reason     converged, max-steps, exploded, detached (the layer fell apart) or failed
                       (could not begin), and why
    steps              steps taken
    energy_per_atom    eV/atom
    fmax               largest force on an atom, eV/Å
    stress_xx, _yy, _xy, smax
                       in-plane stress, N/m, tension positive (in x and y where the layer lies in
                       that plane, else along the first lattice vector), and its largest principal
                       value
    area_before, area_after
                       Å² per atom
    thickness          distance between the outermost nuclei, Å
    lattice_before, lattice_after, lattice_changed
                       lattice type of the layer group, found to 0.05 Å
  OUT.progress.jsonl   what the same command needs to go on after an interruption

examples:
  mlff2d-relax monolayers.extxyz
  mlff2d-relax POSCAR -o relaxed.extxyz --fmax 0.005 --smax 0.01
  mlff2d-relax strained.cif --fix-cell --model runs/mos2/best.pt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("structures", type=Path, help="any file that ASE reads: extxyz, CIF, ...")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="extended XYZ file to write (default: NAME-relaxed.extxyz in this folder)",
    )
    parser.add_argument(
        "--model", metavar="FILE", help="model file or shipped model (default: universal)"
    )
    # The defaults live in `relax`, which is too heavy to import here; a test compares them.
    parser.add_argument(
        "--fmax",
        type=positive_number,
        default=0.02,
        metavar="F",
        help="largest force on an atom, eV/Å (default: %(default)s)",
    )
    parser.add_argument(
        "--smax",
        type=positive_number,
        default=0.05,
        metavar="S",
        help="largest in-plane stress, N/m (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=_count,
        default=1000,
        metavar="N",
        help="steps before giving up (default: %(default)s)",
    )
    parser.add_argument("--fix-cell", action="store_true", help="relax the atoms only")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew and write over an earlier run"
    )


def run(args: argparse.Namespace) -> int:
    """Relax the file that the arguments name; 0 when every structure has a row.

    Raises StructureError, ModelFileError, ValueError and OSError for what the user can mend.
    """
    from mlff2d.calculator import MLFF2DCalculator

    from .relax_file import RelaxSettings, relax_file
    from .summary import RelaxProgress, print_summary

    frames = args.output or Path(f"{_stem(args.structures)}-relaxed.extxyz")
    if not args.structures.exists():
        raise FileNotFoundError(f"there is no file {args.structures}")
    calculator = MLFF2DCalculator(args.model)
    settings = RelaxSettings(args.fmax, args.smax, args.steps, args.fix_cell)
    try:
        with RelaxProgress() as progress:
            rows = relax_file(
                args.structures,
                frames,
                calculator,
                settings,
                model=fingerprint(calculator.potential),
                restart=args.restart,
                progress=progress.update,
            )
    except KeyboardInterrupt:
        print(
            f"\nStopped. What is finished is in {frames} and {frames.with_suffix('.csv')}; "
            "the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    print_summary(rows, frames)
    return 0


def fingerprint(potential: Potential) -> str:
    """SHA-256 of all that the energies of a potential depend on, whatever file it came from."""
    digest = hashlib.sha256(repr(potential.model.config).encode())
    digest.update(f"{potential.scale} {potential.zbl is not None}".encode())
    digest.update(repr(potential.references.as_dict()).encode())
    for name, tensor in sorted(potential.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


def _stem(path: Path) -> str:
    name = path.name
    for packed in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(packed)
    return Path(name).stem


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps")
    return int(text)
