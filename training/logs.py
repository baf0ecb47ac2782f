"""Where the figures of a run go: lines of JSON always, TensorBoard and Weights & Biases if asked.

The axis of TensorBoard and W&B is the number of steps that the run has behind it. In a run that
goes on from a saved state the points behind that state are written over; W&B keeps the first of
two, which are equal, as a resumed run repeats its steps to the bit.
"""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mlff2d.files import append_line, write_text

from .config import ConfigError
from .distributed import is_main
from .sections import Config

EVERY = 10
"""Steps between two points of what is shown within an epoch."""


class Log(ABC):
    """Something that takes the figures of a run."""

    @abstractmethod
    def step(self, step: int, figures: dict[str, float]) -> None:
        """Figures of one step, with `step` others of the run behind it."""

    @abstractmethod
    def epoch(self, step: int, row: dict[str, Any]) -> None:
        """The row of an epoch, with `step` steps of the run behind its end."""

    @abstractmethod
    def close(self) -> None:
        """Write what is not written yet."""


class Logs:
    """Context with all logs of a run; of several processes only the main one keeps them.

    Parameters
    ----------
    config : names the logs beside the lines of JSON, and the folder
    epoch, step : where the run goes on: epochs done, and steps done in the present one

    Raises ConfigError for a log that does not start.
    """

    def __init__(self, config: Config, epoch: int = 0, step: int = 0) -> None:
        self._logs: list[Log] = []
        if not is_main():
            return
        lines = JsonLog(config.run_dir / "log.jsonl", epoch)
        self._logs.append(lines)
        self._first = lines.n_steps
        if "tensorboard" in config.train.log:
            # With no step done in this epoch, the row of the one before stays.
            undone = self._first + (step or 1)
            self._logs.append(TensorBoardLog(config, undone))
        if "wandb" in config.train.log:
            self._logs.append(WandbLog(config))

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *error: object) -> None:
        for log in self._logs:
            log.close()

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Figures of a step of the present epoch, counted from 1; most steps are passed over."""
        if step % EVERY == 0:
            for log in self._logs:
                log.step(self._first + step - 1, figures)

    def epoch(self, row: dict[str, Any]) -> None:
        """The row of the present epoch, which then ends; `steps` is among its figures."""
        if self._logs:
            self._first += row["steps"]
        for log in self._logs:
            log.epoch(self._first, row)


class JsonLog(Log):
    """A line of JSON an epoch; those of epochs that will be done again are dropped."""

    def __init__(self, path: Path, epoch: int) -> None:
        self._path = path
        rows = path.read_text().splitlines()[:epoch] if path.exists() else []
        if path.exists():
            write_text("".join(row + "\n" for row in rows), path)
        self.n_steps = sum(json.loads(row)["steps"] for row in rows)

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Not kept."""

    def epoch(self, step: int, row: dict[str, Any]) -> None:
        """Appended."""
        append_line(json.dumps(row), self._path)

    def close(self) -> None:
        """Nothing is held back."""


class TensorBoardLog(Log):
    """Event files in the folder `tensorboard` of a run."""

    def __init__(self, config: Config, undone: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Readers drop what a killed run wrote from this point on.
        self._writer = SummaryWriter(str(config.run_dir / "tensorboard"), purge_step=undone)

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Scalars under `step/`."""
        for name, value in figures.items():
            self._writer.add_scalar(f"step/{name}", value, step)

    def epoch(self, step: int, row: dict[str, Any]) -> None:
        """Scalars under `epoch/`, those of a part of the data under its name."""
        for name, value in flat(row).items():
            self._writer.add_scalar(name if "/" in name else f"epoch/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


class WandbLog(Log):
    """A run of Weights & Biases, named as `run_dir`; without an account with WANDB_MODE=offline.

    Its id is kept in the folder `wandb`, so that a run that goes on stays the same run there.
    """

    def __init__(self, config: Config) -> None:
        wandb = _needed("wandb")
        folder = config.run_dir / "wandb"
        folder.mkdir(exist_ok=True)
        name = folder / "run_id"
        if not name.exists():
            name.write_text(secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project="mlff2d",
                name=config.run_dir.resolve().name,
                id=name.read_text(),
                resume="allow",
                dir=str(config.run_dir),
                config=config.resolved(),
            )
        except Exception as error:  # its own classes, from a package that may not be there
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(
                f"train.log: wandb does not start ({reason.removesuffix('.')}); log in with 'wandb "
                "login', or set WANDB_MODE=offline to keep the figures here."
            ) from error

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Under `step/`."""
        self._run.log({f"step/{name}": value for name, value in figures.items()}, step=step)

    def epoch(self, step: int, row: dict[str, Any]) -> None:
        """Under `epoch/`, those of a part of the data under its name."""
        figures = {n if "/" in n else f"epoch/{n}": x for n, x in flat(row).items()}
        self._run.log(figures, step=step)

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


def flat(row: dict[str, Any], at: str = "") -> dict[str, float]:
    """The numbers of a row and no Nones; those of a nested row as "outer/inner"."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= flat(value, f"{at}{name}/")
        elif isinstance(value, int | float):
            found[at + name] = float(value)
    return found


def _needed(package: str) -> ModuleType:
    """The package of an extra. Raises ConfigError where it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"train.log: the package {package} is not installed; install it with "
            f"pip install 'mlff2d[{package}]', or leave it out of train.log."
        ) from error


def refuse_missing_packages(config: Config) -> None:
    """Raise ConfigError where a log needs a package that is not installed."""
    for name in config.train.log:
        _needed(name)
