"""`mlff2d md`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlff2d.arguments import (
    add_machine,
    add_model,
    add_pressure,
    add_restart,
    count,
    listed,
    positive_count,
    positive_number,
)

from .ramp import parse_temperature
from .settings import CELLS, ENSEMBLES, GUARDS, VELOCITIES, MDSettings
from .teaching import DESCRIPTION, EPILOG

# Nothing heavy above the functions: --help must not wait for torch.
if TYPE_CHECKING:
    from ase import Atoms

    from mlff2d.errors import StructureError
    from mlff2d.potential import Potential

    from .files import RunFiles
    from .result import MDResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.format(
        ensembles=listed(ENSEMBLES), cells=listed(CELLS), guards=listed(GUARDS)
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "structures",
        type=Path,
        nargs="+",
        metavar="STRUCTURES",
        help="files that ASE reads, or folders of such; all their structures move",
    )
    parser.add_argument(
        "--index",
        type=_index,
        default=slice(None),
        metavar="I",
        help="of the structures only those, as in Python: -1, 0, 2:5, ::10",
    )
    parser.add_argument(
        "--supercell",
        type=positive_count,
        nargs=2,
        metavar=("NX", "NY"),
        help="repeat every structure along its two lattice vectors in the plane",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="trajectory to write, .extxyz, .xyz or .traj (default: NAME-md.extxyz in this folder)",
    )
    add_restart(parser)
    _add_physics(parser)
    _add_output(parser)
    add_machine(parser.add_argument_group("where and how it is computed"))


def _add_physics(parser: argparse.ArgumentParser) -> None:
    group, defaults = parser.add_argument_group("the dynamics"), MDSettings()
    add_model(group)
    group.add_argument(
        "--ensemble",
        choices=tuple(ENSEMBLES),
        default=defaults.ensemble,
        help="see below (default: %(default)s)",
    )
    group.add_argument(
        "--temperature",
        type=_temperature,
        default=(defaults.temperature, defaults.temperature),
        metavar="T[:T2]",
        help="K; 300:600 is a ramp over the run; of nve that of the first velocities (default: "
        f"{defaults.temperature:g})",
    )
    group.add_argument(
        "--steps", type=count, default=defaults.steps, metavar="N", help="(default: %(default)s)"
    )
    group.add_argument(
        "--timestep",
        type=positive_number,
        default=defaults.timestep,
        metavar="FS",
        help="fs; take 0.5 or less where there is hydrogen (default: %(default)s)",
    )
    group.add_argument(
        "--equilibrate",
        type=count,
        default=defaults.equilibrate,
        metavar="N",
        help="steps before step 0 that are logged but enter neither trajectory nor means; before "
        "nve with a thermostat (default: %(default)s)",
    )
    group.add_argument(
        "--velocities",
        choices=tuple(VELOCITIES),
        default=defaults.velocities,
        help="of the start: drawn, or those in the file (default: %(default)s)",
    )
    group.add_argument(
        "--replicas",
        type=positive_count,
        default=defaults.replicas,
        metavar="N",
        help="of every structure, with velocities and noise of their own (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=count, default=defaults.seed, help="of all that is drawn (default: 0)"
    )
    _add_baths(parser)


def _add_baths(parser: argparse.ArgumentParser) -> None:
    group, defaults = parser.add_argument_group("thermostat and barostat"), MDSettings()
    group.add_argument(
        "--thermostat-time",
        type=positive_number,
        metavar="FS",
        help="fs in which the thermostat renews the velocities (default: 500 for langevin and npt, "
        "100 else)",
    )
    add_pressure(group, defaults.pressure)
    group.add_argument(
        "--cell",
        choices=tuple(CELLS),
        default=defaults.cell,
        help="what of it moves in npt (default: %(default)s)",
    )
    group.add_argument(
        "--barostat-time",
        type=positive_number,
        default=defaults.barostat_time,
        metavar="FS",
        help="of npt, fs; a longer one makes the cell heavier (default: %(default)g)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group, defaults = parser.add_argument_group("what is written, and what stops"), MDSettings()
    for name, what in (
        ("log-every", "steps from one line of the log to the next"),
        ("write-every", "steps from one frame to the next"),
        ("last", "frames of the latest steps that are kept"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        group.add_argument(
            f"--{name}",
            type=positive_count,
            default=default,
            metavar="N",
            help=f"{what} (default: {default})",
        )
    group.add_argument(
        "--no-guard",
        choices=tuple(GUARDS),
        action="append",
        default=[],
        metavar="GUARD",
        help="switch a guard off, see below; may be given several times",
    )
    group.add_argument(
        "--max-temperature",
        type=positive_number,
        metavar="T",
        help="K above which a replica is stopped (default: three times the highest target, at "
        "least 900; more for few atoms)",
    )
    group.add_argument(
        "--save-minutes",
        type=positive_number,
        default=1.0,
        metavar="M",
        help="from one state to go on from to the next (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Move what the arguments name; 0 when a replica took all its steps, 1 when none did.

    Raises StructureError, ModelFileError, ValueError and OSError for what the user can mend.
    """
    import torch

    from mlff2d import checkpoint
    from mlff2d.devices import pick_device
    from mlff2d.reading import without_compression

    from .files import RunFiles
    from .progress import MDProgress
    from .result import FINISHED
    from .run import run_md

    settings = _settings(args)
    output = args.output or Path(
        f"{without_compression(args.structures[0].resolve()).stem}-md.extxyz"
    )
    structures = _structures(args, RunFiles(output, 1).earlier())
    files = RunFiles(output, len(structures) * settings.replicas)
    _refuse_input(args.structures, files)
    if args.threads:
        torch.set_num_threads(args.threads)
    potential: Potential = checkpoint.load(
        args.model, pick_device(args.device), getattr(torch, args.dtype)
    )
    with MDProgress() as progress:
        result = run_md(
            structures,
            potential,
            settings,
            output,
            anew=args.restart,
            save_minutes=args.save_minutes,
            tell=progress.tell,
            progress=progress.update,
        )
    _show(result, files)
    if result.signal is not None:
        print("\nStopped; the same command goes on from there.", file=sys.stderr)
        return 128 + result.signal
    return 0 if any(replica.status == FINISHED for replica in result.replicas) else 1


def _show(result: MDResult, files: RunFiles) -> None:
    """Tables and figure, in files and on the terminal."""
    from rich.console import Console

    from .plot import plot_log
    from .summary import print_summary, summarize, write_summary

    rows = summarize(result)
    write_summary(rows, files.summary)
    plot_log(result.log, files.figure)
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 120
    print_summary(rows, result, console)
    several = f" to {files.trajectory(len(rows) - 1).path.name}" if len(rows) > 1 else ""
    for what, path in (
        ("Trajectory:", f"{files.trajectory(0).path}{several}"),
        ("Log:", files.log.path),
        ("Summary:", files.summary),
        ("Figure:", files.figure),
    ):
        console.print(f"{what:12}{path}", markup=False)


def _settings(args: argparse.Namespace) -> MDSettings:
    start, end = args.temperature
    return MDSettings(
        ensemble=args.ensemble,
        steps=args.steps,
        timestep=args.timestep,
        temperature=start,
        temperature_end=None if start == end else end,
        equilibrate=args.equilibrate,
        thermostat_time=args.thermostat_time,
        pressure=args.pressure,
        cell=args.cell,
        barostat_time=args.barostat_time,
        velocities=args.velocities,
        replicas=args.replicas,
        seed=args.seed,
        log_every=args.log_every,
        write_every=args.write_every,
        last=args.last,
        max_temperature=args.max_temperature,
        unguarded=tuple(sorted(set(args.no_guard))),
    )


def _refuse_input(structures: list[Path], files: RunFiles) -> None:
    """Raise ValueError where what would be written is what is read."""
    for path in (files.log.path, *files.of_replicas()):
        if path.exists() and any(path.samefile(source) for source in structures):
            raise ValueError(f"the output {path} is the input; give another name with -o")


def _structures(args: argparse.Namespace, leave_out: list[Path]) -> list[Atoms | StructureError]:
    """What moves, repeated as asked for. Raises ValueError where there is none of that number.

    Files to `leave_out` count in no folder: those that the run itself has written there.
    """
    from mlff2d.sources import Sources

    if args.supercell and args.velocities == "keep":
        raise ValueError(
            "--supercell with --velocities keep would give all copies of an atom the same "
            "velocity; leave one of them out"
        )
    sources = Sources(args.structures, leave_out)
    chosen = range(len(sources))[args.index]
    if not chosen:
        raise ValueError(f"--index chooses none of the {len(sources)} structures")
    found = [next(sources.read(index, index + 1)).structure for index in chosen]
    if args.supercell:
        found = [_repeated(structure, args.supercell) for structure in found]
    return found


def _repeated(structure: Atoms | StructureError, times: list[int]) -> Atoms | StructureError:
    from mlff2d.errors import StructureError

    from ..slabs import require_slab

    if isinstance(structure, StructureError):
        return structure
    try:
        axis = require_slab(structure).axis
    except StructureError as error:
        return error
    repeats = list(times)
    assert axis is not None
    repeats.insert(axis, 1)
    return structure.repeat(repeats)


def _index(text: str) -> slice:
    try:
        parts = [int(part) if part else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] is not None:
        return slice(parts[0], parts[0] + 1 or None)
    if not 2 <= len(parts) <= 3:
        raise argparse.ArgumentTypeError(f"{text!r} is no index such as -1, 3, 2:5 or ::10")
    return slice(*parts)


def _temperature(text: str) -> tuple[float, float]:
    try:
        return parse_temperature(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
