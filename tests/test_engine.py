"""What a run does beyond plain epochs: stages, plateaus, accumulation, bad batches, locks."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from mlff2d import checkpoint
from mlff2d.files import append_line, write_text
from mlff2d.models import REGISTRY
from mlff2d.training import loop, stages
from mlff2d.training.config import ConfigError
from mlff2d.training.loop import train
from mlff2d.training.sections import Config, FilterConfig
from mlff2d.training.setup import Run, prepare
from mlff2d.training.state import restore_state, save_state
from tests.training_helpers import (
    PairNet,
    assert_equal,
    config_of,
    contents,
    die_after,
    small_config,
    write_monolayers,
)

STAGE_TWO = {"epoch": 3, "energy": 10.0, "forces": 0.5, "stress": 0.2, "lr": 1e-4}

SETTINGS = {
    "muon": {"train": {"optimizer": "muon", "weight_decay": 0.1}},
    "adam": {"train": {"optimizer": "adam", "ema": 0.0, "clip": 0.1}, "loss": {"kind": "mse"}},
    "plateau": {"train": {"schedule": "plateau", "plateau_epochs": 1, "lr": 0.1, "epochs": 5}},
    "early": {"train": {"early_stop": 1, "lr": 0.5, "optimizer": "amsgrad", "epochs": 9}},
    "accumulate": {"train": {"accumulate": 3}, "loss": {"kind": "mae", "atoms_power": 0.5}},
    "stage two": {"train": {"epochs": 4}, "loss": {"stage_two": STAGE_TWO}},
    "stage two early": {
        "train": {"epochs": 9, "early_stop": 1, "lr": 0.5, "schedule": "constant"},
        "loss": {"stage_two": STAGE_TWO | {"epoch": 8, "average": "ema", "lr": None}},
    },
}


pytestmark = pytest.mark.usefixtures("pairnet", "threads")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_monolayers(tmp_path_factory.mktemp("data") / "metals.extxyz")


def rows_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", SETTINGS)
def test_killed_twice_and_resumed_equals_uninterrupted(name, data, tmp_path, quiet, monkeypatch):
    whole = config_of(tmp_path / "whole", data, SETTINGS[name])
    train(whole, quiet)
    steps = sum(row["steps"] for row in rows_of(tmp_path / "whole"))
    sections = SETTINGS[name] | {"train": SETTINGS[name]["train"] | {"save_minutes": 1e-9}}
    killed = config_of(tmp_path / "killed", data, sections)
    rng = random.Random(name)
    first, second = rng.randrange(1, steps // 2), rng.randrange(steps // 2, steps)
    die_after(first, killed, monkeypatch, console=quiet)
    die_after(second - first, killed, monkeypatch, console=quiet)
    train(killed, quiet)
    assert_equal(contents(tmp_path / "killed"), contents(tmp_path / "whole"))


def test_every_counter_of_a_run_is_saved(data, tmp_path):
    """Each field of a run that training changes, set to something that it is not by itself."""
    config = config_of(tmp_path / "run", data, SETTINGS["stage two"])
    run, other = prepare(config), prepare(config)
    kinds = ("int", "float", "list[float]", "list[int]")
    counters = {field.name for field in fields(Run) if field.type in kinds}
    assert {"epoch", "recent", "plateaus", "stage", "frames", "seconds"} <= counters
    for k, name in enumerate(sorted(counters)):
        is_list = isinstance(getattr(run, name), list)
        setattr(run, name, [k + 3] if is_list else type(getattr(run, name))(k + 3))
    run.stage = 2
    config.run_dir.mkdir(exist_ok=True)
    save_state(run, config.run_dir / "state.pt")
    restore_state(other, config.run_dir / "state.pt")
    for name in counters:
        assert getattr(other, name) == getattr(run, name), name
    assert other.task.config.energy == STAGE_TWO["energy"]


@pytest.mark.parametrize("where", ["begin_stage_two", "save_state"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_as_stage_two_begins(where, after, data, tmp_path, quiet, monkeypatch):
    """Before or after the best of stage one is set aside, and before or after that is saved."""
    sections = SETTINGS["stage two"]
    train(config_of(tmp_path / "whole", data, sections), quiet)
    config = config_of(tmp_path / "killed", data, sections)
    original = getattr(loop, where)

    class Killed(BaseException):
        pass

    def die(run: Run, *args: object) -> None:
        at_the_switch = run.epoch == 2 and run.step == 0
        if at_the_switch and not after and (where == "begin_stage_two" or run.stage == 2):
            raise Killed
        original(run, *args)
        if at_the_switch and after and (where == "begin_stage_two" or run.stage == 2):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, where, die)
        with pytest.raises(Killed):
            train(config, quiet)
    train(config, quiet)
    assert_equal(contents(tmp_path / "killed"), contents(tmp_path / "whole"))
    first = [checkpoint.read(tmp_path / d / "stage-one.pt")["weights"] for d in ("killed", "whole")]
    assert_equal(*first)


def test_stage_two_has_its_own_best_learning_rate_and_weights(data, tmp_path, quiet, monkeypatch):
    seen = []
    original = loop._step

    def spy(run, *args):
        value = original(run, *args)
        weights = [p.detach().double().clone() for p in run.module.parameters()]
        seen.append((run.stage, run.optimizer.param_groups[0]["lr"], run.task.config, weights, run))
        return value

    monkeypatch.setattr(loop, "_step", spy)
    config = config_of(tmp_path / "run", data, SETTINGS["stage two"])
    train(config, quiet)
    rows = rows_of(tmp_path / "run")
    assert [row["stage"] for row in rows] == [1, 1, 2, 2]
    second = [entry for entry in seen if entry[0] == 2]
    assert len(second) == rows[2]["steps"] + rows[3]["steps"]
    assert all(lr == 1e-4 for _, lr, _, _, _ in second)
    assert all(c.energy == 10.0 and c.forces == 0.5 for _, _, c, _, _ in second)
    assert all(c.energy == 1.0 for stage, _, c, _, _ in seen if stage == 1)
    # The mean over all steps of the stage, by hand.
    run = seen[-1][4]
    for k, parameter in enumerate(run.averaged.parameters()):
        expected = torch.stack([weights[k] for _, _, _, weights, _ in second]).mean(0)
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-6, atol=1e-8)
    first, best = (checkpoint.read(tmp_path / "run" / f"{x}.pt") for x in ("stage-one", "best"))
    assert first["training"]["epoch"] <= 2 < best["training"]["epoch"]
    # Judged with the new weights: the figures of the epoch give its loss.
    monkeypatch.undo()
    monkeypatch.setitem(REGISTRY, "pairnet", PairNet)
    again = prepare(config)
    again.stage = 2
    stages.apply_stage(again)
    last = checkpoint.load_any(tmp_path / "run" / "last.pt").train()
    value = again.task.evaluate(last, again.fixed_batches(again.split.val))
    assert rows[-1]["val"]["loss"] == pytest.approx(value.loss, rel=1e-5)
    with_old_weights = prepare(config).task.evaluate(last, again.fixed_batches(again.split.val))
    assert value.loss > 1.5 * with_old_weights.loss


def test_a_stage_two_that_never_begins_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"stage_two\.epoch is 3, behind the last epoch"):
        config_of(tmp_path, data, {"train": {"epochs": 2}, "loss": {"stage_two": STAGE_TWO}})
    nothing = STAGE_TWO | {"energy": 0, "forces": 0, "stress": 0}
    with pytest.raises(ValueError, match="every weight is zero"):
        config_of(tmp_path, data, {"loss": {"stage_two": nothing}})


@pytest.mark.parametrize(
    ("section", "values", "idle"),
    [
        ("train", {"plateau_epochs": 3}, "plateau_epochs has no meaning with schedule: cosine"),
        ("train", {"schedule": "constant", "final_lr": 0.1}, "final_lr has no meaning with"),
        ("loss", {"kind": "mse", "delta_forces": 0.3}, "delta_forces has no meaning with kind"),
        ("loss", {"kind": "huber", "delta_property": 0.3}, "delta_property has no meaning with en"),
        ("priors", {"references": "isolated", "fit_by": "composition"}, "fit_by has no meaning"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(section, values, idle, data, tmp_path):
    with pytest.raises(ValueError, match=idle):
        config_of(tmp_path, data, {section: values})


def test_plateau_and_early_stop_by_hand(data, tmp_path):
    """Validation losses are given, so that what follows from them can be counted."""
    settings = {"schedule": "plateau", "plateau_epochs": 2, "plateau_factor": 0.1, "early_stop": 5}
    sections = {"train": settings | {"warmup_epochs": 0.0, "final_lr": 0.002, "lr": 1.0}}
    run = prepare(config_of(tmp_path / "run", data, sections))
    rates, best, ends = [], [], []
    for loss in (3.0, 2.0, 2.5, 2.0, 1.0, 1.5, 1.4, 1.3, 1.2, 1.1):
        run.epoch += 1
        best.append(stages.note_validation(run, loss))
        rates.append(stages.present_learning_rate(run, run.epoch))
        ends.append(stages.is_stale(run))
    assert best == [True, True, False, False, True, False, False, False, False, False]
    # Lower after every two without a better one; the last time final_lr is the lowest.
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01, 0.002, 0.002])
    assert ends == [False] * 9 + [True]
    assert (run.best, run.best_epoch) == (1.0, 5)


def test_early_stop_ends_a_run(data, tmp_path):
    console = Console(file=StringIO(), markup=False, width=120)
    config = config_of(tmp_path / "run", data, SETTINGS["early"])
    assert train(config, console).stopped is None
    rows = rows_of(tmp_path / "run")
    assert len(rows) < 9
    assert [row["best"] for row in rows] == [True] * (len(rows) - 1) + [False]
    assert "No better validation loss in 1 epochs" in console.file.getvalue()
    assert (tmp_path / "run" / "metrics.json").exists()
    before = contents(tmp_path / "run")
    train(config, console)
    assert_equal(contents(tmp_path / "run"), before)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_accumulated_batches_equal_one_large_one(power, data, tmp_path, quiet, monkeypatch):
    """The same gradient to rounding, although labels are missing here and there."""
    frames = ase.io.read(data, ":")
    for k, atoms in enumerate(frames):
        labels = dict(atoms.calc.results)
        if k % 4 == 0:
            frames[k] = atoms.repeat((2, 1, 1))
            labels["energy"] = 2 * labels["energy"]
            labels["forces"] = np.tile(labels["forces"], (2, 1))
        if k % 3 == 0:
            del labels["stress"]
        if k % 5 == 0:
            labels["forces"] = np.full_like(labels["forces"], np.nan)
        frames[k].calc = SinglePointCalculator(frames[k], **labels)
    ase.io.write(tmp_path / "mixed.extxyz", frames)
    gradients: dict[int, list[torch.Tensor]] = {}

    original = loop.what_is_wrong

    def spy(run: Run, *args: float) -> str | None:
        flat = torch.cat([p.grad.flatten() for p in run.module.parameters()])
        gradients.setdefault(run.config.train.accumulate, []).append(flat.double())
        return original(run, *args)

    monkeypatch.setattr(loop, "what_is_wrong", spy)
    for accumulate in (1, 4):
        sections = {
            "train": {
                "epochs": 1,
                "accumulate": accumulate,
                "batch_size": 16 // accumulate,
                "dtype": "float64",
                "clip": None,
            },
            "loss": {"kind": "mae", "atoms_power": power, "stress": 1.0},
        }
        config = config_of(tmp_path / f"run-{accumulate}", tmp_path / "mixed.extxyz", sections)
        train(config, quiet)
    assert len(gradients[1]) == len(gradients[4]) >= 3
    for one, four in zip(gradients[1], gradients[4], strict=True):
        torch.testing.assert_close(one, four, rtol=1e-9, atol=1e-10)
    losses = [rows_of(tmp_path / f"run-{k}")[0]["train_loss"] for k in (1, 4)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_a_run_can_be_lengthened(schedule, data, tmp_path, quiet):
    def config(run_dir: str, epochs: int) -> Config:
        return config_of(
            tmp_path / run_dir, data, {"train": {"schedule": schedule, "epochs": epochs}}
        )

    train(config("long", 4), quiet)
    train(config("short", 2), quiet)
    train(config("short", 4), quiet)
    assert_equal(contents(tmp_path / "short"), contents(tmp_path / "long"))
    with pytest.raises(ConfigError, match=r"train\.epochs: 4 -> 3"):
        train(config("short", 3), quiet)


def test_a_cosine_cannot_be_lengthened_and_says_what_to_do(data, tmp_path, quiet):
    train(small_config(tmp_path / "run", data, epochs=1), quiet)
    with pytest.raises(ConfigError, match=r"epochs: 1 -> 2.*model\.from: .*best\.pt.*constant"):
        train(small_config(tmp_path / "run", data, epochs=2), quiet)


def test_weights_that_act_on_nothing_are_named(data, tmp_path):
    frames = ase.io.read(data, ":")
    for atoms in frames:
        del atoms.calc.results["stress"]
    ase.io.write(tmp_path / "unstressed.extxyz", frames)
    console = Console(file=StringIO(), markup=False, width=200)
    config = config_of(tmp_path / "run", tmp_path / "unstressed.extxyz", {"train": {"epochs": 1}})
    train(config, console)
    assert "loss.stress is 0.1, but no training frame has a stress" in console.file.getvalue()
    assert "loss.forces is" not in console.file.getvalue()
    only = {"loss": {"energy": 0, "forces": 0, "stress": 1.0}}
    with pytest.raises(ConfigError, match="no frame of the training part has a label that loss"):
        train(config_of(tmp_path / "none", tmp_path / "unstressed.extxyz", only), console)


def test_two_runs_at_once_in_one_folder_are_refused(data, tmp_path, quiet, monkeypatch):
    config = small_config(tmp_path / "run", data, epochs=1)
    original = loop._step

    def meanwhile(*args):
        with pytest.raises(ConfigError, match=r"run is in use by process \d+ on .*run_dir"):
            train(config, quiet)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", meanwhile)
        assert train(config, quiet).stopped is None
    assert train(config, quiet).stopped is None


def test_another_process_holds_the_folder(tmp_path):
    program = (
        "import sys, pathlib; from mlff2d.training.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).parents[1]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": root}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        from mlff2d.training.lock import locked

        with pytest.raises(ConfigError, match=f"in use by process {holder.pid} "), locked(tmp_path):
            pass
        holder.kill()  # the system lets go of the lock
        holder.wait()
        with locked(tmp_path):
            pass


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """The system refuses to make files larger than this, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_no_room_for_the_state_is_one_sentence_and_loses_nothing(data, tmp_path, quiet):
    config = small_config(tmp_path / "run", data)
    run = prepare(config)
    config.run_dir.mkdir()
    path = config.run_dir / "state.pt"
    save_state(run, path)
    before = path.read_bytes()
    words = r"state\.pt could not be written \(File too large\); make room"
    with largest_file(10_000), pytest.raises(OSError, match=words):
        save_state(run, path)
    assert path.read_bytes() == before
    assert [file.name for file in config.run_dir.iterdir()] == ["state.pt"]
    assert train(config, quiet).stopped is None


def test_no_room_for_text_is_one_sentence_and_loses_nothing(tmp_path):
    path = tmp_path / "figures.json"
    write_text("old", path)
    words = r"figures\.json could not be written \(File too large\); make room"
    with largest_file(10), pytest.raises(OSError, match=words):
        write_text("new and long", path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with largest_file(10), pytest.raises(OSError, match=words):
        append_line("new and long", path)
    assert path.read_text().startswith("old")


def test_the_table_of_epochs_fits_and_repeats_its_head(data, tmp_path):
    console = Console(file=StringIO(), markup=False, width=120)
    train(small_config(tmp_path / "run", data, epochs=41), console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 120
    heads = [k for k, line in enumerate(lines) if line.lstrip().startswith("epoch  train loss")]
    assert np.diff(heads).tolist() == [21, 21]
    assert len(heads) == 3
    end = "\n".join(lines[heads[-1] :])
    for word in ("best epoch", "minutes of training", "frames per second", "test baseline"):
        assert word in end
    assert str(tmp_path / "run") in end.replace("\n", "")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", None])
def test_a_damaged_state_is_named(tmp_path, data, quiet, content):
    config = small_config(tmp_path / "run", data, epochs=1)
    train(config, quiet)
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:3000] if content is None else content)
    with pytest.raises(ConfigError, match=r"state\.pt is damaged .* delete it"):
        train(config, quiet)


def test_a_filter_that_leaves_nothing_is_named(tmp_path, data, quiet):
    config = small_config(tmp_path / "run", data)
    strict = config.model_copy(update={"filters": FilterConfig(max_force=1e-9)})
    with pytest.raises(ConfigError, match=r"none of the 72 frames .* force component above 1e-09"):
        train(strict, quiet)
