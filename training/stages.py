"""When a run changes its ways, or ends before its last epoch: plateaus, stage two, early stop."""

from __future__ import annotations

import shutil

from mlff2d import checkpoint

from .distributed import is_main, wait
from .optim import learning_rate
from .setup import Run, run_files


def present_learning_rate(run: Run, progress: float) -> float:
    """The learning rate after `progress` epochs, in the present stage."""
    two = run.config.loss.stage_two
    if run.stage == 2 and two is not None and two.lr is not None:
        return two.lr
    return learning_rate(progress, run.config.train, run.plateaus)


def note_validation(run: Run, loss: float) -> bool:
    """Count an epoch's validation loss; whether it is the lowest of the present stage."""
    train = run.config.train
    is_best = loss < run.best
    if is_best:
        run.best, run.best_epoch = loss, run.epoch
        run.stale = run.plateau_stale = 0
    else:
        run.stale += 1
        run.plateau_stale += 1
    if train.schedule == "plateau" and run.plateau_stale >= train.plateau_epochs:
        run.plateaus, run.plateau_stale = run.plateaus + 1, 0
    return is_best


def is_stale(run: Run) -> bool:
    """Whether `train.early_stop` epochs brought no better validation loss."""
    limit = run.config.train.early_stop
    return limit is not None and run.stale >= limit


def stage_two_is_due(run: Run) -> bool:
    """Whether the coming epoch is the first of stage two."""
    two = run.config.loss.stage_two
    return two is not None and run.stage == 1 and (run.epoch + 1 >= two.epoch or is_stale(run))


def begin_stage_two(run: Run, validation: list[list[int]]) -> None:
    """Other weights of the loss; the best model of stage one is kept, and is the one to beat.

    Until the state is saved this may be done again, and comes to the same.
    """
    files = run_files(run.config.run_dir)
    if is_main():
        unfinished = files["stage_one"].with_name("stage-one.pt.tmp")
        shutil.copyfile(files["best"], unfinished)
        unfinished.replace(files["stage_one"])
    wait()
    run.stage = 2
    run.stale = run.plateau_stale = 0
    run.recent = []  # losses with other weights are no measure for those to come
    two = run.config.loss.stage_two
    if two is not None and two.average == "mean":
        run.ema.restart()
    apply_stage(run)
    best = checkpoint.load_any(files["best"], run.device, run.averaged.dtype)
    run.best = run.task.evaluate(best, validation).loss


def apply_stage(run: Run) -> None:
    """Let the loss of a run have the weights of its present stage."""
    loss = run.config.loss
    if run.stage == 2 and loss.stage_two is not None:
        two = loss.stage_two
        weights = {"energy": two.energy, "forces": two.forces, "stress": two.stress}
        run.task.config = loss.model_copy(update=weights)
