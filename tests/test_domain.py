"""Where the training set of a potential is: distances, model files, training, and the command."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import graphene, mx2

from mlff2d import checkpoint, cli
from mlff2d.atoms import to_graph
from mlff2d.domain import QUANTILE, Domain, _whitening, fit
from mlff2d.errors import ModelFileError
from mlff2d.graph import collate
from mlff2d.potential import Potential
from mlff2d.training import loop
from mlff2d.training.data.convert import open_sources
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.domain.fit import sample
from tests.potentials import random_potential
from tests.shared import DATA, needs_data
from tests.structures import mos2, variant
from tests.test_property import predictor
from tests.training_helpers import small_config, write_monolayers


def clusters(n: int = 3000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two elements: hydrogen at -10 and +10 of the first axis, carbon at 0."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(3 * n, 5, generator=draw, dtype=torch.float64)
    z = torch.tensor([1, 1, 6]).repeat_interleave(n)
    features[:n, 0] -= 10
    features[n : 2 * n, 0] += 10
    return features, z


def test_one_is_the_quantile_of_the_training_atoms() -> None:
    features, z = clusters()
    domain = fit(features, z)
    assert domain.n_atoms == len(z)
    assert float((domain(features, z) > 1).double().mean()) == pytest.approx(1 - QUANTILE, rel=0.2)
    fresh = domain(*clusters(seed=1))
    assert 0.0005 < float((fresh > 1).double().mean()) < 0.004


def test_kinds_of_environments_have_their_own_centres() -> None:
    """Of hydrogen the mean of all lies in the gap, where no atom was ever seen."""
    features, z = clusters()
    domain = fit(features, z)
    gap = torch.zeros(1, 5, dtype=torch.float64)
    hydrogen, carbon = torch.tensor([1]), torch.tensor([6])
    in_gap = float(domain(gap, hydrogen))
    assert in_gap > 1.5 * float(domain(features[:6000], z[:6000]).median())
    assert float(domain(gap, carbon)) < 0.5 * in_gap
    for side in (-10, 10):
        assert float(domain(gap + side * torch.eye(5)[:1], hydrogen)) < 0.8 * in_gap


def test_whitening_is_the_inverse_root_of_the_covariance() -> None:
    draw = np.random.default_rng(0)
    root = draw.normal(size=(4, 4)) * [0.3, 1, 1, 3]
    points = torch.from_numpy(draw.normal(size=(200_000, 4)) @ root)
    whitening = _whitening(points, torch.tensor(1.0)).numpy()
    assert np.allclose(whitening.T @ root.T @ root @ whitening, np.eye(4), atol=0.03)


def test_few_atoms_are_shrunk_towards_equal_spread() -> None:
    """Three atoms span a plane; out of it nothing is known, and nothing is infinitely far."""
    features = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
    z = torch.tensor([6, 6, 6])
    domain = fit(features, z)
    assert (domain(features, z) <= 1).all()
    outside = domain(torch.eye(4, dtype=torch.float64)[3:] * 3, torch.tensor([6]))
    assert 1 < float(outside) < 50


@pytest.mark.parametrize("n", [1, 2, 100])
def test_equal_atoms_make_a_domain_too(n: int) -> None:
    features = torch.full((n, 3), 2.0)
    domain = fit(features, torch.full((n,), 6))
    assert domain(features * (1 + 1e-6), torch.full((n,), 6)).max() < 0.1
    assert domain(features * 1.5, torch.full((n,), 6)).min() > 1


def test_an_element_never_seen_is_infinitely_far_and_nan_stays() -> None:
    domain = fit(*clusters(100))
    features = torch.zeros(3, 5)
    features[2, 1] = torch.nan
    distance = domain(features, torch.tensor([6, 8, 6]))
    assert distance[0] < 1
    assert distance[1] == torch.inf
    assert distance[2].isnan()


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="no atoms"):
        fit(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="NaN"):
        fit(torch.full((2, 3), torch.nan), torch.tensor([1, 1]))


def with_domain(potential: Potential) -> Potential:
    graph = collate([to_graph(mos2(seed=k), potential.cutoff) for k in range(20)])
    features = potential.model.mixed_features(graph, graph.edge_vectors())
    potential.domain = fit(features, graph.z)
    return potential


@pytest.mark.parametrize("name", ["m3gnet", "mace", "allegro"])
def test_model_files_keep_it(name: str, tmp_path: Path) -> None:
    potential = with_domain(random_potential(name))
    checkpoint.save(potential, tmp_path / "m.pt")
    loaded = checkpoint.load(tmp_path / "m.pt", dtype=torch.float64)
    graph = to_graph(mos2(seed=99, rattle=0.3), potential.cutoff)
    novelty = potential.novelty(graph)
    assert loaded.novelty(graph).numpy() == pytest.approx(novelty.numpy(), rel=1e-5)
    single = checkpoint.load(tmp_path / "m.pt")  # float32, its domain is not
    assert single.domain is not None
    assert single.domain.whitening.dtype == torch.float64
    assert torch.equal(single.domain.whitening, potential.domain.whitening)
    found = single.novelty(graph.to(dtype=torch.float32))
    assert found.numpy() == pytest.approx(novelty.numpy(), rel=1e-3)
    content = checkpoint.read(tmp_path / "m.pt")
    assert set(content) - {"domain"} == set(_saved(random_potential(name), tmp_path / "bare.pt"))


def _saved(potential: Potential, path: Path) -> dict[str, object]:
    checkpoint.save(potential, path)
    return checkpoint.read(path)


def test_a_model_without_one_says_so(tmp_path: Path) -> None:
    potential = random_potential("m3gnet")
    checkpoint.save(potential, tmp_path / "m.pt")
    loaded = checkpoint.load(tmp_path / "m.pt")
    assert loaded.domain is None
    with pytest.raises(ValueError, match="mlff2d domain"):
        loaded.novelty(to_graph(mos2(), loaded.cutoff))


def test_the_domain_of_another_model_is_refused(tmp_path: Path) -> None:
    content = _saved(with_domain(random_potential("mace")), tmp_path / "mace.pt")
    other = _saved(random_potential("m3gnet"), tmp_path / "m.pt")
    for domain in (content["domain"], {"limit": 1.0}, content["domain"] | {"limit": float("nan")}):
        torch.save(other | {"domain": domain}, tmp_path / "m.pt")
        with pytest.raises(ModelFileError, match="does not fit its own description"):
            checkpoint.load(tmp_path / "m.pt")


def test_novelty_does_not_depend_on_how_the_slab_is_given() -> None:
    potential = with_domain(random_potential("m3gnet"))
    given = potential.novelty(to_graph(mos2(), potential.cutoff)).numpy()
    assert given.min() > 0.01
    for name in ("rotated", "left-handed", "straddling TTT", "no third vector"):
        graph = to_graph(variant(name)[0], potential.cutoff)
        assert potential.novelty(graph).numpy() == pytest.approx(given, abs=1e-6), name


def test_training_finds_it(pairnet: None, tmp_path: Path) -> None:
    config = small_config(tmp_path / "run", write_monolayers(tmp_path / "d.extxyz"), epochs=2)
    outcome = loop.train(config)
    for path in (outcome.best_model, tmp_path / "run" / "last.pt"):
        potential = checkpoint.load(path)
        assert potential.domain is not None
        seen = to_graph(ase.io.read(tmp_path / "d.extxyz", "0"), potential.cutoff)
        assert potential.novelty(seen.to(dtype=torch.float32)).isfinite().all()
        assert set(potential.domain.elements.tolist()) == {28, 29, 46, 47, 78, 79}


def test_command_adds_it_and_changes_nothing_else(
    pairnet: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_monolayers(tmp_path / "d.extxyz")
    loop.train(small_config(tmp_path / "run", data, epochs=1))
    model, new = tmp_path / "run" / "best.pt", tmp_path / "new.pt"
    content = checkpoint.read(model)
    known = content.pop("domain")
    bare = tmp_path / "bare.pt"
    torch.save(content, bare)
    assert cli.main(["domain", str(bare), str(data), "-o", str(new)]) == 0
    assert "the training part" in capsys.readouterr().err
    again = checkpoint.read(new)
    for key, value in again.pop("domain").items():
        assert np.array_equal(np.asarray(value), np.asarray(known[key])), key
    assert again.pop("weights").keys() == content["weights"].keys()
    for name, weight in checkpoint.read(new)["weights"].items():
        assert torch.equal(weight, content["weights"][name])
    assert again == {key: value for key, value in content.items() if key != "weights"}
    assert cli.main(["info", str(new)]) == 0
    assert f"{known['n_atoms']} training atoms" in capsys.readouterr().out
    assert cli.main(["info", str(new), "--json"]) == 0


def test_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(predictor("mean"), tmp_path / "gap.pt")
    data = write_monolayers(tmp_path / "d.extxyz")
    arguments = ["domain", str(tmp_path / "gap.pt"), str(data), "-o"]
    assert cli.main([*arguments, str(tmp_path / "new.pt")]) == 2
    assert "has no energies or forces" in capsys.readouterr().err
    assert cli.main([*arguments, str(tmp_path / "gap.pt")]) == 2
    assert "gap.pt exists" in capsys.readouterr().err


def test_a_sample_holds_every_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [mos2(seed=k) for k in range(60)]
    frames[17].numbers[0] = 74
    for k, frame in enumerate(frames):
        frame.info |= {"energy": -1.0 * k, "material": "x"}
    ase.io.write(tmp_path / "d.extxyz", frames)
    paths, _ = open_sources([tmp_path / "d.extxyz"], tmp_path, "material", (), None)
    data = Dataset(paths, 4.0)
    everything = np.arange(len(data))
    assert sample(data, everything).tolist() == everything.tolist()
    monkeypatch.setattr("mlff2d.training.domain.fit.MAX_ATOMS", 9)
    monkeypatch.setattr("mlff2d.training.domain.fit.RARE", 1)
    few = sample(data, everything)
    assert 17 in few
    assert len(few) < 30


@needs_data
def test_the_shipped_model_on_dichalcogenides() -> None:
    """Fitted to relaxed and slightly displaced layers: what is farther is farther."""
    potential = checkpoint.load()
    frames = ase.io.read(DATA / "tmd_pbe_v0.extxyz", ":")

    def graphs(chosen: list[object]) -> object:
        joined = collate([to_graph(atoms, potential.cutoff) for atoms in chosen])
        return joined.to(dtype=torch.float32)

    def mode(*names: str) -> list[object]:
        return [atoms for atoms in frames if atoms.info["mode"] in names]

    graph = graphs(mode("relaxed", "rattled1"))
    with torch.no_grad():
        features = potential.model.mixed_features(graph, graph.edge_vectors())
    potential.domain = fit(features, graph.z)
    medians = [float(potential.novelty(graphs(mode(m))).median()) for m in ("relaxed", "rattled3")]
    assert medians[0] < 0.5 * medians[1]
    squeezed = mx2("MoS2", a=2.4, vacuum=8.0)
    squeezed.pbc = (True, True, False)
    assert potential.novelty(graphs([squeezed])).min() > 1
    sheet = graphene(vacuum=8.0)
    sheet.pbc = (True, True, False)
    assert potential.novelty(graphs([sheet])).min() == torch.inf


def test_parts_must_fit_each_other() -> None:
    with pytest.raises(ValueError, match="fit each other"):
        Domain(torch.zeros(2, 3), torch.zeros(1), torch.zeros(3), torch.zeros(3, 3), 1.0, 1)
