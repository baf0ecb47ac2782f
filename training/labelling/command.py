"""`mlff2d label`: energies, forces and stress of structures, by DFT or by a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlff2d.arguments import add_machine, count, positive_count, positive_number

# Nothing heavy above the functions: --help must not wait for torch.

relaxer: Callable[[], Any] | None = None
"""Gives what relaxes one structure with any calculator; the program, which knows md, sets it."""

DESCRIPTION = """\
Label structures with energy, forces and stress, and write what mlff2d train takes as data.

A calculator of ASE labels in worker processes, one structure each at a time. What fails, crashes or
takes too long is recorded with its reason and passed over. Killed or interrupted, the same command
goes on where it was; structures that were added to the input are labelled then, too. All that is
computed is kept in OUT.progress/.
"""

EPILOG = """\
what labels (--with):
  gpaw             GPAW, PBE in plane waves, by rules that suit any layer: 450 eV (600 with B, C, N,
                   O or F), k points by lengths, 15 Å of height, a dipole correction where the faces
                   of a layer differ
  CALCULATOR.yaml  GPAW with other settings, VASP, Quantum ESPRESSO, CP2K, or any calculator of ASE:
                     calculator: gpaw        # gpaw, vasp, espresso, cp2k or module:Class
                     level: PBE              # how the level of theory is called in the data
                     parameters: {spin: true}
  model.pt         a potential of ours (or universal, the shipped one), many structures at once

written for each frame, beside energy (the free energy that belongs to the forces), forces, stress
and all that the structure came with: level and settings; of calculators kpts, cpu_s,
energy_sigma0 (without smearing), magmom; with --steps also step, converged and trajectory. HDF5 has
place for energy, forces, stress, material, trajectory and level; extended XYZ for all of it.

examples:
  mlff2d label structures.extxyz -o data.h5 --with gpaw --workers 2
  mlff2d label structures.extxyz -o data.extxyz.gz --with vasp.yaml --timeout 7200
  mlff2d label alloys.extxyz -o relaxed.h5 --with gpaw --steps 10
  mlff2d label candidates.extxyz -o labelled.h5 --with teacher.pt
  mlff2d label mos2.extxyz --with gpaw --check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mlff2d label`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "structures", nargs="+", type=Path, metavar="STRUCTURES", help="files and folders"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="to write: .h5, .extxyz or .extxyz.gz"
    )
    parser.add_argument(
        "--with", dest="calculator", required=True, metavar="WHAT", help="what labels, see below"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="label nothing: compare forces and stress with differences of the energy, on the "
        "first structure, rattled; nine points",
    )
    relaxing = parser.add_argument_group("relaxing on the way")
    relaxing.add_argument(
        "--steps",
        type=count,
        default=0,
        metavar="N",
        help="relax atoms and cell in the plane, up to N steps, and keep each as a frame",
    )
    relaxing.add_argument(
        "--fmax",
        type=positive_number,
        default=0.02,
        metavar="F",
        help="eV/Å, below which a relaxation ends (default: %(default)s)",
    )
    relaxing.add_argument(
        "--smax",
        type=positive_number,
        default=0.05,
        metavar="S",
        help="N/m, the same of the stress (default: %(default)s)",
    )
    running = parser.add_argument_group("running")
    running.add_argument(
        "--workers",
        type=positive_count,
        default=1,
        metavar="N",
        help="processes with a calculator of ASE, each with --threads, or one (default: 1)",
    )
    running.add_argument(
        "--timeout",
        type=positive_number,
        metavar="S",
        help="seconds that a structure may take, with all its steps (default: any)",
    )
    running.add_argument("--retry", action="store_true", help="try those again that failed")
    running.add_argument(
        "--restart", action="store_true", help="begin anew, whatever is there; labels are set aside"
    )
    add_machine(running)
    running.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="precision of a model (default: %(default)s)",
    )
    running.add_argument(
        "--material-key",
        default="material",
        metavar="KEY",
        help="as in mlff2d data build, for HDF5 (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Label, and say what came of it."""
    from .description import settings_of
    from .label import label_structures
    from .settings import Options
    from .summary import print_outcome

    settings = settings_of(args.calculator, args.dtype, args.device)
    if args.check:
        return _check(args, settings)
    if args.output is None:
        raise ValueError("where to write is missing: give -o FILE")
    options = Options(
        workers=args.workers,
        threads=args.threads,
        timeout=args.timeout,
        steps=args.steps,
        fmax=args.fmax,
        smax=args.smax,
        restart=args.restart,
        retry=args.retry,
        material_key=args.material_key,
    )
    relax = relaxer() if args.steps and relaxer is not None else None
    outcome = label_structures(args.structures, args.output, settings, options, relax)
    print_outcome(outcome, args.output)
    return 0 if outcome.signal is None else 128 + outcome.signal


def _check(args: argparse.Namespace, settings: Any) -> int:
    """Compare forces and stress with energies; 1 where they contradict each other."""
    from tempfile import TemporaryDirectory

    from mlff2d.errors import StructureError
    from mlff2d.sources import Sources

    from ..console import make_console
    from .calculators import check_available
    from .check import check
    from .potential import ModelSettings
    from .settings import LabelSettings
    from .summary import print_check

    if isinstance(settings, ModelSettings):
        settings = LabelSettings(
            calculator="mlff2d.calculator:MLFF2DCalculator",
            parameters={"model": settings.model, "dtype": args.dtype, "device": settings.device},
        )
    check_available(settings)
    console = make_console()
    found = next(Sources(args.structures).read())
    if isinstance(found.structure, StructureError):
        raise found.structure
    with TemporaryDirectory() as folder:
        rows = check(
            settings,
            found.structure,
            Path(folder),
            lambda done, total: console.print(f"{done} of {total} points are computed"),
        )
    return print_check(rows, f"{found.source}, frame {found.frame}")
