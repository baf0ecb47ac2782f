"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mlff2d import checkpoint
from mlff2d.files import write_text
from mlff2d.graph import Graph, Labels
from mlff2d.potential import Potential

from .badbatch import (
    TrainingError,
    leave_out_bad_batch,
    note_loss,
    stop_on_bad_batch,
    stop_on_nan_in_validation,
    what_is_wrong,
)
from .config import save_config
from .console import make_console
from .data.batches import epoch_batches, iter_batches
from .distributed import (
    from_main,
    is_main,
    processes,
    refuse_drift,
    share,
    sum_gradients,
    sum_tensor,
    wait,
    world,
)
from .domain.fit import fit_domain
from .finetuning.adapters import merged
from .finetuning.start import fit_shift, print_shift
from .interrupt import StopRequest
from .lock import locked
from .logs import Logs, refuse_missing_packages
from .memory import memory_notes, out_of_memory
from .metrics import Metrics
from .optim import set_learning_rate
from .precision import precision_notes
from .provenance import provenance
from .report import (
    epoch_line,
    print_data,
    print_groups,
    print_header,
    print_left_out,
    print_result,
    print_summary,
)
from .sections import Config
from .setup import Run, prepare, run_files
from .stages import (
    begin_stage_two,
    is_stale,
    note_validation,
    present_learning_rate,
    stage_two_is_due,
)
from .state import restore_state, save_state
from .tasks import Trained

HEADER_EVERY = 20

Loaded = Sequence[tuple[list[int], tuple[Graph, Labels]]]
"""Structures with their graph and labels, batch by batch."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished, or stopped for a reason and ready to go on."""

    best_model: Path
    stopped: str | None
    signal: int | None = None


def train(config: Config, console: Console | None = None, skip_bad_batch: bool = False) -> Outcome:
    """Train as a config says, or go on where an earlier run with the same config stopped.

    With `skip_bad_batch` without the structures on which it stopped. Raises StructureError for
    unusable data, ConfigError for settings that do not fit them or the run that is already in
    `run_dir`, badbatch.TrainingError for a loss that is NaN or far above all before.
    """
    files = run_files(config.run_dir)
    refuse_missing_packages(config)
    with processes(), locked(config.run_dir) if is_main() else nullcontext():
        console = console if console is not None and is_main() else make_console()
        run = prepare(config)
        _begin(run, skip_bad_batch, console)
        validation = run.fixed_batches(run.split.val)
        with (
            Logs(config, run.epoch, run.step) as logs,
            StopRequest(config.train.max_minutes) as stop,
        ):
            stopped = _train_epochs(run, validation, stop, logs, console)
        if stopped:
            return Outcome(files["best"], stopped, stop.signal)
        _finish(run, console)
    return Outcome(files["best"], None)


def _begin(run: Run, skip_bad_batch: bool, console: Console) -> None:
    """From a prepared run to one that can take a step, anew or where an earlier one stopped."""
    files = run_files(run.config.run_dir)
    is_resumed = from_main(files["state"].exists)
    if is_resumed:
        restore_state(run, files["state"])
        console.print(f"Going on with {run.config.run_dir}: epoch {run.epoch}, step {run.step}.")
    elif run.start is not None and isinstance(run.module, Potential):
        batches = run.fixed_batches(run.trusted)
        by = run.config.priors.fit_by
        module = run.averaged  # the same weights, without train.bf16
        assert isinstance(module, Potential)
        run.move_references(from_main(lambda: fit_shift(module, run.data, batches, by)))
    refuse_drift(run.module)
    if run.start is not None and run.shift is not None:
        print_shift(run.shift, run.start, console)
    notes = [*run.doubts, *run.task.label_notes(run.split)]
    if is_main():
        save_config(run.config, files["config"])
    print_data(run, console)
    train = run.config.train
    notes += precision_notes(train, run.device)
    notes += memory_notes(run.memory, run.batch_edges, train, run.data, run.split.train)
    for note in notes:
        console.print(note)
    print_groups(run, console)
    if run.start is not None and run.shift is not None and not is_resumed:
        # The start is a candidate too: fine-tuning that does harm gives it back.
        metrics = run.task.evaluate(run.averaged, run.fixed_batches(run.split.val))
        _keep_models(run, metrics)
        console.print(f"Validation loss of {run.start.name} before training: {metrics.loss:.5f}")
    if skip_bad_batch:
        leave_out_bad_batch(run)
        save_state(run, files["state"])
        wait()
        if is_main():
            files["bad_batch"].unlink()
    print_left_out(run, console)


def _train_epochs(
    run: Run, validation: list[list[int]], stop: StopRequest, logs: Logs, console: Console
) -> str | None:
    """All epochs to come, each judged on the validation part; why it stopped before their end."""
    files = run_files(run.config.run_dir)
    lines = 0
    while run.epoch < run.config.train.epochs:
        if stage_two_is_due(run):
            begin_stage_two(run, validation)
            save_state(run, files["state"])
            console.print(f"Stage two begins; the best model of stage one: {files['stage_one']}")
        elif is_stale(run):
            console.print(f"No better validation loss in {run.stale} epochs: that is the end.")
            break
        if lines % HEADER_EVERY == 0:
            print_header(run.task, console)
        lines += 1
        started = time.monotonic()
        waited = _train_epoch(run, stop, logs, console)
        if reason := stop.reason:
            save_state(run, files["state"])
            console.print(f"{reason}: saved; run the same command again to go on.")
            return reason
        metrics = run.task.evaluate(run.averaged, validation)
        row = _end_epoch(run, metrics)
        row["seconds"] = round(time.monotonic() - started, 3)
        row["seconds_waiting_for_data"] = round(waited, 3)
        logs.epoch(row)
        console.print(epoch_line(row, metrics, run.task), soft_wrap=True)
        save_state(run, files["state"])
    return None


def _train_epoch(run: Run, stop: StopRequest, logs: Logs, console: Console) -> float:
    """The rest of the present epoch, or as much as there is time for; seconds spent waiting."""
    config = run.config.train
    batches = _batches_of_epoch(run)
    steps = [batches[k : k + config.accumulate] for k in range(0, len(batches), config.accumulate)]
    own = [[part for batch in step if (part := share(batch, run.data.n_edges))] for step in steps]
    remaining = [part for parts in own[run.step :] for part in parts]
    loader = iter_batches(run.data, remaining, run.module.dtype, run.device)
    state_file = run_files(run.config.run_dir)["state"]
    waited, last_save = 0.0, time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"epoch {run.epoch + 1}", total=len(steps), completed=run.step)
        while run.step < len(steps) and not stop.reason:
            started = time.monotonic()
            ids = steps[run.step]
            loaded = list(zip(own[run.step], islice(loader, len(own[run.step])), strict=True))
            waited += time.monotonic() - started
            lr = present_learning_rate(run, run.epoch + run.step / len(steps))
            set_learning_rate(run.optimizer, lr)
            loss, norm = _step(run, loaded, ids, console)
            run.loss_sum += loss
            run.step += 1
            logs.step(run.step, {"loss": loss, "lr": lr, "gradient_norm": norm})
            run.frames += sum(map(len, ids))
            run.seconds += time.monotonic() - started
            progress.update(bar, completed=run.step)
            if time.monotonic() - last_save > 60 * config.save_minutes:
                save_state(run, state_file)
                mean = run.loss_sum / run.step
                console.print(f"  step {run.step}/{len(steps)}, mean loss {mean:.4f}, saved")
                last_save = time.monotonic()
    return waited


def _batches_of_epoch(run: Run) -> list[list[int]]:
    """Batches of the present epoch, those before `run.step` included.

    What was left out is taken from its batch after all are drawn, so that the others stay.
    """
    config, left_out = run.config.train, set(run.left_out)
    batches = epoch_batches(
        run.epoch_ids(),
        run.data.n_edges,
        config.batch_size,
        run.batch_edges,
        run.config.seed,
        run.epoch,
    )
    kept = ([s for s in batch if s not in left_out] for batch in batches)
    return [batch for batch in kept if batch]


def _step(
    run: Run,
    loaded: Loaded,
    ids: list[list[int]],
    console: Console,
) -> tuple[float, float]:
    """One update of the weights and of their mean; the loss and the gradient's norm before it.

    `loaded` is the share of this process in the batches `ids`. The means of the loss go over all
    batches of the step together.
    """
    run.optimizer.zero_grad(set_to_none=True)
    if run.replay is not None:
        relabelled = run.replay.relabelled
        loaded = [(part, (g, relabelled(g, labels, part))) for part, (g, labels) in loaded]
    counts = torch.zeros(run.task.n_parts, dtype=torch.float64, device=run.device)
    for _, (graph, labels) in loaded:
        counts += run.task.counts(graph, labels)
    total = _add_gradients(run, loaded, sum_tensor(counts))
    if run.anchor is not None:
        penalty = run.anchor.penalty() / world()
        penalty.backward()
        total += penalty.detach()
    sum_gradients(run.module.parameters())
    clip = run.config.train.clip
    norm = torch.nn.utils.clip_grad_norm_(
        run.module.parameters(), torch.inf if clip is None else clip
    )
    value = float(sum_tensor(total))
    problem = what_is_wrong(run, value, float(norm))
    if problem is not None:
        stop_on_bad_batch(run, [s for batch in ids for s in batch], problem, console)
    run.optimizer.step()
    run.ema.update(run.module)
    note_loss(run, value)
    return value, float(norm)


def _add_gradients(run: Run, loaded: Loaded, counts: Tensor) -> Tensor:
    """The gradient of some batches, left at the weights; their part of the loss.

    Raises TrainingError where a GPU's memory is not enough.
    """
    total = counts.new_zeros(())
    too_large = None
    for part, (graph, labels) in loaded:
        try:
            loss = run.task.loss(run.module, graph, labels, part, counts)
            loss.backward()
        except torch.OutOfMemoryError:
            too_large = part
            break
        total += loss.detach()
    if too_large is not None:  # told out here, where the error no longer holds on to tensors
        run.optimizer.zero_grad(set_to_none=True)
        raise TrainingError(
            f"epoch {run.epoch + 1}, step {run.step + 1}: "
            + out_of_memory(run.task, run.module, run.data, too_large)
        )
    return total


def _end_epoch(run: Run, metrics: Metrics) -> dict[str, Any]:
    """Count the epoch and keep the models; its row for the log, without the times."""
    train_loss, steps = run.loss_sum / run.step, run.step
    lr = present_learning_rate(run, run.epoch + (steps - 1) / steps)
    run.epoch, run.step, run.loss_sum = run.epoch + 1, 0, 0.0
    _keep_models(run, metrics)
    row = {
        "epoch": run.epoch,
        "steps": steps,
        "train_loss": train_loss,
        "val": metrics.as_dict(),
        "best": run.best_epoch == run.epoch,
        "lr": lr,
    }
    return row if run.config.loss.stage_two is None else row | {"stage": run.stage}


def _keep_models(run: Run, metrics: Metrics) -> None:
    """Write last.pt, and best.pt where the validation loss is the lowest yet."""
    files = run_files(run.config.run_dir)
    if not math.isfinite(metrics.loss):
        stop_on_nan_in_validation(run)
    is_best = note_validation(run, metrics.loss)
    refuse_drift(run.module)
    if not is_main():
        return
    training = provenance(run, {"val": metrics})
    model = merged(run.averaged)
    checkpoint.save(model, files["last"], training)
    if is_best:
        checkpoint.save(model, files["best"], training)


def _add_domains(run: Run, best: Trained) -> None:
    """Find where the training set is for the best potential, and for last.pt, which is written."""
    if not isinstance(best, Potential):
        return
    learnt = run.split.train if run.replay is None else np.append(run.split.train, run.replay.ids)
    learnt = np.setdiff1d(learnt, run.left_out)
    best.domain = fit_domain(best, run.data, learnt)
    path = run_files(run.config.run_dir)["last"]
    last = checkpoint.load(path, run.device, run.module.dtype)
    is_best = run.best_epoch == run.epoch
    last.domain = best.domain if is_best else fit_domain(last, run.data, learnt)
    checkpoint.save(last, path, checkpoint.read(path)["training"])


def _finish(run: Run, console: Console) -> None:
    """Judge the best model on the test part beside baselines, and write that into it."""
    files = run_files(run.config.run_dir)
    wait()  # for the main process, which writes the models
    best = checkpoint.load_any(files["best"], run.device, run.module.dtype)
    training = checkpoint.read(files["best"])["training"]
    results = {}
    for name, ids in (("val", run.split.val), ("test", run.split.test)):
        if len(ids):
            batches = run.fixed_batches(ids)
            results[name] = run.task.evaluate(best, batches)
            if run.start is not None and run.shift is not None:
                results[f"{name} start"] = run.task.evaluate(run.start.module, batches)
            results[f"{name} baseline"] = run.task.baselines(best, batches)
    training["metrics"] = {name: metrics.as_dict() for name, metrics in results.items()}
    if is_main():
        _add_domains(run, best)
        checkpoint.save(best, files["best"], training)
        write_text(json.dumps(training["metrics"], indent=2) + "\n", files["metrics"])
    print_result(results, run.task, console)
    if run.start is not None and run.shift is not None:
        console.print(f"Start: {run.start.name} before training, its reference energies moved.")
    if run.best_epoch == 0:
        console.print(
            "No epoch was better than the start on the validation part: the best model is the "
            "start with its reference energies moved. Lower train.lr, or give more data."
        )
    print_summary(run, console)
