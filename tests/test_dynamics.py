"""Constant energy, velocities, and what every integrator keeps to."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from scipy import stats

from mlff2d.errors import StructureError
from mlff2d.md.dynamics.bussi import Bussi
from mlff2d.md.dynamics.langevin import Langevin
from mlff2d.md.dynamics.nose_hoover import NoseHoover
from mlff2d.md.dynamics.npt import NPT
from mlff2d.md.dynamics.nve import NVE
from mlff2d.md.dynamics.state import (
    MDState,
    degrees_of_freedom,
    kinetic_energy,
    stress,
    temperature,
)
from mlff2d.md.dynamics.velocities import maxwell_boltzmann
from mlff2d.md.slabs import join, one_slab
from tests.standins import Morse, copper

from .md_forces import Springs, evaluation, replicas, run, triangular

ALL = [
    NVE(4.0),
    Langevin(4.0),
    NoseHoover(4.0),
    Bussi(4.0),
    NPT(4.0, pressure=3.0, cell="isotropic"),
    NPT(4.0, pressure=3.0, cell="full"),
]
NAMES = ["NVE", "Langevin", "NoseHoover", "Bussi", "NPT isotropic", "NPT full"]
every = pytest.mark.parametrize("integrator", ALL, ids=NAMES)


def moving(slabs, kelvin=300.0, seed=0):
    return slabs, maxwell_boltzmann(slabs, kelvin, seed)


def through(calculator):
    """Slabs evaluated one after another by an ASE calculator."""

    def evaluate(slabs):
        results = []
        for s in range(slabs.n_structures):
            rows = slabs.atoms_of(s)
            atoms = Atoms(
                slabs.z[rows].numpy(),
                slabs.pos[rows].numpy(),
                cell=slabs.cell[s].numpy(),
                pbc=slabs.pbc[s].numpy(),
            )
            calculator.calculate(atoms)
            found = calculator.results.items()
            results.append({k: torch.as_tensor(v, dtype=torch.float64) for k, v in found})
        return evaluation(
            torch.stack([r["energy"] for r in results]),
            torch.cat([r["forces"] for r in results]),
            torch.stack([r["virial"] for r in results]),
        )

    return evaluate


def test_nve_is_ases_verlet_step_for_step():
    atoms = copper()
    slabs, velocities = moving(join([one_slab(atoms, 0), one_slab(copper(seed=1), 1)]), 600.0)
    atoms.calc = Morse()
    atoms.set_velocities(velocities[: len(atoms)].numpy())
    verlet = VelocityVerlet(atoms, timestep=2 * units.fs)
    state = NVE(2.0).init(slabs, velocities, evaluate := through(Morse()))
    start = state.slabs.pos
    for _ in range(100):
        verlet.step()
        state = NVE(2.0).step(state, evaluate)
        rows = slice(0, len(atoms))
        np.testing.assert_allclose(state.slabs.pos[rows], atoms.positions, atol=1e-8)
        np.testing.assert_allclose(state.velocities[rows], atoms.get_velocities(), atol=1e-8)
    assert (state.slabs.pos - start).abs().max() > 0.3, "the atoms moved"
    assert float(state.energy[0]) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    assert float(temperature(state)[0]) == pytest.approx(
        atoms.get_temperature() * 3 * len(atoms) / (3 * len(atoms) - 3)
    )


@every
def test_what_is_conserved_errs_with_the_square_of_the_time_step(integrator):
    """In one run of the same length, the noise switched off where there is any."""
    springs = Springs(quartic=0.3)
    slabs, velocities = moving(replicas(triangular(), 4), 2000.0)
    errors = []
    for dt in (1.0, 0.5):
        quiet = {"friction": 1e-9} if hasattr(integrator, "friction") else {}
        if isinstance(integrator, Bussi):
            quiet = {"relaxation": 1e12}
        if isinstance(integrator, NPT):
            quiet |= {"cell_time": 50.0}  # a light cell, that moves within the run
        finer = replace(integrator, timestep=dt, **quiet)
        state = finer.init(slabs, velocities, springs)
        first, worst = state.conserved, torch.zeros(4)
        for _ in range(round(60 / dt)):
            state = finer.step(state, springs)
            worst = torch.maximum(worst, (state.conserved - first).abs())
        errors.append(worst)
    coarse, fine = errors
    assert fine.min() > 1e-6, "far from rounding"
    np.testing.assert_allclose(coarse / fine, 4.0, rtol=0.1)


@pytest.mark.parametrize("integrator", [NVE(2.0), NoseHoover(2.0)], ids=["NVE", "NoseHoover"])
def test_deterministic_dynamics_run_back_to_their_start(integrator):
    springs = Springs(quartic=0.3)
    slabs, velocities = moving(replicas(triangular(), 2), 2000.0)
    start = integrator.init(slabs, velocities, springs)
    there = run(integrator, start, springs, 150)
    assert (there.slabs.pos - slabs.pos).abs().max() > 0.02
    bath = {name: value if name == "heat" else -value for name, value in there.bath.items()}
    back = run(integrator, replace(there, velocities=-there.velocities, bath=bath), springs, 150)
    torch.testing.assert_close(back.slabs.pos, slabs.pos, rtol=0, atol=1e-9)
    torch.testing.assert_close(back.velocities, -start.velocities, rtol=0, atol=1e-9)
    for name in start.bath:
        torch.testing.assert_close(back.bath[name], start.bath[name], rtol=0, atol=1e-8)


@every
def test_restart_is_bit_for_bit(integrator):
    springs = Springs(quartic=0.3)
    state = integrator.init(*moving(replicas(triangular(), 3)), springs)
    through_all = run(integrator, state, springs, 25)
    file = io.BytesIO()
    torch.save(run(integrator, state, springs, 10).as_dict(), file)
    file.seek(0)
    resumed = MDState.from_dict(torch.load(file, weights_only=True))
    assert resumed.step == 10
    assert_same(run(integrator, resumed, springs, 15), through_all)


@every
def test_replicas_do_not_depend_on_their_neighbours(integrator):
    springs = Springs(quartic=0.3)
    slabs, velocities = moving(replicas(triangular(), 5))
    state = integrator.init(slabs, velocities, springs)
    kept = torch.tensor([False, True, False, True, False])
    together = run(integrator, state, springs, 20).select(kept)
    assert together.slabs.key.tolist() == [1, 3]
    alone = integrator.init(slabs.select(kept), velocities[kept[slabs.batch]], springs)
    assert_same(run(integrator, alone, springs, 20), together)
    dropped = run(integrator, state, springs, 10).select(kept)
    assert_same(run(integrator, dropped, springs, 10), together)
    torch.testing.assert_close(
        maxwell_boltzmann(slabs.select(kept), 300.0), velocities[kept[slabs.batch]], rtol=0, atol=0
    )
    pos = together.slabs.pos.view(2, -1)
    assert not torch.equal(pos[0], pos[1]), "each key has its own noise"


@every
def test_a_replica_whose_model_fails_does_not_touch_the_others(integrator):
    springs = Springs()

    def failing(slabs):
        found = springs(slabs)
        bad = slabs.key == 1
        return evaluation(
            energy=found.energy.masked_fill(bad, torch.nan),
            forces=found.forces.masked_fill(bad[slabs.batch, None], torch.nan),
            virial=found.virial.masked_fill(bad[:, None, None], torch.nan),
            troubles={1: "the model returned NaN"} if bad.any() else {},
        )

    state = integrator.init(*moving(replicas(triangular(), 3)), springs)
    ended = run(integrator, state, failing, 5)
    assert ended.troubles == {1: "the model returned NaN"}
    assert ended.conserved.isfinite().tolist() == [True, False, True]
    kept = torch.tensor([True, False, True])
    left = ended.select(kept)
    assert left.troubles == {}
    assert_same(left, run(integrator, state, springs, 5).select(kept))


def assert_same(one: MDState, other: MDState) -> None:
    a, b = one.as_dict(), other.as_dict()
    for flat in (a, b):
        flat.update(flat.pop("slabs"))
        flat.update(flat.pop("bath"))
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
        else:
            assert value == b[name], name


@every
def test_the_centre_of_mass_stays_at_rest(integrator):
    springs = Springs(quartic=0.3)
    slabs, velocities = moving(replicas(triangular(), 3))
    given = velocities + torch.tensor([0.1, -0.2, 0.3])
    state = run(integrator, integrator.init(slabs, given, springs), springs, 200)
    momentum = (state.velocities * state.masses[:, None]).view(3, -1, 3).sum(1)
    thermal = (state.masses * units.kB * 300).sqrt().max()
    assert momentum.abs().max() < 1e-12 * thermal * 200
    height = (state.slabs.pos * state.masses[:, None]).view(3, -1, 3).sum(1)[:, 2]
    total = state.masses.view(3, -1).sum(1)
    torch.testing.assert_close(height / total, torch.full((3,), 6.0).double(), rtol=0, atol=1e-11)


def test_velocities_follow_maxwell_and_boltzmann():
    slabs = replicas(triangular(2), 1000)
    velocities = maxwell_boltzmann(slabs, 450.0, seed=3)
    state = NVE().init(slabs, velocities, Springs(2))
    assert degrees_of_freedom(slabs).tolist() == [9.0] * 1000
    momentum = (velocities * state.masses[:, None]).view(1000, 4, 3).sum(1)
    assert momentum.abs().max() < 1e-13 * momentum.numel()
    reduced = 2 * kinetic_energy(state) / (units.kB * 450)
    assert stats.kstest(reduced, stats.chi2(9).cdf).pvalue > 0.01
    light = velocities[state.masses < 50]
    spread = units.kB * 450 / 12.011 * (1 - 12.011 / float(state.masses[:4].sum()))
    assert float(light.var()) == pytest.approx(spread, rel=0.05)
    assert not torch.equal(velocities, maxwell_boltzmann(slabs, 450.0, seed=4))
    exact = maxwell_boltzmann(slabs, 450.0, seed=3, exact=True)
    at_once = temperature(replace(state, velocities=exact))
    torch.testing.assert_close(at_once, torch.full_like(at_once, 450.0), rtol=1e-12, atol=0)
    assert maxwell_boltzmann(slabs, 0.0, exact=True).abs().max() == 0


@every
def test_held_atoms_stay_and_count_for_nothing(integrator):
    atoms = triangular()
    atoms.set_constraint(FixAtoms([0, 4]))
    springs = Springs()
    slabs, velocities = moving(replicas(atoms, 2), 600.0)
    assert degrees_of_freedom(slabs).tolist() == [21.0, 21.0]
    state = run(integrator, integrator.init(slabs, velocities, springs), springs, 50)
    held = slabs.held
    assert state.velocities[held].abs().max() == 0
    assert state.forces[held].abs().max() == 0
    assert (state.slabs.pos[~held] - slabs.pos[~held]).abs().max() > 0.05
    if isinstance(integrator, NPT):
        before = torch.linalg.solve(slabs.cell[slabs.batch].mT, slabs.pos[:, :, None])
        after = torch.linalg.solve(state.slabs.cell[slabs.batch].mT, state.slabs.pos[:, :, None])
        assert (state.slabs.pos[held] - slabs.pos[held]).abs().max() > 1e-4, "with the cell"
        torch.testing.assert_close(after[held], before[held], rtol=0, atol=1e-12)
    else:
        assert torch.equal(state.slabs.pos[held], slabs.pos[held])


def test_stress_holds_the_motion_of_the_atoms():
    """Of a gas it is -N kT / A, whatever way the plane lies."""
    atoms = triangular(2)
    turned = atoms.copy()
    turned.rotate(50, (1, 2, 3), rotate_cell=True)
    slabs = join([one_slab(atoms, 0), one_slab(turned, 1)])

    def nothing(slabs):
        zero = torch.zeros(slabs.n_structures, dtype=torch.float64)
        return evaluation(zero, torch.zeros_like(slabs.pos), zero[:, None, None].expand(-1, 3, 3))

    given = slabs.pos.new_zeros(8, 3)
    along = torch.from_numpy(atoms.cell.array[0] / 3), torch.from_numpy(turned.cell.array[0] / 3)
    for first, direction in zip((0, 4), along, strict=True):
        given[first], given[first + 1] = direction, -direction * 95.95 / 12.011
    state = NVE().init(slabs, given, nothing)
    momentum = state.masses[0] * (along[0] @ along[0])
    expected = float(momentum + state.masses[1] * (along[0] @ along[0]) * (95.95 / 12.011) ** 2)
    found = stress(state)
    area = atoms.cell.areas()[2]
    for s in range(2):
        assert float(found[s, 0, 0]) == pytest.approx(-expected / area * 16.02176634, rel=1e-3)
        assert abs(float(found[s, 1, 1])) < 1e-3 * abs(float(found[s, 0, 0]))


def test_what_cannot_move_is_refused():
    lone = Atoms("C", [[0, 0, 6]], cell=[2.5, 2.5, 12], pbc=(True, True, False))
    slabs = join([one_slab(triangular(2), 0), one_slab(lone, 7)])
    with pytest.raises(StructureError, match="nothing can move in structure 7"):
        NVE().init(slabs, torch.zeros_like(slabs.pos), Springs(2))
    slabs = replicas(triangular(2), 2)
    for integrator in (Bussi(), NoseHoover()):
        with pytest.raises(StructureError, match="every atom of structure 0, 1 is at rest"):
            integrator.init(slabs, torch.zeros_like(slabs.pos), Springs(2))
    with pytest.raises(ValueError, match="finite"):
        NVE().init(slabs, slabs.pos * torch.nan, Springs(2))
    with pytest.raises(ValueError, match="shape"):
        NVE().init(slabs, slabs.pos[1:], Springs(2))
    with pytest.raises(ValueError, match="not be negative"):
        maxwell_boltzmann(slabs, -1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NVE(0.0),
        lambda: Langevin(friction=-1.0),
        lambda: Langevin(seed=-1),
        lambda: NoseHoover(length=0),
        lambda: NoseHoover(relaxation=float("nan")),
        lambda: Bussi(timestep=float("inf")),
        lambda: NPT(cell="volume"),
        lambda: NPT(pressure=float("nan")),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match=":"):
        make()
