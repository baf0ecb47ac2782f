"""Molecular dynamics of one slab or many, written to files, and gone on with after any end."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from ase import Atoms

from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.interrupt import StopRequest
from mlff2d.potential import Potential

from .engine import Engine, Progress, Tell
from .files import RunFiles
from .log import read_log
from .prepare import prepare
from .result import MDResult
from .settings import MDSettings


def run_md(
    structures: Atoms | Sequence[Atoms | StructureError],
    model: Potential | MLFF2DCalculator | None = None,
    settings: MDSettings | None = None,
    output: Path | str | None = None,
    *,
    anew: bool = False,
    save_minutes: float = 1.0,
    tell: Tell = warnings.warn,
    progress: Progress = lambda done, total, moving: None,
) -> MDResult:
    """Let slabs move, all replicas of all structures in one batch.

    Parameters
    ----------
    structures : not changed; one that cannot move fails alone
    model : potential or calculator, on the device and in the precision that it shall work in; None
        for the shipped universal model in float32
    settings : by default 10 ps at 300 K
    output : name of the trajectory, .extxyz, .xyz or .traj; see `RunFiles` for what lies beside it.
        Where it holds a run of the same kind that was interrupted, that run goes on, to the same
        bytes as if it had not been. None: no files, and nothing to go on from
    anew : begin anew and write over an earlier run
    save_minutes : between two states from which the run could go on
    tell : called with sentences that a user should know

    Raises
    ------
    StructureError where no structure can move; ValueError for files or a run that do not fit; as
    `Evaluator` does.
    """
    potential = MLFF2DCalculator(model).potential if model is None else model
    if isinstance(potential, MLFF2DCalculator):
        potential = potential.potential
    settings = settings or MDSettings()
    several = [structures] if isinstance(structures, Atoms) else structures
    prepared = prepare(several, potential, settings)
    device = next(potential.parameters()).device
    with ExitStack() as stack:
        if output is None:
            output = Path(stack.enter_context(TemporaryDirectory())) / "md.extxyz"
        files = RunFiles(Path(output), prepared.n_replicas)
        stack.enter_context(files.held())
        identity = asdict(settings) | {
            "structures": prepared.digest,
            "model": potential.fingerprint(),
            "dtype": str(potential.dtype).removeprefix("torch."),
            "device": device.type,
            "frames": files.output.suffix,
        }
        snapshot = files.begun(identity, device, anew)
        run = Engine(prepared, settings, files, identity, tell)
        run.start(potential, snapshot)
        stop = stack.enter_context(StopRequest())
        ns_per_day = run.drive(stop, 60 * save_minutes, progress)
        return MDResult(run.results(), read_log(files.log.path), ns_per_day, stop.signal)
