"""What models say of frames, and which are picked."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from mlff2d import MLFF2DCalculator, cli
from mlff2d.checkpoint import save
from mlff2d.errors import StructureError
from mlff2d.potential import Potential
from mlff2d.training.active.config import PickConfig
from mlff2d.training.active.judge import calibrate
from mlff2d.training.active.opinions import Opinion, opinions
from mlff2d.training.active.pick import greedy, pick
from mlff2d.training.config import ConfigError
from mlff2d.training.data.convert import convert
from mlff2d.training.data.record import Keys
from tests.training_helpers import PairNet, PairNetConfig

Z = {"Cu": 29, "Ag": 47, "Au": 79}


def layer(first: str, second: str, seed: int, size: float = 0.05) -> Atoms:
    """A rattled square layer of two metals."""
    atoms = Atoms(
        [first, second],
        scaled_positions=[(0, 0, 0.5), (0.5, 0.5, 0.5)],
        cell=[3.8, 3.8, 15.0],
        pbc=(True, True, False),
    )
    atoms.positions += np.random.default_rng(seed).normal(scale=size, size=(2, 3))
    return atoms


def potential(seed: int = 0, cutoff: float = 4.0, wrong_for: str | None = None) -> Potential:
    """Random weights; another opinion of one element than others of the same seed."""
    torch.manual_seed(seed)
    net = PairNet(PairNetConfig(cutoff=cutoff))
    if wrong_for is not None:
        with torch.no_grad():
            net.element.weight[Z[wrong_for]] += 1.0
    return Potential(net, dict.fromkeys(Z.values(), -3.0), scale=100.0).double().eval()


def test_opinions_are_those_of_the_models_one_by_one() -> None:
    models = [potential(0), potential(1), potential(2, cutoff=5.0)]
    frames = [layer("Cu", "Ag", k) for k in range(3)] + [layer("Au", "Au", 3).repeat((2, 1, 1))]
    for atoms, told in zip(frames, opinions(models, frames), strict=True):
        assert isinstance(told, Opinion)
        forces = np.stack([MLFF2DCalculator(m, dtype="float64").get_forces(atoms) for m in models])
        np.testing.assert_allclose(told.forces, forces, atol=1e-9)
        mean = forces.mean(0)
        spread = np.sqrt(((forces - mean) ** 2).sum(-1).mean(0))
        np.testing.assert_allclose(told.disagreement, spread, atol=1e-9)
        assert told.features.shape == (len(atoms), PairNet.n_features)
        assert told.novelty is None


def test_what_no_model_can_judge_keeps_its_place() -> None:
    frames = [
        layer("Cu", "Ag", 0),
        Atoms("Mo", cell=[3, 3, 15], pbc=(1, 1, 0)),
        layer("Cu", "Cu", 1),
    ]
    found = list(opinions([potential()], frames))
    assert [isinstance(x, Opinion) for x in found] == [True, False, True]
    assert "Mo" in str(found[1])
    broken = potential()
    with torch.no_grad():
        broken.model.element.weight[Z["Ag"]] = torch.nan
    (nan, fine) = opinions([potential(), broken], [layer("Cu", "Ag", 0), layer("Cu", "Cu", 1)])
    assert isinstance(nan, StructureError)
    assert "NaN" in str(nan)
    assert isinstance(fine, Opinion), "the others in its batch are not lost"


def test_a_committee_picks_what_it_disagrees_on() -> None:
    """Two models differ on gold alone: the few frames with gold are picked, each kind once."""
    models = [potential(), potential(wrong_for="Au")]
    common = [layer("Cu", "Ag", k) for k in range(30)]
    odd = [layer("Au", "Cu", 100), layer("Au", "Ag", 101), layer("Au", "Au", 102)]
    frames = [*common[:10], odd[0], odd[0].copy(), *common[10:20], odd[1], *common[20:], odd[2]]
    chosen = pick(models, frames, PickConfig(n=3))
    assert {str(frames[s].symbols) for s in chosen.ids} == {"AuCu", "AuAg", "Au2"}
    assert chosen.way == "committee"
    assert np.nanargmax(chosen.uncertainty) == chosen.ids[0], "the most uncertain comes first"
    by_chance = pick(models, frames, PickConfig(n=3, by="random"), seed=0)
    assert by_chance.ids == pick(models, frames, PickConfig(n=3, by="random"), seed=0).ids
    assert by_chance.ids != pick(models, frames, PickConfig(n=3, by="random"), seed=1).ids


def test_a_duplicate_is_picked_once() -> None:
    models = [potential(), potential(1)]
    frames = [
        layer("Cu", "Ag", 0),
        layer("Cu", "Ag", 0),
        layer("Ag", "Ag", 1),
        layer("Ag", "Ag", 1),
    ]
    chosen = pick(models, frames, PickConfig(n=4))
    assert len(chosen.ids) == 2
    assert {str(frames[s].symbols) for s in chosen.ids} == {"CuAg", "Ag2"}
    assert chosen.left_out == {"a near duplicate of one that was picked": 2}
    assert "Only 2 frames" in chosen.notes[-1]


def test_nonsense_is_left_out_and_counted() -> None:
    close = layer("Cu", "Ag", 0)
    close.positions[1] = close.positions[0] + [0.9, 0, 0]
    apart = layer("Cu", "Ag", 1)
    apart.positions[1, 2] += 5.0
    frames = [layer("Cu", "Ag", 2), close, apart, Atoms("Mo", cell=[3, 3, 15], pbc=(1, 1, 0))]
    models = [potential(), potential(1)]
    chosen = pick(models, frames, PickConfig(by="diversity", max_force=1e6))
    assert chosen.ids == [0]
    assert chosen.left_out == {
        "with atoms too close": 1,
        "that fall apart": 1,
        "the models can say nothing of it": 1,
    }
    assert chosen.examples["that fall apart"].startswith("frame 2: ")
    kept = pick(models, frames, PickConfig(by="diversity", max_force=1e6, apart="keep"))
    assert sorted(kept.ids) == [0, 2]


def test_bounds_on_uncertainty_and_force() -> None:
    models = [potential(), potential(wrong_for="Au")]
    frames = [layer("Cu", "Ag", 0), layer("Au", "Ag", 1), layer("Au", "Au", 2)]
    every = pick(models, frames, PickConfig(n=3)).uncertainty
    assert every[0] < 1e-9 < min(every[1:])
    middle = every[1:].mean()
    below = pick(models, frames, PickConfig(max_uncertainty=middle))
    assert sorted(below.ids) == sorted(np.flatnonzero(every < middle).tolist())
    assert below.left_out == {"too uncertain to be physical": 1}
    above = pick(models, frames, PickConfig(min_uncertainty=middle))
    assert above.ids == [int(np.argmax(every))]
    assert above.left_out == {"known well enough": 2}
    with pytest.raises(ConfigError, match=r"none of 3 frames is worth.*3 too large a force"):
        pick(models, frames, PickConfig(max_force=1e-6))


def test_one_model_is_no_committee() -> None:
    frames = [layer("Cu", "Ag", k) for k in range(5)]
    chosen = pick([potential()], frames, PickConfig(n=2))
    assert chosen.way == "diversity"
    assert "only one model" in chosen.notes[0]
    with pytest.raises(ConfigError, match="mlff2d domain"):
        pick([potential()], frames, PickConfig(by="novelty"))


def test_greedy_takes_heavy_rows_that_are_far_apart() -> None:
    rows = np.array([[0.0], [0.1], [10.0], [10.2], [5.0]])
    assert greedy(rows, np.ones(5), 3) == [0, 3, 4], "the farthest, then the middle"
    assert greedy(rows, np.array([1.0, 1.0, 9.0, 1.0, 1.0]), 2) == [2, 0]
    assert greedy(rows, np.array([1.0, 1.0, 9.0, 1.0, 5.0]), 2) == [2, 4], "weight counts too"
    many = np.arange(20.0)[:, None]
    weight = np.where(np.arange(20) < 4, 2.0, 1.9)
    assert greedy(many, weight, 1) == [0]
    assert set(greedy(many, weight, 2)) <= set(range(8)), "among the heaviest alone"
    same = np.where(np.arange(20) < 8, 0.0, np.arange(20.0))[:, None]
    assert greedy(same, weight, 2) == [0, 19], "but where those are all alike"
    assert greedy(np.zeros((3, 1)), np.ones(3), 3) == [0], "duplicates are not taken"
    assert greedy(rows, np.zeros(5), 2) == [0, 1], "certain of everything: still two"


def test_calibration_is_exact_where_it_can_be(tmp_path) -> None:
    """Labels are the forces of one of two models: then error and disagreement are the same."""
    models = [potential(0), potential(1)]
    frames = []
    for k in range(12):
        atoms = layer(*[["Cu", "Ag"], ["Au", "Cu"], ["Ag", "Ag"]][k % 3], seed=k, size=0.1)
        atoms.calc = MLFF2DCalculator(models[0], dtype="float64")
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    write(tmp_path / "a.extxyz", frames)
    convert([tmp_path / "a.extxyz"], tmp_path / "a.h5", Keys())
    for over in ("max", "mean"):
        found = calibrate(models, [tmp_path / "a.h5"], "committee", over)
        assert found.n_frames == 12
        assert found.spearman == pytest.approx(1.0)
        assert found.error == pytest.approx(found.uncertainty, rel=1e-5)
        assert found.error > 1e-3


@pytest.fixture
def files(tmp_path, monkeypatch, pairnet):
    """A committee and frames in the current folder."""
    monkeypatch.chdir(tmp_path)
    save(potential(), tmp_path / "a.pt")
    save(potential(wrong_for="Au"), tmp_path / "b.pt")
    frames = [layer("Cu", "Ag", k) for k in range(8)] + [layer("Au", "Cu", 9)]
    frames[-1].info["name"] = "the odd one"
    write(tmp_path / "frames.extxyz", frames)


def picked(*arguments: object) -> int:
    return cli.main(["active", "pick", *map(str, arguments)])


def test_the_command_writes_what_it_picked(files, capsys) -> None:
    how = ("frames.extxyz", "--committee", "a.pt", "b.pt", "-n", 1, "-o", "picked.extxyz")
    assert picked(*how) == 0
    (one,) = read("picked.extxyz", ":")
    assert one.info["name"] == "the odd one"
    assert one.info["uncertainty"] > 0
    assert "1 of 9 frames picked" in capsys.readouterr().err
    assert picked(*how) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("frames.extxyz", "--committee", "a.pt", "-o", "x.extxyz"), "no committee"),
        (("frames.extxyz", "--committee", "a.pt", "c.pt", "-o", "x.extxyz"), "'c.pt'"),
        (("nowhere.extxyz", "--committee", "a.pt", "b.pt", "-o", "x.extxyz"), "nowhere.extxyz"),
        (("frames.extxyz", "--committee", "a.pt", "b.pt", "-o", "x.cif"), "extended XYZ"),
        (("frames.extxyz", "--committee", "a.pt", "b.pt", "-o", "no/x.extxyz"), "no folder no"),
        (
            ("frames.extxyz", "--committee", "a.pt", "--by", "novelty", "-o", "x.extxyz"),
            "mlff2d domain",
        ),
    ],
)
def test_the_command_says_what_is_wrong(files, capsys, arguments, message) -> None:
    assert picked(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1, error
