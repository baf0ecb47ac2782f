"""Thermostats: the distributions they sample, against theory and against ASE."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import units
from ase.constraints import FixAtoms
from ase.md.bussi import Bussi as AseBussi
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from scipy import stats

from mlff2d.md.dynamics.bussi import Bussi, scaling
from mlff2d.md.dynamics.langevin import Langevin
from mlff2d.md.dynamics.nose_hoover import NoseHoover
from mlff2d.md.dynamics.state import degrees_of_freedom, kinetic_energy, temperature
from mlff2d.md.dynamics.velocities import maxwell_boltzmann
from mlff2d.md.slabs import one_slab
from tests.standins import Morse, copper

from .md_forces import Springs, replicas, run, triangular
from .test_dynamics import through

KELVIN = 500.0
KT = units.kB * KELVIN


def sampled(integrator, springs, atoms, n, equilibrate, samples, apart, start=KELVIN):
    """Reduced kinetic energies 2K/kT (samples, n), potential ones, and the last state."""
    slabs = replicas(atoms, n)
    velocities = maxwell_boltzmann(slabs, start, seed=11)
    if not isinstance(integrator, Langevin):
        # From the minimum all modes would swing in step, and no common factor brings them out.
        shaken = Langevin(3.0, start, friction=60.0)
        state = run(shaken, shaken.init(slabs, velocities, springs), springs, 60)
        slabs, velocities = state.slabs, state.velocities
    state = run(integrator, integrator.init(slabs, velocities, springs), springs, equilibrate)
    floor = springs(replicas(atoms, 1)).energy
    kinetic, potential = [], []
    for _ in range(samples):
        state = run(integrator, state, springs, apart)
        kinetic.append(2 * kinetic_energy(state) / KT)
        potential.append(2 * (state.energy - floor) / KT)
    return torch.stack(kinetic), torch.stack(potential), state


@pytest.mark.slow
def test_langevin_samples_a_harmonic_crystal_exactly_whatever_the_time_step():
    """BAOAB: positions without error, each mode's motion colder by 1 - (ω dt)²/4."""
    springs, atoms = Springs(2), triangular(2)
    masses = torch.from_numpy(atoms.get_masses())
    dt = 1.0 / float(springs.frequencies(masses).max()) / units.fs
    langevin = Langevin(dt, KELVIN, friction=60.0, seed=5)
    kinetic, potential, _ = sampled(
        langevin, springs, atoms, n=200, equilibrate=60, samples=8, apart=15
    )
    modes = springs.frequencies(masses) * dt * units.fs
    assert modes.max() == pytest.approx(1.0)
    assert stats.kstest(potential.flatten(), stats.chi2(9).cdf).pvalue > 0.01
    assert stats.kstest(kinetic.flatten(), stats.chi2(9).cdf).pvalue < 0.01, "dt is large"
    expected = float((1 - modes**2 / 4).sum())
    error = kinetic.std() / math.sqrt(kinetic.numel())
    assert abs(kinetic.mean() - expected) < 3 * error
    spread = float((2 * (1 - modes**2 / 4) ** 2).sum())
    assert kinetic.var() == pytest.approx(spread, rel=0.15)


@pytest.mark.slow
def test_langevin_with_held_atoms_has_their_degrees_of_freedom_less():
    springs, atoms = Springs(2), triangular(2)
    atoms.set_constraint(FixAtoms([1]))
    langevin = Langevin(3.0, KELVIN, friction=60.0, seed=5)
    kinetic, potential, state = sampled(
        langevin, springs, atoms, n=200, equilibrate=60, samples=8, apart=15
    )
    assert degrees_of_freedom(state.slabs)[0] == 9, "three atoms, whose momentum is free"
    assert stats.kstest(kinetic.flatten(), stats.chi2(9).cdf).pvalue > 0.01
    assert stats.kstest(potential.flatten(), stats.chi2(9).cdf).pvalue > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "integrator",
    [Bussi(1.0, KELVIN, 20.0, seed=1), NoseHoover(1.0, KELVIN, 20.0)],
    ids=["Bussi", "NHC"],
)
def test_thermostats_of_all_velocities_give_the_kinetic_energy_its_distribution(integrator):
    springs = Springs(2, quartic=0.1)
    kinetic, _, _ = sampled(integrator, springs, triangular(2), 150, 300, 5, 40, start=300.0)
    assert stats.kstest(kinetic.flatten(), stats.chi2(9).cdf).pvalue > 0.01
    # Three standard errors of 750 numbers.
    assert kinetic.mean() == pytest.approx(9, rel=0.05)
    assert kinetic.var() == pytest.approx(18, rel=0.2)


def test_bussi_scales_as_ase_does():
    atoms = copper()
    generator = np.random.default_rng(0)
    atoms.set_velocities(generator.normal(0, 0.02, (len(atoms), 3)))
    atoms.calc = Morse()
    n_free = atoms.get_number_of_degrees_of_freedom()
    ase = AseBussi(atoms, 2 * units.fs, KELVIN, 100 * units.fs, rng=np.random.default_rng(3))
    expected = [ase.calculate_alpha(atoms.get_kinetic_energy()) ** 2 for _ in range(5)]
    generator = np.random.default_rng(3)
    for factor in expected:
        one = generator.standard_normal()
        others = 2 * generator.standard_gamma((n_free - 1) / 2)
        numbers = (atoms.get_kinetic_energy(), one, others)
        kinetic, one, others = torch.tensor(numbers, dtype=torch.float64)
        found = scaling(kinetic, KT, math.exp(-2 / 100), one, others)
        assert float(found) == pytest.approx(factor, rel=1e-12)


def test_nose_hoover_is_ases_step_for_step():
    """ASE counts three degrees of freedom an atom; it is told the right number."""
    atoms = copper()
    slabs = one_slab(atoms, 0)
    velocities = maxwell_boltzmann(slabs, 600.0)
    atoms.calc = Morse()
    atoms.set_velocities(velocities.numpy())
    ase = NoseHooverChainNVT(atoms, 2 * units.fs, KELVIN, tdamp=30 * units.fs, tchain=3)
    thermostat = ase._thermostat
    thermostat._num_atoms_global = len(atoms) - 1
    thermostat._Q[0] *= (len(atoms) - 1) / len(atoms)
    integrator = NoseHoover(2.0, KELVIN, relaxation=30.0)
    state = integrator.init(slabs, velocities, evaluate := through(Morse()))
    energies = []
    for _ in range(100):
        ase.step()
        state = integrator.step(state, evaluate)
        np.testing.assert_allclose(state.slabs.pos, atoms.positions, atol=1e-8)
        np.testing.assert_allclose(state.velocities, atoms.get_velocities(), atol=1e-8)
        total = atoms.get_total_energy() + thermostat.get_thermostat_energy()
        assert float(state.conserved) == pytest.approx(total, abs=1e-7)
        energies.append(float(state.energy + kinetic_energy(state)))
    assert np.ptp(energies) > 0.3, "the bath took part"


@pytest.mark.slow
@pytest.mark.parametrize(
    "integrator",
    [Langevin(friction=60.0), Bussi(relaxation=10.0), NoseHoover(relaxation=20.0)],
    ids=["Langevin", "Bussi", "NHC"],
)
def test_a_ramp_is_followed_and_what_is_conserved_does_not_drift(integrator):
    """With the noise on, while the temperature rises fivefold."""
    springs = Springs(quartic=0.3)
    slabs = replicas(triangular(), 16)
    drifts = []
    for dt in (2.0, 1.0):
        steps = round(1000 / dt)
        hot = replace(integrator, timestep=dt, temperature=_ramp(200.0, 1000.0, steps))
        velocities = maxwell_boltzmann(slabs, 400.0)
        state = hot.init(slabs, velocities, springs)
        first, total = state.conserved, state.energy + kinetic_energy(state)
        state = run(hot, state, springs, steps)
        assert temperature(state).mean() == pytest.approx(1000.0, rel=0.15)
        assert (state.energy + kinetic_energy(state) - total).mean() > 1.0
        drifts.append((state.conserved - first).abs().mean())
    assert drifts[1] < 0.005
    assert drifts[1] < drifts[0] / 2.5


def _ramp(start, end, steps):
    return lambda step: start + (end - start) * step / steps


def test_langevin_goes_to_zero_and_chains_say_that_they_cannot():
    springs = Springs(2)
    slabs = replicas(triangular(2), 2)
    velocities = maxwell_boltzmann(slabs, 300.0)
    cold = Langevin(2.0, 0.0, friction=50.0)
    state = run(cold, cold.init(slabs, velocities, springs), springs, 300)
    assert temperature(state).max() < 1e-3
    chains = NoseHoover(2.0, 0.0)
    with pytest.raises(ValueError, match="above zero"):
        chains.step(chains.init(slabs, velocities, springs), springs)
