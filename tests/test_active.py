"""Rounds of explore, pick, label and retrain: as one, and however often they are killed."""

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from mlff2d import checkpoint, cli
from mlff2d.errors import StructureError
from mlff2d.potential import Potential
from mlff2d.training import loop
from mlff2d.training.active import explore, retrain, rounds
from mlff2d.training.active.config import LabelConfig, load_active
from mlff2d.training.active.labels import label
from mlff2d.training.config import ConfigError
from mlff2d.training.data.convert import convert
from mlff2d.training.data.record import Keys
from tests.structures import mos2
from tests.training_helpers import METALS, Killed, PairNet, PairNetConfig, monolayers

YAML = {"calculator": "ase.calculators.emt:EMT", "level": "EMT"}


def relax_by_chance(structures: Any, potential: Potential, **settings: Any) -> Any:
    """Stands for a relaxation: every start but the last gets there."""
    for number, atoms in reversed(list(enumerate(structures))):
        if number == len(structures) - 1:
            yield number, StructureError("it is no slab")
            continue
        moved = atoms.copy()
        moved.rattle(0.01, seed=number)
        yield number, type("Reached", (), {"atoms": moved, "status": "converged"})()


def move_by_chance(structures: Any, potential: Potential, output: Path, **settings: Any) -> Any:
    """Stands for dynamics: frames rattled by an amount that the temperature says."""
    frames = []
    for number, atoms in enumerate(structures):
        own = [atoms.copy() for _ in range(settings["steps"] // settings["write_every"])]
        for k, frame in enumerate(own):
            frame.rattle(
                settings["temperature"] / 5000, seed=settings["seed"] % 1000 + 50 * number + k
            )
        frames.append(own)
    return frames, ["after step 3: the layer broke"], None


def label_here(
    picked: Path, output: Path, config: LabelConfig, material_key: str, console: Console
) -> int | None:
    """Labels in this process, as starting another takes seconds."""
    frames = ase.io.read(picked, ":")
    for atoms in frames:
        calculator = EMT()
        atoms.calc = calculator
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
    source = output.with_name("frames.extxyz")
    ase.io.write(source, frames)
    convert([source], output, Keys(material_key))
    return None


@pytest.fixture
def folder(tmp_path, monkeypatch, pairnet, threads) -> Path:
    """Starts, a model, test frames and a config that takes a second, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explore, "relaxer", relax_by_chance)
    monkeypatch.setattr(explore, "mover", move_by_chance)
    monkeypatch.setattr(rounds, "label", label_here)
    frames = monolayers(1)
    starts = [atoms.copy() for atoms in frames[:5]]
    for atoms in starts:
        atoms.calc = None
    ase.io.write("starts.extxyz", starts)
    ase.io.write("test.extxyz", frames[10:22])
    torch.manual_seed(0)
    net = PairNet(PairNetConfig())
    references = dict.fromkeys(Atoms(METALS).numbers.tolist(), 0.0)
    checkpoint.save(Potential(net, references, scale=30.0), tmp_path / "start.pt")
    Path("emt.yaml").write_text(yaml.safe_dump(YAML))
    settings = {
        "run_dir": "run",
        "rounds": 2,
        "structures": "starts.extxyz",
        "models": "start.pt",
        "test": "test.extxyz",
        "explore": {"temperatures": [300, 900], "steps": 6, "write_every": 2},
        "pick": {"n": 6},
        "label": {"calculator": "emt.yaml"},
        "committee": {"members": 2, "steps": 6},
        "training": {"train": {"lr": 5e-3, "device": "cpu"}},
        "device": "cpu",
        "threads": 1,
    }
    Path("active.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def config(*overrides: str) -> Any:
    return load_active(Path("active.yaml"), overrides)


def outcome(run_dir: Path) -> dict[str, Any]:
    """All that rounds leave and that must not depend on how often they were stopped."""
    found: dict[str, Any] = {}
    for path in sorted(run_dir.rglob("*")):
        name = str(path.relative_to(run_dir))
        if path.name in ("explored.extxyz", "picked.extxyz", "rounds.csv", "report.json"):
            found[name] = path.read_text()
        elif path.name == "best.pt":
            digest = hashlib.sha256()
            for key, value in checkpoint.read(path)["weights"].items():
                digest.update(key.encode() + value.numpy().tobytes())
            found[name] = digest.hexdigest()
    return found


def test_two_rounds(folder, capsys) -> None:
    assert cli_rounds() is None
    printed = capsys.readouterr().err
    assert "picked by novelty" not in printed, "the model has no domain"
    assert "only one model and so no committee yet: picked by diversity" in printed
    assert "1 ended early: relaxation: it is no slab" in printed
    assert "ended early: 900 K: after step 3: the layer broke" in printed
    run = Path("run")
    explored = ase.io.read(run / "round-01/explored.extxyz", ":")
    assert len(explored) == 4 + 2 * 5 * 3, "what is relaxed, and frames behind the first"
    starts = ase.io.read("starts.extxyz", ":")
    for atoms in explored:
        start = starts[atoms.info["start"]]
        assert atoms.info["material"] == start.info["material"]
        assert atoms.get_chemical_formula() == start.get_chemical_formula()
        assert atoms.info["mode"] in ("relaxed", "md 300 K", "md 900 K")
    for number in (1, 2):
        picked = ase.io.read(run / f"round-0{number}/picked.extxyz", ":")
        assert len(picked) == 6
        report = json.loads((run / f"round-0{number}/report.json").read_text())
        assert report["frames"] == 6 * number
        assert report["labelled"] == 6
        assert report["new_frames"]["n_frames"] == 6
        assert len(report["test"]) == 2
        assert -1 <= report["test_frames"]["spearman"] <= 1
    choice = json.loads((run / "round-02/picked.json").read_text())
    assert choice["way"] == "committee"
    uncertain = [atoms.info["uncertainty"] for atoms in picked]
    assert uncertain[0] == max(uncertain)
    first, second = (checkpoint.read(run / f"round-02/models/member-{k}/best.pt") for k in (0, 1))
    assert first["training"]["settings"]["seed"] != second["training"]["settings"]["seed"]
    splits = [x["training"]["settings"]["split"]["seed"] for x in (first, second)]
    assert splits[0] != splits[1], "other frames to validate on"
    assert first["training"]["frames"]["train"] + first["training"]["frames"]["val"] == 12
    assert (run / "rounds.png").exists()
    rows = (run / "rounds.csv").read_text().splitlines()
    assert len(rows) == 1 + 1 + 2 + 2, "a row for each model of each round"


def cli_rounds(*overrides: str) -> int | None:
    return rounds.run_rounds(config(*overrides))


def test_killed_ever_again_it_comes_out_the_same(folder, monkeypatch) -> None:
    """It dies before every seventh of its writes; what was written is not lost or done twice."""
    quiet = Console(quiet=True)
    rounds.run_rounds(config("run_dir=whole", "committee.steps=2"), quiet)
    replace, deaths = os.replace, 0
    while True:
        done = 0

        def dying(*args: Any) -> None:
            nonlocal done
            done += 1
            if done == 7:
                raise Killed
            replace(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            try:
                rounds.run_rounds(config("run_dir=killed", "committee.steps=2"), quiet)
            except Killed:
                deaths += 1
                assert deaths < 40, "it does not get on"
                continue
        break
    assert deaths > 4
    ours, theirs = outcome(folder / "killed"), outcome(folder / "whole")
    assert ours.keys() == theirs.keys()
    assert len(theirs) > 10
    for name, content in theirs.items():
        assert ours[name] == content, name


def test_what_is_done_is_not_done_again(folder, monkeypatch) -> None:
    quiet = Console(quiet=True)
    rounds.run_rounds(config("rounds=1"), quiet)
    before = outcome(folder / "run")
    for module, name in ((rounds, "explore"), (rounds, "label"), (retrain, "train")):
        monkeypatch.setattr(module, name, lambda *args, name=name: pytest.fail(f"{name} again"))
    rounds.run_rounds(config("rounds=1"), quiet)
    assert outcome(folder / "run") == before


def test_more_rounds_may_be_asked_for_and_nothing_else(folder) -> None:
    quiet = Console(quiet=True)
    rounds.run_rounds(config("rounds=1"), quiet)
    for change, told in (
        ("pick.n=7", r"pick\.n: 6 -> 7"),
        ("explore.steps=8", r"explore\.steps: 6 -> 8"),
        ("training.train.lr=1e-3", r"training\.train\.lr: 0\.005 -> 0\.001"),
        ("seed=1", "seed: 0 -> 1"),
    ):
        with pytest.raises(ConfigError, match=rf"holds rounds with other settings.*{told}"):
            rounds.run_rounds(config("rounds=1", change), quiet)
    starts = ase.io.read("starts.extxyz", ":")
    ase.io.write("starts.extxyz", starts[:4])
    with pytest.raises(ConfigError, match="the content of structures"):
        rounds.run_rounds(config("rounds=1"), quiet)
    ase.io.write("elsewhere.extxyz", starts)
    rounds.run_rounds(config("rounds=2", "structures=elsewhere.extxyz"), quiet)
    assert (folder / "run/round-02/report.json").exists()


def test_data_of_before_are_learnt_first(folder) -> None:
    ase.io.write("known.extxyz", monolayers(1)[24:34])
    rounds.run_rounds(config("rounds=1", "data=known.extxyz"), Console(quiet=True))
    first, second = (
        json.loads((folder / f"run/round-0{k}/report.json").read_text()) for k in (0, 1)
    )
    assert (first["frames"], second["frames"]) == (10, 16)
    assert len(first["test"]) == 2, "a committee before the first round"
    assert second["picked_by"] == "committee"
    assert second["test"][0]["energy"] is not None


@pytest.mark.usefixtures("in_process")
def test_a_frame_that_fails_is_passed_over(folder, monkeypatch, capsys) -> None:
    """EMT knows no tungsten, and the model does; labelled as `mlff2d label` does."""
    monkeypatch.setattr(rounds, "label", label)
    starts = ase.io.read("starts.extxyz", ":")
    starts[0].numbers[0] = 74
    ase.io.write("starts.extxyz", starts)
    net = PairNet(PairNetConfig())
    references = dict.fromkeys([74, *Atoms(METALS).numbers.tolist()], 0.0)
    checkpoint.save(Potential(net, references, scale=30.0), folder / "start.pt")
    assert cli_rounds("rounds=1", "pick.n=20") is None
    assert "not labelled" in capsys.readouterr().err
    report = json.loads(Path("run/round-01/report.json").read_text())
    assert 4 < report["labelled"] < report["picked"] == 20
    assert report["frames"] == report["labelled"]


@pytest.mark.usefixtures("in_process")
def test_a_calculator_that_always_fails_ends_it(folder, monkeypatch) -> None:
    monkeypatch.setattr(rounds, "label", label)
    starts = ase.io.read("starts.extxyz", ":")
    for atoms in starts:
        atoms.numbers[:] = 74
    ase.io.write("starts.extxyz", starts)
    checkpoint.save(Potential(PairNet(PairNetConfig()), {74: 0.0}, 30.0), folder / "start.pt")
    explored = Path("run/round-01/explored.extxyz")
    with pytest.raises(ConfigError, match=r"none of the frames .* could be labelled .*emt\.yaml"):
        cli_rounds("rounds=1", "test=[]", "pick.n=20")
    assert not Path("run/round-01/labelled.h5").exists()
    assert Path("run/round-01/labelling.failed/calculations").is_dir()
    before = explored.read_bytes()

    Path("emt.yaml").write_text("calculator: nowhere:It\n")
    with pytest.raises(ConfigError, match=r"label\.calculator: .*nowhere cannot be imported"):
        cli_rounds("rounds=1", "test=[]", "pick.n=20")

    mended = "calculator: ase.calculators.lj:LennardJones\nparameters: {sigma: 2.4, rc: 5.0}\n"
    Path("emt.yaml").write_text(mended)
    assert cli_rounds("rounds=1", "test=[]", "pick.n=20") is None
    assert Path("run/round-01/labelled.h5").exists()
    assert explored.read_bytes() == before
    Path("emt.yaml").write_text(mended.replace("2.4", "2.5"))
    with pytest.raises(ConfigError, match=r"the content of label\.calculator"):
        cli_rounds("rounds=1", "test=[]", "pick.n=20")


def test_a_signal_in_training_stops_in_good_order(folder, monkeypatch) -> None:
    original, steps = loop._step, []

    def step(*args: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", step)
        assert cli_rounds("rounds=1") == signal.SIGTERM
    assert not Path("run/round-01/report.json").exists()
    assert cli_rounds("rounds=1") is None
    rounds.run_rounds(config("rounds=1", "run_dir=whole"), Console(quiet=True))
    ours, theirs = outcome(folder / "run"), outcome(folder / "whole")
    assert ours == theirs


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pick.nn=3", r"unknown key 'pick\.nn'.*Did you mean 'n'"),
        ("pick.by=comittee", r"pick\.by"),
        ("pick.n=0", r"pick\.n"),
        ("committee.members=1", r"committee\.members of at least 2"),
        ("explore={relax: false, temperatures: []}", "nothing is explored"),
        ("pick={by: random, min_uncertainty: 0.1}", "no meaning with by: random"),
        ("pick={min_uncertainty: 2, max_uncertainty: 1}", "above min_uncertainty"),
        ("label.calculator=nowhere.yaml", r"label\.calculator.*nowhere\.yaml"),
        ("label.calculator=vasp", r"label\.calculator.*vasp"),
        ("models=[no.pt]", r"no\.pt"),
        ("training.train.lrr=1", r"training.*train\.lrr.*Did you mean 'lr'"),
        ("training.model={name: m3gnet}", r"training\.model is set by the rounds"),
        ("training.data.files=[a.h5]", r"training\.data is set by the rounds"),
        ("training.loss=3", r"training\.loss is a section"),
    ],
)
def test_a_bad_config_is_refused_in_a_sentence(folder, override, message) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        config(override)
    assert str(error.value).startswith("active.yaml")
    assert "\n" not in str(error.value)


def test_files_that_are_not_there(folder, capsys) -> None:
    for override in ("structures=no.extxyz", "test=no.extxyz", "data=no.extxyz"):
        assert cli.main(["active", "active.yaml", "--set", override]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert "no.extxyz" in error[-1]
        assert len(error) == 1


def test_test_frames_of_unknown_elements_are_refused(folder) -> None:
    frames = ase.io.read("test.extxyz", ":")
    frames[3].numbers[0] = 74
    ase.io.write("test.extxyz", frames)
    with pytest.raises(StructureError, match=r"the test frames: .* never seen W"):
        cli_rounds("rounds=1")


def test_the_example_is_a_config() -> None:
    example = Path(rounds.__file__).parents[1] / "configs/active.yaml"
    found = load_active(example)
    assert found.pick.n == 20
    assert found.explore.perturb is not None


@pytest.mark.parametrize("calculator", ["no.pt", "nowhere.yaml"])
def test_what_cannot_label_is_told_before_anything_is_explored(folder, calculator) -> None:
    Path("nowhere.yaml").write_text("calculator: nowhere:It\n")
    with pytest.raises(ConfigError, match=r"label\.calculator: .*no"):
        cli_rounds(f"label.calculator={calculator}")
    assert not Path("run/round-01/explored.extxyz").exists()


def test_moments_of_the_starts_are_kept(folder) -> None:
    starts = ase.io.read("starts.extxyz", ":")
    moments = np.arange(len(starts[0])) - 1.0
    starts[0].set_initial_magnetic_moments(moments)
    found = explore.explore(starts, None, config().explore, folder / "exploring", [0, 1])
    own = [atoms for atoms in found.frames if atoms.info["start"] == 0]
    assert len(own) > 2
    for atoms in own:
        assert atoms.get_initial_magnetic_moments().tolist() == moments.tolist()
    assert not any(a.has("initial_magmoms") for a in found.frames if a.info["start"] == 1)


def test_perturbed_frames_are_explored(folder) -> None:
    how = "{relax: false, temperatures: [], perturb: {rattle: [0.05, 0.2], strain: 0.0, n: 2}}"
    settings = config(f"explore={how}").explore
    starts = ase.io.read("starts.extxyz", ":")
    found = explore.explore(starts, None, settings, folder / "exploring", [0, 1])
    assert found.counts == {"rattled": 10, "hot": 10}
    again = explore.explore(starts, None, settings, folder / "exploring", [0, 2])
    assert not np.allclose(found.frames[0].positions, again.frames[0].positions)


@pytest.mark.slow
def test_the_program_explores_by_dynamics(folder, monkeypatch) -> None:
    """With the real relaxer and the real dynamics, as `mlff2d active` sets them."""
    monkeypatch.setattr(rounds, "label", label)
    ase.io.write("starts.extxyz", [mos2(), mos2(seed=1)])
    how = "{relax: true, fmax: 0.3, temperatures: [300], steps: 6, write_every: 3, replicas: 2}"
    overrides = ["models=universal", "test=[]", f"explore={how}", "pick.n=4", "rounds=1"]
    overrides += ["label.calculator=teacher.pt", "committee.steps=2"]
    potential = checkpoint.load()
    checkpoint.save(potential, "teacher.pt")
    argv = ["active", "active.yaml"]
    for override in overrides:
        argv += ["--set", override]
    assert cli.main(argv) == 0
    frames = ase.io.read("run/round-01/explored.extxyz", ":")
    modes = [atoms.info["mode"] for atoms in frames]
    assert (modes.count("relaxed"), modes.count("md 300 K")) == (2, 2 * 2 * 2)
    assert all(atoms.calc is None for atoms in frames), "no label of a model"
    assert not Path("run/round-01/exploring").exists()
    report = json.loads(Path("run/round-01/report.json").read_text())
    assert report["picked_by"] == "novelty", "the shipped model knows its training set"
    assert report["new_frames"]["error"] < 1e-3, "the teacher is the model itself"
