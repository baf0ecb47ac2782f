"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from mlff2d import checkpoint
from mlff2d.graph import Graph, Labels
from mlff2d.potential import Potential

from .config import Config, save_config
from .console import make_console
from .data.batches import epoch_batches, iter_batches
from .finetune import fit_shift
from .interrupt import StopRequest
from .metrics import Metrics
from .optim import learning_rate, set_learning_rate
from .provenance import provenance
from .report import epoch_line, print_data, print_header, print_result, print_shift
from .setup import Run, prepare, run_files
from .state import restore_state, save_state


class TrainingError(ValueError):
    """Training cannot go on; the message says why and what to look at."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished, or stopped for a reason and ready to go on."""

    best_model: Path
    stopped: str | None
    signal: int | None = None


def train(config: Config, console: Console | None = None) -> Outcome:
    """Train as a config says, or go on where an earlier run with the same config stopped.

    Raises StructureError for unusable data, ConfigError for settings that do not fit them or the
    run that is already in `run_dir`, TrainingError for a loss that is NaN.
    """
    console = console or make_console()
    files = run_files(config.run_dir)
    run = prepare(config)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    validation = run.fixed_batches(run.split.val)
    is_resumed = files["state"].exists()
    if is_resumed:
        restore_state(run, files["state"])
        _forget_rows(files["log"], run.epoch)
        console.print(f"Going on with {config.run_dir}: epoch {run.epoch}, step {run.step}.")
    elif run.start is not None and isinstance(run.module, Potential):
        run.move_references(fit_shift(run.module, run.data, run.fixed_batches(run.split.train)))
    save_config(config, files["config"])
    print_data(run, console)
    if run.start is not None and run.shift is not None:
        print_shift(run.shift, run.start.name, console)
    if run.start is not None and run.shift is not None and not is_resumed:
        # The start is a candidate too: fine-tuning that does harm gives it back.
        metrics = run.task.evaluate(run.averaged, validation)
        _keep_models(run, metrics)
        console.print(f"Validation loss of {run.start.name} before training: {metrics.loss:.5f}")
    print_header(run.task, console)

    with StopRequest(config.train.max_minutes) as stop:
        while run.epoch < config.train.epochs:
            started = time.monotonic()
            waited = _train_epoch(run, stop, console)
            if stop.reason:
                save_state(run, files["state"])
                console.print(f"{stop.reason}: saved; run the same command again to go on.")
                return Outcome(files["best"], stop.reason, stop.signal)
            train_loss = run.loss_sum / run.step
            metrics = run.task.evaluate(run.averaged, validation)
            steps = run.step
            run.epoch, run.step, run.loss_sum = run.epoch + 1, 0, 0.0
            _keep_models(run, metrics)
            row = {
                "epoch": run.epoch,
                "steps": steps,
                "train_loss": train_loss,
                "val": metrics.as_dict(),
                "best": run.best_epoch == run.epoch,
                "lr": run.optimizer.param_groups[0]["lr"],
                "seconds": round(time.monotonic() - started, 3),
                "seconds_waiting_for_data": round(waited, 3),
            }
            with files["log"].open("a") as log:
                log.write(json.dumps(row) + "\n")
            console.print(epoch_line(row, metrics, run.task), soft_wrap=True)
            save_state(run, files["state"])
    _finish(run, console)
    return Outcome(files["best"], None)


def _train_epoch(run: Run, stop: StopRequest, console: Console) -> float:
    """The rest of the present epoch, or as much as there is time for; seconds spent waiting."""
    config = run.config.train
    batches = epoch_batches(
        run.split.train,
        run.data.n_edges,
        config.batch_size,
        config.batch_edges,
        run.config.seed,
        run.epoch,
    )
    state_file = run_files(run.config.run_dir)["state"]
    loader = iter_batches(run.data, batches[run.step :], run.module.dtype, run.device)
    waited, last_save = 0.0, time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"epoch {run.epoch + 1}", total=len(batches), completed=run.step)
        while run.step < len(batches) and not stop.reason:
            started = time.monotonic()
            graph, labels = next(loader)
            waited += time.monotonic() - started
            lr = learning_rate(run.epoch + run.step / len(batches), config)
            set_learning_rate(run.optimizer, lr)
            run.loss_sum += _step(run, graph, labels, batches[run.step])
            run.step += 1
            run.seconds += time.monotonic() - started
            progress.update(bar, completed=run.step)
            if time.monotonic() - last_save > 60 * config.save_minutes:
                save_state(run, state_file)
                mean = run.loss_sum / run.step
                console.print(f"  step {run.step}/{len(batches)}, mean loss {mean:.4f}, saved")
                last_save = time.monotonic()
    return waited


def _step(run: Run, graph: Graph, labels: Labels, ids: list[int]) -> float:
    """One update of weights and their mean; the loss before it."""
    run.optimizer.zero_grad(set_to_none=True)
    loss = run.task.loss(run.module, graph, labels, ids)
    loss.backward()
    clip = run.config.train.clip
    norm = torch.nn.utils.clip_grad_norm_(
        run.module.parameters(), torch.inf if clip is None else clip
    )
    value = float(loss.detach() + 0 * norm)
    if value != value or value in (torch.inf, -torch.inf):
        _stop_on_nan(run, graph, labels, ids)
    run.optimizer.step()
    run.ema.update_parameters(run.module)
    return value


def _stop_on_nan(run: Run, graph: Graph, labels: Labels, ids: list[int]) -> None:
    """Keep the batch for inspection and raise TrainingError; the weights are the last good ones."""
    path = run_files(run.config.run_dir)["bad_batch"]
    content = {
        "epoch": run.epoch,
        "step": run.step,
        "structures": [run.data.name(s) for s in ids],
        "graph": vars(graph),
        "labels": vars(labels),
        "target": torch.from_numpy(run.data.target[ids]),
        "model": run.module.state_dict(),
    }
    torch.save(content, path)
    raise TrainingError(
        f"loss or gradient is NaN or infinite in epoch {run.epoch + 1}, step {run.step + 1}; the "
        f"batch and the weights are in {path}; look at the structures named there, or lower "
        "train.lr or train.clip."
    )


def _keep_models(run: Run, metrics: Metrics) -> None:
    """Write last.pt, and best.pt where the validation loss is the lowest yet."""
    files = run_files(run.config.run_dir)
    if metrics.loss != metrics.loss:
        raise TrainingError(
            f"the validation loss is NaN in epoch {run.epoch}; lower train.lr or look at the data."
        )
    is_best = metrics.loss < run.best
    if is_best:
        run.best, run.best_epoch = metrics.loss, run.epoch
    training = provenance(run, {"val": metrics})
    checkpoint.save(run.averaged, files["last"], training)
    if is_best:
        checkpoint.save(run.averaged, files["best"], training)


def _finish(run: Run, console: Console) -> None:
    """Judge the best model on the test part beside baselines, and write that into it."""
    files = run_files(run.config.run_dir)
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
    checkpoint.save(best, files["best"], training)
    files["metrics"].write_text(json.dumps(training["metrics"], indent=2) + "\n")
    print_result(results, run.task, console)
    if run.start is not None and run.shift is not None:
        console.print(f"Start: {run.start.name} before training, its reference energies moved.")
    if run.best_epoch == 0:
        console.print(
            "No epoch was better than the start on the validation part: the best model is the "
            "start with its reference energies moved. Lower train.lr, or give more data."
        )
    console.print(f"Best model (epoch {run.best_epoch}): {files['best']}")


def _forget_rows(log: Path, epoch: int) -> None:
    """Drop the rows of epochs that a resumed run will do again."""
    if log.exists():
        rows = log.read_text().splitlines()[:epoch]
        log.write_text("".join(row + "\n" for row in rows))
