"""`mlff2d relax`: its arguments, and what it does with them."""

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

from ..relaxation.settings import CELLS, OPTIMIZERS, RelaxSettings

# Nothing heavy above the functions: --help must not wait for torch.
if TYPE_CHECKING:
    from mlff2d.interrupt import StopRequest
    from mlff2d.sources import Sources

    from .block import Report, Work
    from .compose import Outputs
    from .row import Record
    from .run_folder import RunFolder

DESCRIPTION = """\
Relax every structure of files, folders and databases: its atoms and its cell in the plane. The
vacuum is never touched. A structure has converged when its largest force and its in-plane stress
are both below their thresholds. What cannot be relaxed gets a row that says why; the others go on.
Killed at any moment, the same command goes on where it was.
"""

EPILOG = """\
written, for -o OUT.extxyz (or OUT.db, a database of ASE):
  OUT.extxyz           the relaxed structures with energy, forces and relax_* values, in the order
                       of the input and without those that failed
  OUT.csv              (or OUT.parquet) a row for each input structure, in order:
    index              place in the whole input, from 0
    source, frame      the file it is from, and its place in that from 0
    formula            chemical formula
    status, reason     what became of it, see below, and why
    steps              steps taken
    energy_per_atom    eV/atom
    fmax               largest force on an atom, eV/Å
    stress_xx, _yy, _xy, smax
                       in-plane stress, N/m, tension positive (in x and y where the layer lies in
                       that plane, else along the first lattice vector), and the largest principal
                       value of what had to vanish of it
    area_before, area_after
                       Å² per atom
    thickness          distance between the outermost nuclei, Å
    layer_group_before, layer_group_after
                       number of the layer group, found to 0.05 Å
    lattice_before, lattice_after, lattice_changed
                       lattice type of the layer group
  OUT.progress/        what the same command needs to go on, and to know that all is done; when the
                       run is complete it may be deleted

statuses:
{statuses}

what may move of the cell, for --cell:
{cells}

examples:
  mlff2d-relax monolayers.extxyz
  mlff2d-relax POSCAR -o relaxed.extxyz --fmax 0.005 --smax 0.01
  mlff2d-relax candidates/ more.h5 --model runs/mos2/best.pt -o screened.db --table parquet
  mlff2d-relax big.h5 -o big.extxyz --workers 16
  mlff2d-relax big.h5 -o big.extxyz --shard $SLURM_ARRAY_TASK_ID/8     (in a job of --array=1-8)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    from ..relaxation.result import STATUSES

    parser.description = DESCRIPTION
    parser.epilog = EPILOG.format(statuses=listed(STATUSES), cells=listed(CELLS))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "structures",
        type=Path,
        nargs="+",
        metavar="STRUCTURES",
        help="files that ASE reads (extxyz, CIF, POSCAR, db, ...), HDF5 files of `mlff2d data "
        "build`, and folders of such, searched at any depth",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="file of structures to write, .extxyz or .db "
        "(default: NAME-relaxed.extxyz in this folder, NAME that of the first input)",
    )
    parser.add_argument(
        "--table", choices=("csv", "parquet"), default="csv", help="kind of table (default: csv)"
    )
    add_restart(parser)
    _add_relaxation(parser)
    _add_machine(parser)


def _add_relaxation(parser: argparse.ArgumentParser) -> None:
    group, defaults = parser.add_argument_group("the relaxation"), RelaxSettings()
    add_model(group)
    group.add_argument(
        "--fmax",
        type=positive_number,
        default=defaults.fmax,
        metavar="F",
        help="largest force on an atom, eV/Å (default: %(default)s)",
    )
    group.add_argument(
        "--smax",
        type=positive_number,
        default=defaults.smax,
        metavar="S",
        help="largest in-plane stress, N/m (default: %(default)s)",
    )
    group.add_argument(
        "--steps",
        type=count,
        default=defaults.steps,
        metavar="N",
        help="steps before giving up (default: %(default)s)",
    )
    group.add_argument(
        "--optimizer",
        choices=tuple(OPTIMIZERS),
        default=defaults.optimizer,
        help="FIRE, or L-BFGS, with ASE's defaults (default: %(default)s)",
    )
    group.add_argument(
        "--cell",
        choices=tuple(CELLS),
        default=defaults.cell,
        help="what of the cell is relaxed, see below (default: %(default)s)",
    )
    add_pressure(group, defaults.pressure)
    group.add_argument(
        "--symmetry", action="store_true", help="keep the layer group that a structure begins with"
    )
    group.add_argument(
        "--polish", action="store_true", help="finish in float64 what was relaxed in float32"
    )
    group.add_argument(
        "--relaxer",
        choices=("batch", "ase"),
        default="batch",
        help="many structures at a time, or one after another with ASE's optimisers, which is "
        "slower (default: %(default)s)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where and by whom it is worked on")
    add_machine(group)
    group.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="work on the I-th of N parts only, for job arrays; the last to finish writes OUT, the "
        "same as in one go",
    )
    group.add_argument(
        "--workers", type=positive_count, metavar="N", help="processes on this machine (needs dask)"
    )
    group.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="of a dask scheduler, or its scheduler file, to work on its machines (needs dask)",
    )
    group.add_argument(
        "--block",
        type=positive_count,
        metavar="N",
        help="structures in a block, the unit of work (default: an eighth of all, from 64 to 512)",
    )


def run(args: argparse.Namespace) -> int:
    """Relax what the arguments name; 0 when every structure of this part has a row.

    Raises StructureError, ModelFileError, ValueError and OSError for what the user can mend.
    """
    import torch

    from mlff2d import checkpoint
    from mlff2d.devices import pick_device
    from mlff2d.sources import Sources

    from .compose import Outputs
    from .progress import counting
    from .screen import begin

    settings = _settings(args)
    _refuse_together(args)
    frames = args.output or Path(f"{_stem(args.structures[0])}-relaxed.extxyz")
    outputs = Outputs(frames, frames.with_suffix(f".{args.table}"))
    outputs.check(args.structures)
    if args.threads:
        torch.set_num_threads(args.threads)
    device, dtype = pick_device(args.device), getattr(torch, args.dtype)
    potential = checkpoint.load(args.model, device, dtype)
    ours = [*outputs.paths, frames.with_suffix(".progress")]
    with counting() as progress:
        sources = Sources(args.structures, leave_out=ours, progress=progress)
    folder, work = begin(
        sources,
        outputs,
        potential,
        settings,
        args.relaxer,
        args.block,
        args.restart,
        processes=args.workers or 1,
    )
    with folder.at_work():
        return _screen(args, folder, sources, outputs, work)


def _screen(
    args: argparse.Namespace, folder: RunFolder, sources: Sources, outputs: Outputs, work: Work
) -> int:
    """Work on a part of the blocks, then write what is finished."""
    from mlff2d.interrupt import StopRequest

    from .compose import compose
    from .progress import ScreenProgress
    from .run_folder import busy

    blocks = folder.plan.share(args.shard)
    spans = [folder.plan.span(k) for k in blocks]
    total, before = sum(b - a for a, b in spans), sum(folder.n_done(k) for k in blocks)
    if before == len(sources):
        print("All is done already; nothing is relaxed anew.", file=sys.stderr)
        compose(folder, outputs).print(outputs.paths)
        return 0
    stop = StopRequest()
    try:
        with stop, ScreenProgress(total, before, args.steps) as progress:
            report = _stopping(progress.update, stop)
            taken = _relax_blocks(args, folder, sources, blocks, work, report)
    except KeyboardInterrupt:
        summary = compose(folder, outputs)
        print(
            f"\nStopped. What is finished, {summary.n_rows} of {len(sources)} structures, is in "
            f"{outputs.frames} and {outputs.table}; the same command goes on from there.",
            file=sys.stderr,
        )
        return 128 + (stop.signal or 2)
    left = [k for k in range(folder.plan.n_blocks) if not folder.is_done(k)]
    if not left:
        compose(folder, outputs).print(outputs.paths)
        return 0
    if taken and before == sum(folder.n_done(k) for k in blocks):
        raise ValueError(busy(outputs.frames))
    n_left = sum(b - a - folder.n_done(k) for k in left for a, b in [folder.plan.span(k)])
    print(
        f"This part is finished. {n_left} structures are left to other processes, of which the "
        f"last to finish writes {outputs.frames}; if they have ended, the same command"
        f"{' without --shard' if args.shard else ''} goes on with those."
    )
    return 0


def _relax_blocks(
    args: argparse.Namespace,
    folder: RunFolder,
    sources: Sources,
    blocks: range,
    work: Work,
    report: Report,
) -> list[int]:
    """Here or on a cluster; those that other processes are at work on."""
    if args.workers is None and args.dask is None:
        from .screen import relax_blocks

        return relax_blocks(folder, sources, blocks, work, report)
    from .cluster import local_cluster, remote_cluster, threads_each

    if args.dask is not None:
        cluster, threads = remote_cluster(args.dask), args.threads
    else:
        cluster = local_cluster(args.workers)
        threads = args.threads or threads_each(args.workers)
    with cluster as client:
        from .spread import spread  # needs the package that the cluster has asked for

        return spread(client, folder, sources, blocks, work, threads, report)


def _stopping(report: Report, stop: StopRequest) -> Report:
    """A report that ends the work in good order where that was asked for."""

    def reporting(finished: list[Record], structure_steps: int) -> None:
        report(finished, structure_steps)
        if stop.signal is not None:
            raise KeyboardInterrupt

    return reporting


def _settings(args: argparse.Namespace) -> RelaxSettings:
    return RelaxSettings(
        fmax=args.fmax,
        smax=args.smax,
        steps=args.steps,
        optimizer=args.optimizer,
        cell=args.cell,
        pressure=args.pressure,
        symmetry=args.symmetry,
        polish=args.polish,
    )


def _refuse_together(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments of which one would do nothing, or harm."""
    if args.polish and args.dtype == "float64":
        raise ValueError("--polish does nothing with --dtype float64: leave one of them out")
    if args.workers is not None and args.dask is not None:
        raise ValueError(
            "--workers starts processes here and --dask takes those of a cluster: give one of them"
        )
    if args.restart and args.shard is not None:
        raise ValueError(
            "--restart with --shard would remove what the other shards have done; "
            "delete the run folder OUT.progress before the first of them starts"
        )


def _stem(path: Path) -> str:
    name = path.resolve().name
    for packed in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(packed)
    return name if path.is_dir() else Path(name).stem


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no shard; 2/8 is the second of eight, the first is 1/8"
        )
    return int(i), int(n)
