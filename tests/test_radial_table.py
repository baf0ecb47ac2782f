"""Functions of a distance in tables, as exact as float32 is."""

from copy import deepcopy

import torch

from mlff2d.nn.kernels.table import RadialWeights, radial_table
from mlff2d.nn.mlp import MLP
from mlff2d.nn.radial import BesselBasis, PolynomialEnvelope


def test_tables_are_as_exact_as_float32() -> None:
    torch.manual_seed(0)
    modules = torch.nn.Sequential(BesselBasis(8, 5.0), MLP((8, 32, 32, 20)))
    envelope = PolynomialEnvelope(6)

    def function(dtype: torch.dtype) -> RadialWeights:
        of = deepcopy(modules).to(dtype)
        return lambda r: of(r) * envelope(r / 5.0).unsqueeze(1)

    table = radial_table(function, 5.0)
    assert table is not None
    r = torch.linspace(0.35, 4.999, 3001, dtype=torch.float64)
    value, slope = table(r)
    exact, exact_slope = torch.func.jvp(function(torch.float64), (r,), (torch.ones_like(r),))
    assert (value - exact).abs().max() < 1e-6 * exact.abs().max()
    assert (slope - exact_slope).abs().max() < 2e-6 * exact_slope.abs().max()
    # No jump from cell to cell.
    edges = torch.arange(1.0, len(table.cells) - 2.0, dtype=torch.float64)
    edges = edges / (table.scale - edges)
    low, high = table(edges * (1 - 1e-12))[0], table(edges * (1 + 1e-12))[0]
    assert (low - high).abs().max() < 1e-6 * exact.abs().max()


def test_no_table_of_what_is_too_steep() -> None:
    assert radial_table(lambda _: lambda r: torch.sin(1e4 * r).unsqueeze(1), 5.0) is None
