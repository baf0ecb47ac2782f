"""The schedule of the learning rate, the optimiser, the mean of the weights, the clock."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlff2d.training.groups import parameter_groups
from mlff2d.training.interrupt import StopRequest
from mlff2d.training.optim import (
    Optimizer,
    WeightMean,
    build_optimizer,
    learning_rate,
    set_learning_rate,
)
from mlff2d.training.sections import TrainConfig


@settings(deadline=None)
@given(
    progress=st.floats(0, 30),
    warmup=st.floats(0, 5),
    final=st.floats(0, 1),
)
def test_schedule_stays_between_its_ends_and_is_continuous(progress, warmup, final):
    config = TrainConfig(epochs=30, lr=0.1, warmup_epochs=warmup, final_lr=final)
    lr = learning_rate(progress, config)
    assert 0 <= lr <= 0.1 * (1 + 1e-12)
    if progress > warmup:
        assert lr >= 0.1 * final * (1 - 1e-12)
    if warmup > 0.1:
        assert learning_rate(progress + 1e-6, config) == pytest.approx(lr, abs=1e-5)
    assert learning_rate(30.0, config) == pytest.approx(0.1 * final)


def test_weight_decay_spares_biases():
    model = nn.Linear(3, 2)
    config = TrainConfig(weight_decay=0.1)
    optimizer = build_optimizer(parameter_groups(model, config), config)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay == {id(model.weight): 0.1, id(model.bias): 0.0}


def test_mean_of_weights_by_hand():
    model = nn.Linear(1, 1, bias=False)
    mean = WeightMean(model, decay=0.5)
    expected = None
    for t, value in enumerate([1.0, 3.0, -2.0, 5.0, 0.5]):
        model.weight.data.fill_(value)
        mean.update(model)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert mean.module.weight.item() == pytest.approx(expected)


def test_mean_over_all_steps_since_it_began_anew():
    model = nn.Linear(1, 1, bias=False)
    mean = WeightMean(model, decay=0.9)
    for value in (100.0, -40.0):
        model.weight.data.fill_(value)
        mean.update(model)
    mean.restart()
    values = [1.0, 3.0, -2.0, 5.0]
    for value in values:
        model.weight.data.fill_(value)
        mean.update(model)
    assert mean.module.weight.item() == pytest.approx(sum(values) / 4)


def test_mean_over_many_steps_is_not_lost_to_rounding():
    """In float32 a late step would add nothing: 1e-5 of a difference of 1e-3 is below 6e-8."""
    model = nn.Linear(1, 1, bias=False)
    mean = WeightMean(model, decay=0.9)
    mean.restart()
    n = 20_000
    for k in range(n):
        model.weight.data.fill_(1.0 if k < n // 2 else 1.001)
        mean.update(model)
    assert mean.module.weight.item() == pytest.approx(1.0005, abs=1e-7)


def test_mean_goes_on_where_it_was_saved():
    models = [nn.Linear(2, 3), nn.Linear(2, 3)]
    means = [WeightMean(models[0], 0.9), WeightMean(models[1], 0.5)]
    for _ in range(3):
        models[0].weight.data.normal_()
        means[0].update(models[0])
    means[1].load_state_dict(means[0].state_dict())
    for mean in means:
        mean.update(models[0])
    assert torch.equal(means[0].module.weight, means[1].module.weight)
    assert torch.equal(means[0].module.bias, means[1].module.bias)


@pytest.mark.parametrize("schedule", ["plateau", "constant"])
def test_schedules_without_an_end_do_not_know_the_number_of_epochs(schedule):
    rates = [
        learning_rate(progress, TrainConfig(epochs=epochs, schedule=schedule, lr=0.1))
        for epochs in (3, 300)
        for progress in (0.1, 0.4, 0.5, 2.0)
    ]
    assert rates[:4] == rates[4:]
    assert rates[0] < rates[1] < rates[2] == rates[3] == 0.1


class Mixed(nn.Module):
    """A matrix, a row, a stack of matrices, a vector and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 6))
        self.row = nn.Parameter(torch.randn(1, 6))
        self.stack = nn.Parameter(torch.randn(2, 3, 4))
        self.vector = nn.Parameter(torch.randn(6))
        self.frozen = nn.Parameter(torch.randn(4, 6), requires_grad=False)


def optimizer_of(model: nn.Module, **train: object) -> Optimizer:
    config = TrainConfig.model_validate(train)
    return build_optimizer(parameter_groups(model, config), config)


@pytest.mark.parametrize(
    ("name", "kind", "amsgrad"),
    [
        ("adam", torch.optim.Adam, False),
        ("adamw", torch.optim.AdamW, False),
        ("amsgrad", torch.optim.Adam, True),
    ],
)
def test_each_name_is_the_optimiser_it_says(name, kind, amsgrad):
    optimizer = optimizer_of(Mixed(), optimizer=name)
    assert type(optimizer) is kind
    assert all(group["amsgrad"] is amsgrad for group in optimizer.param_groups)


def test_muon_steps_matrices_and_adamw_the_rest():
    """A step of Muon has equal singular values, and is as long as one of AdamW."""
    torch.manual_seed(0)
    model = Mixed()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = optimizer_of(model, optimizer="muon", lr=0.01)
    set_learning_rate(optimizer, 0.01)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter) * 7
    optimizer.step()
    steps = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    singular = torch.linalg.svdvals(steps["matrix"] / (0.01 * 0.2 * 6**0.5))
    assert (singular > 0.6).all()
    assert (singular < 1.3).all()
    for name in ("row", "stack", "vector"):  # the first step of Adam is lr in every component
        assert torch.allclose(steps[name].abs(), torch.tensor(0.01), rtol=1e-3)
    assert steps["frozen"].abs().max() == 0
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_factor_on_the_learning_rate_holds_through_the_schedule():
    model = Mixed()
    config = TrainConfig(optimizer="muon")
    groups = parameter_groups(model, config)
    groups[0]["lr_factor"] = 0.25
    optimizer = build_optimizer(groups, config)
    for lr in (0.1, 0.02):
        set_learning_rate(optimizer, lr)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for k, group in enumerate(groups):
            for parameter in group["params"]:
                assert rates[id(parameter)] == pytest.approx(lr * (0.25 if k == 0 else 1.0))


def test_stop_request_by_clock():
    with StopRequest(None) as stop:
        assert stop.reason is None
    with StopRequest(1e-9) as stop:
        time.sleep(1e-3)
        assert stop.reason == "train.max_minutes is up"
