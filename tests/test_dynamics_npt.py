"""Constant stress in the plane: exact distributions of cells, and what never moves."""

import numpy as np
import pytest
import torch
from ase import units
from ase.constraints import FixAtoms
from scipy import stats

from mlff2d import slab
from mlff2d.md.dynamics.npt import NPT
from mlff2d.md.dynamics.state import kinetic_energy, stress
from mlff2d.md.dynamics.velocities import maxwell_boltzmann
from mlff2d.md.slabs import one_slab
from mlff2d.slab import batched_area
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

from .md_forces import Springs, cell_energy, replicas, run, triangular
from .structures import turn

KELVIN = 500.0
KT = units.kB * KELVIN


def areas(state):
    return batched_area(state.slabs.cell, state.slabs.pbc)


def sampled(integrator, evaluate, atoms, n=200, equilibrate=100, samples=5, apart=40):
    """States of n replicas at several times, far apart."""
    slabs = replicas(atoms, n)
    velocities = maxwell_boltzmann(slabs, KELVIN, seed=2)
    state = run(integrator, integrator.init(slabs, velocities, evaluate), evaluate, equilibrate)
    states = []
    for _ in range(samples):
        state = run(integrator, state, evaluate, apart)
        states.append(state)
    return states


def gas_pressure(n, area):
    """N/m that keeps a gas of n atoms at an area."""
    return n * KT / area * EV_PER_ANGSTROM2_IN_N_PER_M


def elastic(atoms):
    """An energy of lattices that is least where they are as in the structure."""
    start = torch.from_numpy(atoms.cell.array[:2, :2].copy())

    def energy(lattice):
        f = torch.linalg.inv(start) @ lattice
        det = torch.linalg.det(f)
        return 20 * KT * ((f**2).sum((1, 2)) / 2 / det - 1 + (det - 1) ** 2)

    return energy


def shape_of(state, start):
    """(S,) cosh r - 1, r the shear of the lattice against its start."""
    f = torch.linalg.inv(start) @ state.slabs.cell[:, :2, :2]
    return (f**2).sum((1, 2)) / 2 / torch.linalg.det(f) - 1


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["isotropic", "full"])
@pytest.mark.parametrize("held", [0, 1])
def test_a_gas_has_the_area_that_theory_gives_it(cell, held):
    """P(A) ~ A^N exp(-p A/kT) for N free atoms, alone: a gamma distribution of order N + 1.

    For the shape, an energy κ (cosh r - 1) of a shear r makes cosh r - 1 an exponential
    distribution: the measure of unimodular matrices is sinh r dr.
    """
    atoms = triangular(2)
    atoms.set_constraint(FixAtoms(range(held)))
    n_free, area, stiffness = 4 - held, atoms.cell.areas()[2], 20 * KT
    start = torch.from_numpy(atoms.cell.array[:2, :2].copy())

    def shear_energy(lattice):
        f = torch.linalg.inv(start) @ lattice
        return stiffness * ((f**2).sum((1, 2)) / 2 / torch.linalg.det(f) - 1)

    npt = NPT(8.0, KELVIN, gas_pressure(n_free, area), cell, friction=60.0, cell_time=30.0)
    states = sampled(npt, cell_energy(shear_energy), atoms)
    found = torch.cat([areas(s) for s in states]) / area * n_free
    assert stats.kstest(found, stats.gamma(n_free + 1).cdf).pvalue > 0.01
    kinetic = torch.cat([2 * kinetic_energy(s) / KT for s in states])
    n_moving = 3 * (n_free - (held == 0))
    assert stats.kstest(kinetic, stats.chi2(n_moving).cdf).pvalue > 0.01
    shear = torch.cat([shape_of(s, start) for s in states])
    if cell == "full":
        assert stats.kstest(shear * stiffness / KT, stats.expon.cdf).pvalue > 0.01
    else:
        assert shear.abs().max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["isotropic", "full"])
def test_a_crystal_has_the_mean_stress_and_area_that_theory_gives_it(cell):
    """Bonds that only pull, k d²/2, against an energy of the area K (A - A0)²/2.

    The energy of the lattice is then that of the area, and of the shear r, alone: the motion of
    atoms in it does not depend on the cell. With both bond and shear, P(A, r) ~
    A exp(-(c A cosh r + K (A - A0)²/2 + p A)/kT) sinh r, integrated here on a grid.
    """
    atoms, springs = triangular(3, a=1.0), Springs(3, stiffness=0.05)
    atoms.numbers[:] = 1
    a0 = atoms.cell.areas()[2]
    modulus, pressure = 100 * KT / a0**2, 0.9
    slope = float(springs(replicas(atoms, 1)).energy) / a0
    tension = pressure / EV_PER_ANGSTROM2_IN_N_PER_M

    area_energy = cell_energy(lambda h: modulus / 2 * (torch.linalg.det(h) - a0) ** 2)

    def evaluate(slabs):
        one, other = springs(slabs), area_energy(slabs)
        return type(one)(
            energy=one.energy + other.energy,
            forces=one.forces,
            virial=one.virial + other.virial,
            n_edges=one.n_edges,
            troubles={},
        )

    npt = NPT(8.0, KELVIN, pressure, cell, friction=60.0, cell_time=60.0)
    states = sampled(npt, evaluate, atoms)
    found = torch.cat([areas(s) for s in states]).numpy()
    grid = np.linspace(0.01, 2, 4000) * a0
    weight = grid * np.exp(-(slope * grid + modulus / 2 * (grid - a0) ** 2 + tension * grid) / KT)
    if cell == "full":
        weight = weight * KT / (slope * grid)  # the integral over cosh r
    distribution = np.cumsum(weight) / weight.sum()
    assert stats.kstest(found, lambda a: np.interp(a, grid, distribution)).pvalue > 0.01
    mean = torch.cat([stress(s)[:, [0, 1], [0, 1]].mean(1) for s in states])
    error = float(mean.std()) / len(mean) ** 0.5
    # The centre of mass is at rest and lacks kT / area of the motion that balances the pressure.
    missing = KT * float((1 / torch.from_numpy(found)).mean()) * EV_PER_ANGSTROM2_IN_N_PER_M
    assert float(mean.mean()) == pytest.approx(-pressure + missing, abs=3 * error)
    assert 3 * error < pressure / 3


def orientations():
    """The same crystal lying in every way; each with the rotation that brings it there."""
    flat = triangular(3)
    turned, first, tilted = flat.copy(), flat.copy(), flat.copy()
    matrix = turn(turned)
    first.set_cell(flat.cell.array[[2, 0, 1]])
    first.pbc = (False, True, True)
    tilted.cell[2] = (2.0, -1.0, 14.0)
    left = flat.copy()
    left.cell[2] *= -1
    return [
        (flat, np.eye(3)),
        (turned, matrix),
        (first, np.eye(3)),
        (tilted, np.eye(3)),
        (left, np.eye(3)),
    ]


@pytest.mark.parametrize("cell", ["isotropic", "full"])
def test_every_orientation_moves_alike_and_nothing_moves_along_the_normal(cell):
    """At zero temperature, where no noise tells them apart."""
    springs = Springs(3, stiffness=0.1, quartic=0.01)
    npt = NPT(4.0, 0.0, 5.0, cell, cell_time=100.0, friction=1.0)
    structures = orientations()
    ended = []
    for atoms, matrix in structures:
        slabs = one_slab(atoms, 0)
        flat = maxwell_boltzmann(one_slab(structures[0][0], 0), KELVIN)
        rolled = Rolled(springs, atoms)
        state = npt.init(slabs, flat @ torch.from_numpy(matrix.T.copy()), rolled)
        state = run(npt, state, rolled, 60)
        vacuum = ~slabs.pbc[0]
        assert torch.equal(state.slabs.cell[0][vacuum], slabs.cell[0][vacuum])
        before, after = (slab.normal(s.cell[0].numpy(), atoms.pbc) for s in (slabs, state.slabs))
        np.testing.assert_allclose(after, before, atol=1e-14)
        assert abs(float(areas(state)) / float(areas(npt.init(slabs, flat, rolled))) - 1) > 0.05
        ended.append((state, torch.from_numpy(matrix)))
    reference = ended[0][0]
    if cell == "isotropic":
        np.testing.assert_array_equal(
            reference.slabs.cell[0, :2, 2], np.zeros(2), "flat for ever, to the last bit"
        )
    for state, matrix in ended[1:]:
        assert float(state.conserved) == pytest.approx(float(reference.conserved), abs=1e-9)
        pos = state.slabs.pos @ matrix
        torch.testing.assert_close(pos, reference.slabs.pos, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            state.velocities @ matrix, reference.velocities, rtol=0, atol=1e-9
        )


class Rolled:
    """Springs for a cell whose lattice vectors in the plane need not come first."""

    def __init__(self, springs, atoms):
        self.springs = springs
        self.order = [*np.flatnonzero(atoms.pbc), *np.flatnonzero(~atoms.pbc)]

    def __call__(self, slabs):
        return self.springs(slabs.moved(slabs.pos, slabs.cell[:, self.order]))


def test_a_flat_slab_keeps_its_heights_and_normal_to_the_last_bit():
    """However the cell moves: the forces here are in the plane."""
    atoms = triangular(3)
    atoms.positions[:, 2] = np.random.default_rng(0).normal(6, 0.3, len(atoms))
    npt = NPT(8.0, KELVIN, 0.1, "full", cell_time=100.0)
    slabs = replicas(atoms, 3)
    evaluate = cell_energy(elastic(atoms))
    state = npt.init(slabs, maxwell_boltzmann(slabs, KELVIN), evaluate)
    for _ in range(100):
        before = state
        state = npt.step(state, evaluate)
        flat = state.slabs.cell[:, :2, 2]
        assert torch.equal(flat, torch.zeros_like(flat))
        assert torch.equal(state.slabs.cell[:, 2], slabs.cell[:, 2])
    assert (state.slabs.cell - slabs.cell).abs().max() > 0.1
    assert (state.slabs.pos[:, 2] != before.slabs.pos[:, 2]).all(), "atoms do move along it"


def test_the_cell_does_not_turn():
    """A shear that goes round and round would turn a cell that only follows its rate of strain."""
    atoms = triangular(3)
    slabs = replicas(atoms, 4)
    npt = NPT(8.0, KELVIN, 0.1, "full", friction=10.0, cell_time=120.0)
    state = npt.init(
        slabs, maxwell_boltzmann(slabs, KELVIN), evaluate := cell_energy(elastic(atoms))
    )
    most = 0.0
    for _ in range(100):
        state = npt.step(state, evaluate)
        f = torch.linalg.solve(slabs.cell, state.slabs.cell)[:, :2, :2]
        torch.testing.assert_close(f, f.mT, rtol=0, atol=1e-12)
        most = max(most, float(f[:, 0, 1].abs().min()))
    assert most > 0.05, "it was sheared"


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["isotropic", "full"])
def test_what_is_conserved_shrinks_with_the_square_of_the_time_step_under_noise(cell):
    springs = Springs(3, stiffness=0.02, quartic=0.01)
    area_energy = cell_energy(elastic(triangular()))

    def evaluate(slabs):
        one, other = springs(slabs), area_energy(slabs)
        energy, virial = one.energy + other.energy, one.virial + other.virial
        return type(one)(energy, one.forces, virial, one.n_edges, {})

    slabs = replicas(triangular(), 16)
    drifts = []
    for dt in (2.0, 1.0):
        npt = NPT(dt, KELVIN, 1.0, cell, friction=20.0, cell_time=60.0)
        state = npt.init(slabs, maxwell_boltzmann(slabs, KELVIN), evaluate)
        state = run(npt, state, evaluate, round(100 / dt))
        first = state.conserved
        state = run(npt, state, evaluate, round(400 / dt))
        drifts.append((state.conserved - first).abs().mean())
    assert drifts[1] < 0.02
    assert drifts[1] < drifts[0] / 2.5
