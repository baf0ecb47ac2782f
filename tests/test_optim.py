"""The schedule of the learning rate, the optimiser, the mean of the weights, the clock."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlff2d.training.config import TrainConfig
from mlff2d.training.interrupt import StopRequest
from mlff2d.training.optim import build_ema, build_optimizer, learning_rate


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
    optimizer = build_optimizer(model, TrainConfig(weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay == {id(model.weight): 0.1, id(model.bias): 0.0}


def test_mean_of_weights_by_hand():
    model = nn.Linear(1, 1, bias=False)
    ema = build_ema(model, decay=0.5)
    expected = None
    for t, value in enumerate([1.0, 3.0, -2.0, 5.0, 0.5]):
        model.weight.data.fill_(value)
        ema.update_parameters(model)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert ema.module.weight.item() == pytest.approx(expected)


def test_stop_request_by_clock():
    with StopRequest(None) as stop:
        assert stop.reason is None
    with StopRequest(1e-9) as stop:
        time.sleep(1e-3)
        assert stop.reason == "train.max_minutes is up"
