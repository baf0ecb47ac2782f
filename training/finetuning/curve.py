"""Learning curves: fine-tuning and training from scratch on ever more frames of the same data."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mlff2d import checkpoint
from mlff2d.files import write_text
from mlff2d.models import model_name

from ..config import ConfigError, differences, load_config
from ..console import make_console
from ..distributed import from_main, is_main, processes, wait
from ..figures.style import COLOURS, new_figure, save, styled
from ..loop import Outcome, train
from ..sections import Config, FinetuneConfig
from ..setup import prepare, run_files
from ..tasks import Column
from .report import change_epochs, converted, from_scratch


@dataclass(frozen=True)
class Point:
    """Errors on the test part after training from one start on one number of frames.

    Attributes
    ----------
    series : the start, or the architecture from scratch
    n_frames : trained on
    trained : (seeds, columns) figures in the units of the table
    untrained : the same of the start, its reference energies moved; None from scratch
    """

    series: str
    n_frames: int
    trained: NDArray[np.float64]
    untrained: NDArray[np.float64] | None


def draw_curve(
    configs: Sequence[Config], sizes: Sequence[int], seeds: int, console: Console | None = None
) -> Outcome | None:
    """Train for every start, number of frames and seed; a table, curve.csv and curve.png.

    `configs` are the same but for model.from. Each run has its own folder in `run_dir`/curve; one
    that is finished is not done again. Every run takes about as many steps as the config would on
    the whole training part, and all are judged on the same test part. Returns the outcome of a run
    that was stopped, else None. Raises as `train` does, and ConfigError without a test part.
    """
    with processes():
        return _draw(configs, sizes, seeds, console or make_console())


def _draw(
    configs: Sequence[Config], sizes: Sequence[int], seeds: int, console: Console
) -> Outcome | None:
    whole = prepare(configs[0])
    if len(whole.split.test) == 0:
        raise ConfigError("a learning curve needs a test part; raise split.test.")
    n_all, columns = len(whole.split.train), whole.task.columns
    if max(sizes) > n_all:
        console.print(f"There are {n_all} frames to train on, so the curve ends there.")
    points = []
    for n in sorted({min(n, n_all) for n in sizes}):
        for series, runs in runs_on(configs, n, n_all, seeds).items():
            found = []
            for config in runs:
                metrics = _metrics_of(config)
                if isinstance(metrics, Outcome):
                    console.print(f"{metrics.stopped}: saved; the same command goes on from there.")
                    return metrics
                found.append(metrics)
                console.print(
                    f"{series}, {n} frames, seed {config.seed}: {_line(metrics, columns)}"
                )
            points.append(_point(series, n, found, columns))
    folder = configs[0].run_dir
    console.print(curve_table(points, columns, len(whole.split.test), seeds))
    if is_main():
        write_text(as_csv(points, columns), folder / "curve.csv")
        save(curve_figure(points, columns), folder / "curve.png")
    console.print(f"Written: {folder / 'curve.csv'} and curve.png")
    return None


def runs_on(configs: Sequence[Config], n: int, n_all: int, seeds: int) -> dict[str, list[Config]]:
    """Configs of the runs on `n` frames by series, one for each seed."""
    found: dict[str, list[Config]] = {}
    paths = [Path(str(config.model.start)) for config in configs]
    stems = [path.stem for path in paths]
    for config, path in zip(configs, paths, strict=True):
        batch = config.train.batch_size
        steps = config.train.epochs * math.ceil(n_all / batch)
        epochs = max(1, round(steps / math.ceil(n / batch)))
        name = path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}-{path.stem}"
        architecture = model_name(checkpoint.load_any(config.model.start).model)
        finetune = config.finetune or FinetuneConfig()
        series = [(name, False)] + [(f"{architecture} from scratch", True)] * finetune.scratch
        for title, is_new in series:
            runs = _variants(config, is_new, title, epochs, n, seeds)
            if title in found and runs[0].model != found[title][0].model:
                title = f"{title} like {name}"  # the same name, other settings
                runs = _variants(config, is_new, title, epochs, n, seeds)
            found[title] = runs
    return found


def _variants(
    config: Config, is_new: bool, title: str, epochs: int, n: int, seeds: int
) -> list[Config]:
    folder = config.run_dir / "curve" / title.replace(" ", "-")
    return [
        _variant(config, is_new, folder / f"{n}-{seed}", epochs, n, seed)
        for seed in range(config.seed, config.seed + seeds)
    ]


def _variant(config: Config, is_new: bool, folder: Path, epochs: int, n: int, seed: int) -> Config:
    if is_new:
        replay = None if config.finetune is None else config.finetune.replay
        seen = epochs / (1 if replay is None else 1 - replay.share)  # the old frames count too
        raw = from_scratch(config, folder, round(seen)).resolved()
    else:
        raw = config.resolved()
        raw["data"]["files"] = converted(config)
        change_epochs(raw, epochs)
    raw["run_dir"], raw["seed"] = folder, seed
    raw["split"]["train_frames"] = n
    return Config.model_validate(raw)


def _metrics_of(config: Config) -> dict[str, Any] | Outcome:
    """Figures of a run by part, from its folder where it is finished; or why it was stopped.

    What the run itself has to say is in its log.

    Raises ConfigError where the folder holds a finished run with other settings.
    """
    files = run_files(config.run_dir)
    if not from_main(files["metrics"].exists):
        outcome = train(config, Console(quiet=True))
        if outcome.stopped:
            return outcome
        wait()  # for the main process, which writes them
    else:
        changed = differences(load_config(files["config"]).resolved(), config.resolved())
        if changed:
            raise ConfigError(
                f"{config.run_dir} holds a run with other settings ({'; '.join(changed)}); give "
                "another folder with -o, or put them back to go on with the curve."
            )
    metrics: dict[str, Any] = json.loads(files["metrics"].read_text())
    return metrics


def _line(metrics: dict[str, Any], columns: Sequence[Column]) -> str:
    values = [(metrics["test"][column.key], column) for column in columns]
    return ", ".join(
        f"{column.long} {'-' if x is None else f'{x * column.factor:.{column.digits}f}'}"
        for x, column in values
    )


def _point(series: str, n: int, found: list[dict[str, Any]], columns: Sequence[Column]) -> Point:
    def figures(row: str) -> NDArray[np.float64]:
        values = [[metrics[row][column.key] for column in columns] for metrics in found]
        factors = [column.factor for column in columns]
        return np.array(values, dtype=np.float64) * factors  # None becomes NaN

    untrained = figures("test start") if all("test start" in m for m in found) else None
    return Point(series, n, figures("test"), untrained)


def curve_table(
    points: Sequence[Point], columns: Sequence[Column], n_test: int, seeds: int
) -> Table:
    """Means over the seeds with their standard deviations, a row a point."""
    title = f"Learning curve: errors on {n_test} test frames, mean ± standard deviation of {seeds}"
    table = Table("frames", "start", *(column.long for column in columns), title=title)
    for point in points:
        if point.untrained is not None:
            cells = _cells(point.untrained, columns)
            table.add_row(str(point.n_frames), f"{point.series}, not trained", *cells)
        table.add_row(str(point.n_frames), point.series, *_cells(point.trained, columns))
    return table


def _cells(figures: NDArray[np.float64], columns: Sequence[Column]) -> list[str]:
    rows = zip(columns, figures.mean(0), spread(figures), strict=True)
    return [f"{mean:.{c.digits}f} ± {std:.{c.digits}f}" for c, mean, std in rows]


def spread(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation over the seeds (n - 1); NaN for one seed."""
    if len(figures) < 2:
        return np.full(figures.shape[1], np.nan)
    return figures.std(0, ddof=1)


def as_csv(points: Sequence[Point], columns: Sequence[Column]) -> str:
    """A row a run: start, whether it was trained, frames, number of the run, and the figures."""
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(["start", "trained", "frames", "run", *(column.long for column in columns)])
    for point in points:
        for trained, figures in ((0, point.untrained), (1, point.trained)):
            for number, row in enumerate([] if figures is None else figures):
                writer.writerow([point.series, trained, point.n_frames, number, *map(repr_of, row)])
    return text.getvalue()


def repr_of(value: float) -> str:
    """A number with enough digits to compare runs by."""
    return f"{value:.6g}"


@styled
def curve_figure(points: Sequence[Point], columns: Sequence[Column]) -> Figure:
    """A panel for each figure: error by number of frames, both logarithmic."""
    figure, axes = new_figure(width=3.4 * len(columns), columns=len(columns))
    series = list(dict.fromkeys(point.series for point in points))
    for k, (ax, column) in enumerate(zip(axes, columns, strict=True)):
        for name, colour in zip(series, [*COLOURS] * len(series), strict=False):
            own = [point for point in points if point.series == name]
            frames = [point.n_frames for point in own]
            means = [point.trained[:, k].mean() for point in own]
            errors = np.nan_to_num([spread(point.trained)[k] for point in own])
            ax.errorbar(frames, means, errors, marker="o", color=colour, label=name, capsize=3)
            untrained = [point.untrained for point in own if point.untrained is not None]
            if untrained:
                start = [rows[:, k].mean() for rows in untrained]
                ax.plot(frames, start, ":", color=colour, label=f"{name}, not trained")
        ax.set(xscale="log", yscale="log", xlabel="training frames", title=column.long)
        ticks = sorted({point.n_frames for point in points})
        ax.set_xticks(ticks, labels=[str(n) for n in ticks])
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    axes[0].legend()
    return figure
