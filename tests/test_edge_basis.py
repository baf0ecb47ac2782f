"""The radial basis of edges and its envelopes."""

import math

import pytest
import torch

from mlff2d.nn.edge_basis import EdgeBasis, XPLORSwitch
from mlff2d.nn.radial import BesselBasis, PolynomialEnvelope


def test_switch_is_flat_at_both_ends() -> None:
    switch = XPLORSwitch(3.0, 4.0)
    r = torch.tensor([0.5, 2.9, 3.0, 3.0 + 1e-6, 4.0 - 1e-6, 4.0, 4.1], dtype=torch.float64)
    r.requires_grad_(True)
    value = switch(r)
    (slope,) = torch.autograd.grad(value.sum(), r)
    assert value.tolist() == pytest.approx([1, 1, 1, 1, 0, 0, 0], abs=1e-10)
    assert slope.tolist() == pytest.approx([0] * 7, abs=1e-4)
    between = switch(torch.linspace(3.0, 4.0, 50, dtype=torch.float64))
    assert (between.diff() < 0).all()
    # In r^2 it is symmetric about the middle.
    assert float(switch(torch.tensor(12.5**0.5, dtype=torch.float64))) == pytest.approx(0.5)


@pytest.mark.parametrize("start", [0.0, -1.0, 4.0, math.nan])
def test_switch_refused(start: float) -> None:
    with pytest.raises(ValueError, match="must start between 0 and 4"):
        XPLORSwitch(start, 4.0)


def test_edge_basis_is_the_bessel_basis_under_its_envelope() -> None:
    r = torch.linspace(0.4, 5.5, 60, dtype=torch.float64)
    basis = math.sqrt(5.0**3 / 3.0) * BesselBasis(6, 5.0).double()(r)
    found = EdgeBasis(6, 5.0, 4).double()(r)
    assert torch.allclose(found, basis * PolynomialEnvelope(4)(r / 5.0).unsqueeze(1), atol=1e-12)
    trained = EdgeBasis(6, 5.0, switch_start=4.2, trainable=True).double()
    assert not EdgeBasis(6, 5.0).state_dict()
    assert [p.tolist() for p in trained.parameters()] == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    switch = XPLORSwitch(4.2, 5.0)(r).unsqueeze(1)
    assert torch.allclose(trained(r), basis * switch, atol=1e-12)
    (gradient,) = torch.autograd.grad(trained(r).square().sum(), list(trained.parameters()))
    assert (gradient != 0).all()
