"""A loss or gradient that is NaN, infinite or far above all before: who did it, and going on.

Axis: S structures of the batch.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.table import Table

from mlff2d import checkpoint
from mlff2d.graph import Graph, Labels

from .config import ConfigError
from .distributed import is_main, leave_to_main
from .setup import Run, run_files

KEPT_LOSSES = 100
_FEWEST_LOSSES = 3
_SHOWN = 5


class TrainingError(ValueError):
    """Training cannot go on; the message says why and what to look at."""


def what_is_wrong(run: Run, loss: float, norm: float) -> str | None:
    """What is wrong with the loss or the norm of the gradient of a step, or None."""
    if not math.isfinite(loss):
        return "the loss is NaN or infinite"
    if not math.isfinite(norm):
        return "the gradient is NaN or infinite"
    limit = _highest_loss(run)
    if loss > limit:
        jump = run.config.train.max_jump
        return f"the loss of {loss:.3g} is above {jump:g} times the median of the steps before it"
    return None


def note_loss(run: Run, loss: float) -> None:
    """Count the loss of a good step."""
    run.recent = [*run.recent[1 - KEPT_LOSSES :], loss]


def _highest_loss(run: Run) -> float:
    """The loss above which a step is bad."""
    jump = run.config.train.max_jump
    if jump is None or len(run.recent) < _FEWEST_LOSSES:
        return math.inf
    return jump * statistics.median(run.recent) or math.inf


def stop_on_bad_batch(run: Run, ids: list[int], problem: str, console: Console) -> NoReturn:
    """Keep the structures of a step for inspection, show the worst, and raise TrainingError.

    The weights are those before the step. Of several processes, which all come here, the main one
    tells.
    """
    if not is_main():
        leave_to_main()
    figures = [_of_one(run, s) for s in ids]
    limit = _highest_loss(run)
    bad = [
        s
        for s, figure in zip(ids, figures, strict=True)
        if not math.isfinite(figure["gradient"]) or not figure["loss"] <= limit
    ]
    graph, labels = _batch(run, ids)
    path = run_files(run.config.run_dir)["bad_batch"]
    content = {
        "problem": problem,
        "epoch": run.epoch,
        "step": run.step,
        "structures": [run.data.name(s) for s in ids],
        "ids": ids,
        "culprits": bad,
        "figures": {key: [figure[key] for figure in figures] for key in figures[0]},
        "graph": vars(graph),
        "labels": vars(labels),
        "target": torch.from_numpy(run.data.target[ids]),
        "model": run.module.state_dict(),
    }
    checkpoint.write(content, path)
    _print_worst(run, ids, figures, console)
    names = ", ".join(run.data.name(s) for s in bad[:3]) + (" and others" if len(bad) > 3 else "")
    culprits = f"by itself that is so of {names}" if bad else "no structure stands out by itself"
    raise TrainingError(
        f"{problem} in epoch {run.epoch + 1}, step {run.step + 1}; {culprits}; the batch, the "
        f"errors in it and the weights are in {path}; look at the labels of these structures, then "
        f"run the command again with --skip-bad-batch to go on without "
        f"{'them' if bad else 'the batch'}; or lower train.lr or train.clip in a new run_dir."
    )


def stop_on_nan_in_validation(run: Run) -> NoReturn:
    """Raise TrainingError, naming the structures of which the loss is NaN or infinite."""

    def is_bad(batch: list[int]) -> bool:
        return not math.isfinite(run.task.evaluate(run.averaged, [batch]).loss)

    batches = [batch for batch in run.fixed_batches(run.split.val) if is_bad(batch)]
    bad = [run.data.name(s) for batch in batches for s in batch if is_bad([s])]
    raise TrainingError(
        f"the validation loss is NaN or infinite after epoch {run.epoch}, that of {len(bad)} "
        f"structures: {', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''}; look at them, "
        "or lower train.lr in a new run_dir."
    )


def _batch(run: Run, ids: list[int]) -> tuple[Graph, Labels]:
    """Structures as a step has them."""
    graph, labels = run.data.batch(ids, run.module.dtype)
    graph, labels = graph.to(run.device), labels.to(run.device)
    if run.replay is not None:
        labels = run.replay.relabelled(graph, labels, ids)
    return graph, labels


def _of_one(run: Run, s: int) -> dict[str, float]:
    """Loss of one structure by itself, norm of its gradient, and its largest errors."""
    graph, labels = _batch(run, [s])
    run.module.zero_grad(set_to_none=True)
    loss = run.task.loss(run.module, graph, labels, [s], run.task.counts(graph, labels))
    loss.backward()
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in run.module.parameters() if p.grad is not None]
    )
    run.module.zero_grad(set_to_none=True)
    largest = run.task.largest_errors(run.module, graph, labels, [s])
    return {"loss": float(loss.detach()), "gradient": float(norm)} | largest


def _print_worst(
    run: Run, ids: list[int], figures: list[dict[str, float]], console: Console
) -> None:
    table = Table("structure", *figures[0], title="The worst of the batch, each by itself")
    for k in sorted(range(len(ids)), key=lambda k: _badness(figures[k]), reverse=True)[:_SHOWN]:
        table.add_row(run.data.name(ids[k]), *(f"{value:.4g}" for value in figures[k].values()))
    console.print(table)


def _badness(figure: dict[str, float]) -> float:
    loss, gradient = figure["loss"], figure["gradient"]
    return loss if math.isfinite(loss) and math.isfinite(gradient) else math.inf


def leave_out_bad_batch(run: Run) -> list[int]:
    """Leave the structures that stopped the run out of what follows; those that are left out anew.

    They are the culprits that `bad_batch.pt` names, or all of its batch where it names none. The
    file may go once the state is saved. Raises ConfigError where there is none, and where no
    structure would be left.
    """
    path = run_files(run.config.run_dir)["bad_batch"]
    if not path.exists():
        raise ConfigError(
            f"--skip-bad-batch: there is no {path}, so that no batch stopped this run; leave the "
            "option out."
        )
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    ids = content["culprits"] or content["ids"]
    names = dict(zip(content["ids"], content["structures"], strict=True))
    if any(s >= len(run.data) or run.data.name(s) != names[s] for s in ids):
        raise ConfigError(f"--skip-bad-batch: {path} is of other data than data.files holds.")
    new = [s for s in ids if s not in run.left_out]
    if set(run.split.train.tolist()) <= {*run.left_out, *new}:
        raise ConfigError(
            "--skip-bad-batch: nothing would be left to train on; give more data, or lower "
            "train.lr or train.clip in a new run_dir."
        )
    run.left_out = [*run.left_out, *new]
    return new
