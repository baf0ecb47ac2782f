"""Model files: exact round trips, and refusal of everything else."""

import pickle
from pathlib import Path

import pytest
import torch

from mlff2d import MLFF2DCalculator, checkpoint
from mlff2d.atoms import to_graph
from mlff2d.errors import ModelFileError
from mlff2d.models import REGISTRY
from mlff2d.potential import Potential
from tests.potentials import random_potential
from tests.structures import mos2


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    potential = random_potential(name)
    checkpoint.save(potential, tmp_path / "m.pt", training={"seed": 3})
    loaded = checkpoint.load(tmp_path / "m.pt", dtype=torch.float64)
    graph = to_graph(mos2(), potential.cutoff)
    before, after = potential(graph), loaded(graph)
    assert torch.equal(before.energies, after.energies)
    assert torch.equal(before.forces, after.forces)
    assert loaded.elements == potential.elements
    assert checkpoint.read(tmp_path / "m.pt")["training"] == {"seed": 3}
    assert not loaded.training


def test_weights_of_double_precision_stay_so(tmp_path: Path) -> None:
    potential = random_potential("m3gnet")
    for weight in potential.model.parameters():
        weight.data += 1e-12 * torch.randn_like(weight)
    checkpoint.save(potential, tmp_path / "m.pt")
    loaded = checkpoint.load(tmp_path / "m.pt", dtype=torch.float64)
    for name, weight in potential.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight)
    assert checkpoint.load(tmp_path / "m.pt").dtype == torch.float32


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_run(how: str, tmp_path: Path) -> None:
    path, witness = tmp_path / "evil.pt", tmp_path / "was_run"
    content = {"format": 1, "weights": Bomb(witness)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelFileError, match=r"evil\.pt"):
        checkpoint.load(path)
    assert not witness.exists()


def test_files_that_are_no_model(tmp_path: Path) -> None:
    text = tmp_path / "notes.pt"
    text.write_text("not a model")
    with pytest.raises(ModelFileError, match=r"notes\.pt"):
        checkpoint.load(text)
    for words in (
        "run_dir: x\ndata: {}\n",
        "0.1 2\n",
        "[1, 2]",
        "\x80\x02}q",
        "tensor",
        "}q.",
        "u.",
    ):
        text.write_text(words, encoding="latin-1")
        with pytest.raises(ModelFileError, match=r"notes\.pt"):
            checkpoint.load(text)
    empty = tmp_path / "empty.pt"
    empty.touch()
    with pytest.raises(ModelFileError, match=r"empty\.pt"):
        checkpoint.load(empty)
    other = tmp_path / "other.pt"
    torch.save({"state_dict": {}}, other)
    with pytest.raises(ModelFileError, match="names no format"):
        checkpoint.load(other)
    with pytest.raises(ModelFileError, match="is a folder"):
        checkpoint.load(tmp_path)
    with pytest.raises(ModelFileError, match="no model file or shipped model 'univresal'"):
        checkpoint.load("univresal")


def test_truncated_newer_and_inconsistent_files(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    checkpoint.save(random_potential("nequip"), path)
    content = checkpoint.read(path)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelFileError, match=r"cut\.pt"):
        checkpoint.load(cut)
    torch.save({**content, "format": 99}, path)
    with pytest.raises(ModelFileError, match="format 99, newer"):
        checkpoint.load(path)
    weights = dict(content["weights"])
    weights.popitem()
    torch.save({**content, "weights": weights}, path)
    with pytest.raises(ModelFileError, match="does not fit its own description"):
        checkpoint.load(path)
    torch.save({**content, "model": "nequipp"}, path)
    with pytest.raises(ModelFileError, match="Did you mean 'nequip'"):
        checkpoint.load(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.pt"
    checkpoint.save(random_potential("nequip"), path)
    before = path.read_bytes()

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlff2d.files.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(random_potential("nequip", seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_old_formats_go_through_the_upgrade_chain(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.pt"
    checkpoint.save(random_potential("nequip"), path)
    content = checkpoint.read(path)
    old = {k: v for k, v in content.items() if k != "scale"} | {"format": 0, "std": 1.7}
    torch.save(old, path)
    monkeypatch.setitem(
        checkpoint.UPGRADES,
        0,
        lambda c: {k: v for k, v in c.items() if k != "std"} | {"scale": c["std"], "format": 1},
    )
    assert checkpoint.load(path).scale == 1.7


STORED = {
    "format-1-m3gnet.pt": -41.48855619441966,
    "format-2-m3gnet.pt": -41.48855619441966,
    "format-2-property.pt": 1.3997678451012436,
}


def test_every_stored_file_is_tested() -> None:
    folder = Path(__file__).parent / "checkpoints"
    assert {path.name for path in folder.glob("*.pt")} == STORED.keys()
    assert any(name.startswith(f"format-{checkpoint.FORMAT}-") for name in STORED)


@pytest.mark.parametrize("name", STORED)
def test_files_of_every_format_still_load(name: str) -> None:
    path = Path(__file__).parent / "checkpoints" / name
    loaded = checkpoint.load_any(path, dtype=torch.float64)
    if isinstance(loaded, Potential):
        value = MLFF2DCalculator(path, dtype="float64").get_potential_energy(mos2())
    else:
        value = loaded.predict(mos2())
    assert value == pytest.approx(STORED[name], abs=1e-9)


def test_weights_that_are_nan_are_refused(tmp_path: Path) -> None:
    potential = random_potential("m3gnet")
    next(potential.model.parameters()).data.fill_(torch.nan)
    checkpoint.save(potential, tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="weights that are NaN"):
        checkpoint.load(tmp_path / "m.pt")


def test_format_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save({"format": [1], "weights": {}}, tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="names no format"):
        checkpoint.load(tmp_path / "m.pt")


def test_a_potential_is_no_property_and_the_reverse(tmp_path: Path) -> None:
    folder = Path(__file__).parent / "checkpoints"
    gap, potential = folder / "format-2-property.pt", folder / "format-2-m3gnet.pt"
    with pytest.raises(ModelFileError, match=r"'band_gap' in eV.*`mlff2d predict`"):
        checkpoint.load(gap)
    with pytest.raises(ModelFileError, match=r"'band_gap' in eV.*`mlff2d predict`"):
        MLFF2DCalculator(gap)
    with pytest.raises(ModelFileError, match=r"is a potential.*MLFF2DCalculator"):
        checkpoint.load_property(potential)
    content = checkpoint.read(gap)
    for damage in ({"score": None}, {"property": {"name": "x"}}, {"task": "x"}, {"shifts": None}):
        torch.save(content | damage, tmp_path / "m.pt")
        with pytest.raises(ModelFileError, match=r"m\.pt"):
            checkpoint.load_property(tmp_path / "m.pt")
