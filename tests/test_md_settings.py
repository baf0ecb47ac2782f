"""What molecular dynamics refuses to be told, and errors of means."""

import numpy as np
import pytest

from mlff2d.md.blocks import block_error
from mlff2d.md.dynamics.ramp import Ramp, parse_temperature
from mlff2d.md.dynamics.settings import MDSettings
from mlff2d.md.dynamics.watch import timestep_limit


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ensemble": "nvt"}, "no ensemble 'nvt'. Did you mean"),
        ({"cell": "shape"}, "no cell 'shape'"),
        ({"velocities": "zero"}, "no velocities 'zero'"),
        ({"unguarded": ("layers",)}, "no guard 'layers'. Did you mean 'layer'"),
        ({"timestep": 0.0}, "timestep must be a positive number of fs: 0.0"),
        ({"thermostat_time": -1.0}, "thermostat_time must be a positive"),
        ({"steps": -1}, "steps must be at least 0: -1"),
        ({"replicas": 0}, "replicas must be at least 1: 0"),
        ({"last": 0}, "last must be at least 1"),
        ({"temperature": float("nan")}, "temperature must be a finite number of K"),
        ({"temperature": -1.0}, "temperature must be a finite number of K"),
        ({"pressure": float("inf")}, "pressure must be a finite number"),
        ({"pressure": 1.0}, "a pressure does nothing in the ensemble 'langevin'"),
        ({"cell": "isotropic"}, "cell (--cell) does nothing in the ensemble 'langevin'"),
        ({"barostat_time": 300.0}, "barostat_time (--barostat-time) does nothing"),
        ({"ensemble": "nve", "thermostat_time": 50.0}, "does nothing in nve without an equil"),
        ({"ensemble": "nve", "temperature_end": 600.0}, "a ramp of the temperature needs"),
        ({"temperature": 0.0}, "temperatures above 0 K"),
        ({"temperature_end": 0.0}, "temperatures above 0 K"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(settings, words) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (compared below)
        MDSettings(**settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_does_make_sense() -> None:
    MDSettings(ensemble="nve", temperature=0.0)
    MDSettings(ensemble="nve", thermostat_time=50.0, equilibrate=10)
    MDSettings(ensemble="npt", pressure=-3.0, temperature_end=10.0)
    MDSettings(ensemble="npt", cell="isotropic", barostat_time=300.0)
    assert MDSettings(ensemble="langevin").coupling == 500.0
    assert MDSettings(ensemble="bussi").coupling == 100.0
    assert MDSettings(thermostat_time=7.0).coupling == 7.0


def test_a_ramp_goes_from_one_end_to_the_other() -> None:
    ramp = Ramp(300.0, 600.0, 10)
    assert [ramp(step) for step in (-5, 0, 5, 10, 20)] == [300.0, 300.0, 450.0, 600.0, 600.0]
    assert not ramp.is_flat
    assert Ramp(300.0, 300.0, 0)(0) == 300.0
    assert parse_temperature("300") == (300.0, 300.0)
    assert parse_temperature("300:6e2") == (300.0, 600.0)
    for text in ("", "hot", "300:", "1:2:3", "-3", "nan", "300:-1"):
        with pytest.raises(ValueError, match="no temperature in K"):
            parse_temperature(text)


def test_hydrogen_needs_half_a_femtosecond() -> None:
    assert timestep_limit(1.008) == 0.5
    assert timestep_limit(12.011) == pytest.approx(1.73, abs=0.01)


def test_the_error_of_a_mean_knows_of_correlations() -> None:
    """Of an autoregressive series, whose error is known; the naive one is seven times too small."""
    rng = np.random.default_rng(0)
    kept, n_series, length = 0.96, 40, 2**13
    series = np.zeros((n_series, length))
    x = rng.normal(size=n_series) / np.sqrt(1 - kept**2)
    for t in range(length):
        x = kept * x + rng.normal(size=n_series)
        series[:, t] = x
    true = 1 / (1 - kept) / np.sqrt(length)
    assert series.mean(1).std() == pytest.approx(true, rel=0.3), "the theory"
    found = np.median([block_error(s) for s in series])
    assert found == pytest.approx(true, rel=0.3)
    naive = np.median(series.std(1)) / np.sqrt(length)
    assert naive < true / 5
    assert np.isnan(block_error(series[0, :7]))
    assert block_error(np.ones(100)) == 0.0
