"""Low-rank changes of matrices: what they may change, and a model file that knows none of them."""

from __future__ import annotations

import pytest
import torch
from ase.build import mx2

from mlff2d import checkpoint
from mlff2d.atoms import to_graph
from mlff2d.models import REGISTRY, model_name
from mlff2d.potential import Potential
from mlff2d.training.config import ConfigError
from mlff2d.training.finetuning.adapters import adapters, add_adapters, merged
from mlff2d.training.groups import freeze, named_weights
from mlff2d.training.optim import WeightMean
from mlff2d.training.sections import AdapterConfig, FinetuneConfig
from tests.test_groups import potential


def graph_for(module: Potential):
    atoms = mx2("MoS2", vacuum=8.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.1, seed=3)
    return to_graph(atoms, module.cutoff).to(dtype=module.dtype)


def changed(module: Potential) -> Potential:
    """The same after some training of the adapters, as it were."""
    torch.manual_seed(5)
    for adapter in adapters(module):
        torch.nn.init.normal_(adapter.left, std=0.1)
    return module


@pytest.mark.parametrize("name", REGISTRY)
def test_they_change_nothing_at_first_and_fold_into_an_ordinary_model(name, tmp_path):
    torch.manual_seed(0)
    module = potential(name)
    graph = graph_for(module)
    before = module(graph).forces
    weights = {k: v.clone() for k, v in module.model.state_dict().items()}
    n = add_adapters(module, AdapterConfig(rank=4))
    assert n == len(adapters(module)) > 3
    assert torch.equal(module(graph).forces, before)
    changed(module)
    after = module(graph)
    assert not torch.equal(after.forces, before)
    plain = merged(module)
    kinds = [type(part) for part in potential(name).modules()]
    assert [type(part) for part in plain.modules()] == kinds
    assert model_name(module.model) == name
    assert torch.equal(plain(graph).forces, after.forces)
    assert plain.model.state_dict().keys() == weights.keys()
    checkpoint.save(plain, tmp_path / "plain.pt")
    loaded = checkpoint.load(tmp_path / "plain.pt")
    assert torch.allclose(loaded(graph).forces, after.forces, rtol=1e-4, atol=1e-6)
    assert torch.equal(module(graph).forces, after.forces), "merging leaves the original as it was"


def test_the_change_is_of_low_rank_and_the_matrix_stays():
    module = potential("painn")
    before = {k: v.clone() for k, v in module.model.state_dict().items()}
    add_adapters(module, AdapterConfig(rank=3, match=("messages",)))
    after = merged(changed(module)).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {name for name in before if "messages" in name and before[name].ndim == 2}
    assert moved == matrices
    for name in moved:
        difference = (after[name] - before[name]).double()
        assert int((torch.linalg.svdvals(difference) > 1e-5).sum()) == 3
    names = {n for n, p in named_weights(module).items() if not p.requires_grad}
    assert names == {f"{name}.start" for name in matrices}


def test_each_matrix_of_a_stack_has_its_own_change():
    module = potential("mace")
    before = module.model.layers[0].self_connection.weights[0].clone()
    assert before.shape == (3, 128, 128)
    add_adapters(module, AdapterConfig(rank=2, match=("self_connection",)))
    difference = (changed(module).model.layers[0].self_connection.weights[0] - before).detach()
    assert [int((torch.linalg.svdvals(d) > 1e-4).sum()) for d in difference] == [2, 2, 2]
    assert not torch.allclose(difference[0], difference[1])


def test_rows_of_elements_are_trained_whole_and_frozen_matrices_left_alone():
    module = potential("m3gnet")
    freeze(module, FinetuneConfig(freeze=(r"blocks\.0",)))
    add_adapters(module, AdapterConfig(rank=2))
    names = named_weights(module)
    assert names["embedding.weight"].requires_grad
    assert not any(n.startswith("blocks.0") and n.endswith(".left") for n in names)
    assert any(n.startswith("blocks.1") and n.endswith(".left") for n in names)


def test_the_mean_of_weights_knows_them_too():
    module = potential("nequip")
    add_adapters(module, AdapterConfig(rank=2))
    ema = WeightMean(module, 0.5)
    ema.update(module)
    changed(module)
    ema.update(module)
    for ours, mean in zip(adapters(module), adapters(ema.module), strict=True):
        assert torch.equal(ours.right, mean.right)
        assert 0 < float(mean.left.detach().abs().max()) < float(ours.left.detach().abs().max())
    graph = graph_for(module)
    assert torch.equal(merged(ema.module)(graph).forces, ema.module(graph).forces)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"match": ["blokcs"]}, r"finetune\.adapters\.match: 'blokcs' matches nothing"),
        ({"match": ["bias"]}, r"finetune\.adapters\.match: 'bias' matches nothing"),
        ({"rank": 500}, r"finetune\.adapters\.rank is 500.*above 64"),
    ],
)
def test_adapters_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        add_adapters(potential("m3gnet"), AdapterConfig(**settings))
