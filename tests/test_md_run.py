"""What a run computes, logs and writes, and what stops a replica."""

from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.constraints import FixAtoms, FixedPlane
from ase.md.verlet import VelocityVerlet

from mlff2d import MLFF2DCalculator, slab
from mlff2d.domain import Domain
from mlff2d.errors import StructureError
from mlff2d.md.dynamics.bussi import Bussi
from mlff2d.md.dynamics.corrugation import corrugation
from mlff2d.md.dynamics.ensembles import equilibrator, integrator
from mlff2d.md.dynamics.files import RunFiles
from mlff2d.md.dynamics.langevin import Langevin
from mlff2d.md.dynamics.nose_hoover import NoseHoover
from mlff2d.md.dynamics.npt import NPT
from mlff2d.md.dynamics.nve import NVE as Verlet
from mlff2d.md.dynamics.result import FAILED, FINISHED, STOPPED
from mlff2d.md.dynamics.run import run_md
from mlff2d.md.dynamics.settings import ENSEMBLES, GUARDS, MDSettings
from tests.standins import morse, sheet
from tests.structures import turn

QUIET = {"tell": lambda text: None}
NVE = MDSettings(ensemble="nve", timestep=2.0, temperature=300.0, log_every=5, write_every=5)


def heated(kelvin: float = 300.0, **how) -> Atoms:
    atoms = sheet(**how)
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(63.5 * units.kB * kelvin))
    return atoms


def test_constant_energy_is_ases_verlet(tmp_path) -> None:
    """Of a slab that stands askew, cut by the boundary, with another axis along the vacuum."""
    atoms = heated()
    atoms.pbc = True
    atoms.positions[:, 2] -= atoms.positions[:, 2].mean()
    atoms.wrap()
    atoms.set_cell(atoms.cell.array[[2, 0, 1]])
    rotation = turn(atoms)
    atoms.set_momenta(atoms.get_momenta() @ rotation.T)
    settings = replace(NVE, steps=40, velocities="keep")
    result = run_md([atoms], morse(), settings, tmp_path / "md.traj", **QUIET)
    reference = atoms.copy()
    momenta = reference.get_momenta()
    reference.set_momenta(momenta - momenta.mean(0))
    reference.calc = MLFF2DCalculator(morse(), dtype="float64")
    verlet = VelocityVerlet(reference, timestep=2.0 * units.fs)
    frames = ase.io.read(tmp_path / "md.traj", ":")
    assert [f.info["step"] for f in frames] == list(range(0, 41, 5))
    log = result.log
    for k, frame in enumerate(frames):
        np.testing.assert_allclose(frame.positions, reference.positions, atol=1e-7)
        np.testing.assert_allclose(frame.cell, atoms.cell)
        np.testing.assert_allclose(frame.get_momenta(), reference.get_momenta(), atol=1e-7)
        np.testing.assert_allclose(frame.get_forces(), reference.get_forces(), atol=1e-7)
        np.testing.assert_allclose(frame.get_stress(), reference.get_stress(), atol=1e-8)
        assert frame.pbc.all()
        n = len(atoms)
        energy, kinetic = reference.get_potential_energy(), reference.get_kinetic_energy()
        assert frame.info["time_fs"] == log["time_fs"][k] == 10.0 * k
        assert log["potential_per_atom"][k] == pytest.approx(energy / n, abs=1e-7)
        assert log["kinetic_per_atom"][k] == pytest.approx(kinetic / n, abs=1e-7)
        assert log["conserved_per_atom"][k] == pytest.approx((energy + kinetic) / n, abs=1e-7)
        heat = 2 * kinetic / (3 * (n - 1)) / units.kB
        assert log["temperature"][k] == pytest.approx(heat, abs=2e-3)
        p, m = reference.get_momenta(), reference.get_masses()[:, None]
        tensor = reference.calc.results["virial"] - (p / m).T @ p
        expected = slab.stress_2d(tensor, frame.cell.array, np.array([False, True, True]))
        found = [log[f"stress_{c}"][k] for c in ("xx", "yy", "xy")]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(frame.info["stress_2d"], expected, atol=1e-5)
        verlet.run(5)
    assert np.abs(frames[-1].positions - atoms.positions).max() > 0.05, "the atoms moved"
    heights = slab.canonical(atoms.positions, atoms.cell.array, atoms.pbc)
    assert log["thickness"][0] == pytest.approx(
        slab.thickness(heights.pos, atoms.cell.array, heights.pbc), abs=1e-7
    )
    area = slab.area(atoms.cell.array, heights.pbc)
    assert log["area_per_atom"] == pytest.approx(area / len(atoms), abs=1e-7)


def test_replicas_differ_and_do_not_feel_each_other() -> None:
    settings = replace(NVE, ensemble="langevin", steps=20, replicas=2)
    both = run_md([sheet(), sheet(a=3.7)], morse(), settings, **QUIET)
    assert [(r.replica, r.structure) for r in both.replicas] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    lone = run_md(sheet(), morse(), settings, **QUIET)
    for k in range(2):
        np.testing.assert_allclose(
            both.replicas[k].atoms.positions, lone.replicas[k].atoms.positions, atol=1e-10
        )
    positions = [r.atoms.positions for r in lone.replicas]
    assert np.abs(positions[0] - positions[1]).max() > 0.01
    other = run_md(sheet(), morse(), replace(settings, seed=1), **QUIET)
    assert np.abs(other.replicas[0].atoms.positions - positions[0]).max() > 0.01


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "nose-hoover", "bussi", "npt"])
def test_every_ensemble_runs_and_keeps_its_momentum(tmp_path, ensemble) -> None:
    settings = replace(NVE, ensemble=ensemble, equilibrate=10, steps=20)
    result = run_md(sheet(), morse(), settings, tmp_path / "md.traj", **QUIET)
    log, atoms = result.log, result.replicas[0].atoms
    assert result.replicas[0].status == FINISHED
    assert log["step"].tolist() == list(range(-10, 21, 5))
    assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-9
    frames = ase.io.read(tmp_path / "md.traj", ":")
    assert [f.info["step"] for f in frames] == list(range(0, 21, 5)), "none of the equilibration"
    np.testing.assert_array_equal(atoms.cell[2], sheet().cell[2])
    moved = np.ptp(log["area_per_atom"]) > 0
    assert moved == (ensemble == "npt")
    if ensemble == "nve":
        production = log["conserved_per_atom"][log["step"] >= 0]
        assert np.ptp(production) < 1e-3 < np.ptp(log["conserved_per_atom"]), "it was heated before"
    expected = log["potential_per_atom"] + log["kinetic_per_atom"]
    if ensemble == "nve":
        rows = log["step"] >= 0
        np.testing.assert_allclose(log["conserved_per_atom"][rows], expected[rows], atol=2e-8)


def test_the_target_follows_the_ramp() -> None:
    ramp = replace(NVE, ensemble="langevin", steps=300, temperature_end=900.0, thermostat_time=20.0)
    ramp = replace(ramp, equilibrate=20, replicas=4, unguarded=tuple(GUARDS))
    log = run_md(sheet(), morse(), ramp, **QUIET).log
    one = log["replica"] == 0
    expected = 300.0 + 600.0 * np.clip(log["step"][one] / 300, 0, 1)
    np.testing.assert_allclose(log["target"][one], expected, atol=1e-3)
    late, early = log["step"] > 250, (log["step"] > 0) & (log["step"] <= 50)
    assert log["temperature"][late].mean() == pytest.approx(850, rel=0.2)
    assert log["temperature"][early].mean() == pytest.approx(340, rel=0.3)


def test_held_atoms_stay_and_heavy_isotopes_are_heavy() -> None:
    held = heated()
    held.set_constraint(FixAtoms([0, 3]))
    result = run_md(held, morse(), replace(NVE, steps=10), **QUIET).replicas[0].atoms
    moved = np.abs(result.positions - held.positions).max(1)
    assert (moved[[0, 3]] == 0).all()
    assert (np.delete(moved, [0, 3]) > 0).all()
    assert result.constraints[0].index.tolist() == [0, 3]
    heavy = heated()
    heavy.set_masses(np.full(len(heavy), 400 * 63.546))
    slow = run_md(heavy, morse(), replace(NVE, steps=10), **QUIET).replicas[0].atoms
    usual = run_md(heated(), morse(), replace(NVE, steps=10), **QUIET).replicas[0].atoms
    path = [np.abs(a.positions - heavy.positions).max() for a in (slow, usual)]
    assert path[1] / path[0] == pytest.approx(20, rel=0.2)


def test_what_cannot_move_fails_alone() -> None:
    fixed = sheet()
    fixed.set_constraint(FixAtoms(range(len(fixed))))
    unknown = sheet()
    unknown.numbers[0] = 92
    railed = sheet()
    railed.set_constraint(FixedPlane([0], [0, 0, 1]))
    only = "of constraints only FixAtoms can be kept, not FixedPlane; remove it"
    bad = [
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]]), "a molecule, not a slab"),
        (railed, only),
        (Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True), "no axis has the 4.5 Å of vacuum"),
        (fixed, "nothing can move in it"),
        (unknown, "the model has never seen U"),
        (StructureError("a.xyz, frame 3: it cannot be read."), "frame 3"),
    ]
    result = run_md([*(b for b, _ in bad), sheet()], morse(), replace(NVE, steps=5), **QUIET)
    for replica, (_, words) in zip(result.replicas, bad, strict=False):
        assert replica.status == FAILED
        assert words in replica.reason
        assert replica.atoms is None
    assert result.replicas[-1].status == FINISHED
    assert set(result.log["replica"]) == {len(bad)}
    with pytest.raises(StructureError, match="a molecule"):
        run_md(bad[0][0], morse(), NVE, **QUIET)
    with pytest.raises(ValueError, match="no structures"):
        run_md([], morse(), NVE, **QUIET)
    with pytest.raises(StructureError, match="no velocities"):
        run_md(sheet(), morse(), replace(NVE, velocities="keep"), **QUIET)


def far_atom() -> Atoms:
    """One atom leaves the sheet at a km/s or so."""
    atoms = heated(1.0)
    momenta = atoms.get_momenta()
    momenta[-1] = [0, 0, 63.5 * 0.35]
    atoms.set_momenta(momenta)
    return atoms


def fallen() -> Atoms:
    """Two atoms run into each other."""
    atoms = heated(1.0, n=4)
    momenta = atoms.get_momenta()
    momenta[0, 0], momenta[1, 0] = 63.5, -63.5
    atoms.set_momenta(momenta)
    return atoms


def sprung() -> Atoms:
    """An atom falls back to its place."""
    atoms = heated(1.0)
    atoms.positions[-1, 2] += 1.2
    return atoms


def known(limit: float) -> Domain:
    """Everything beyond so far from the features of the perfect sheet is unknown."""
    from mlff2d.atoms import to_graph

    potential = morse()
    graph = to_graph(sheet(), potential.cutoff)
    features = potential.model.mixed_features(graph, graph.edge_vectors())
    centre = features.mean(0, keepdim=True).detach()
    return Domain(centre, torch.tensor([29]), torch.zeros(1), torch.eye(1), limit, 8)


STOPS = {
    "temperature": (sprung(), {"max_temperature": 150.0}, "ran away to"),
    "layer": (far_atom(), {"max_temperature": 1e6}, "fell into 2 pieces"),
    "close": (fallen(), {"max_temperature": 1e6}, "fell onto each other"),
    "cell": (heated(), {"ensemble": "npt", "pressure": -40.0, "barostat_time": 1e3}, "stretched"),
    "domain": (heated(3000.0), {"max_temperature": 1e6}, "as far from the training set"),
}
assert STOPS.keys() == GUARDS.keys(), "every guard is tested"


@pytest.mark.parametrize("guard", STOPS)
def test_a_guard_stops_its_replica_alone(tmp_path, guard) -> None:
    atoms, change, words = STOPS[guard]
    settings = MDSettings(
        **{"ensemble": "nve", "temperature": 10.0, "velocities": "keep", "timestep": 4.0, "last": 3}
        | {"steps": 300, "log_every": 10, "write_every": 7}
        | change,
    )
    calm = heated(1.0)
    potential = morse()
    if guard == "domain":
        potential.domain = known(0.2)
    others = tuple(set(GUARDS) - {guard})
    said: list[str] = []
    result = run_md(
        [atoms, calm] if guard != "cell" else [atoms],
        potential,
        replace(settings, unguarded=others),
        tmp_path / "md.extxyz",
        tell=said.append,
    )
    stopped = result.replicas[0]
    assert stopped.status == STOPPED
    assert words in stopped.reason
    assert any(stopped.reason in text for text in said)
    files = RunFiles(tmp_path / "md.extxyz", len(result.replicas))
    frames = ase.io.read(files.trajectory(0).path, ":")
    assert frames[-1].info["step"] == stopped.steps, "the last good frame"
    assert stopped.atoms.info["step"] == stopped.steps
    last = ase.io.read(files.last(0), ":")
    assert [a.info["step"] for a in last] == list(range(stopped.steps - 2, stopped.steps + 2))
    assert last[-1].info["stopped"] == stopped.reason
    assert "stopped" not in last[-2].info
    np.testing.assert_allclose(last[-2].positions, stopped.atoms.positions, atol=1e-7)
    if guard != "cell":
        assert result.replicas[1].status == FINISHED
    short = replace(settings, steps=stopped.steps + 1, unguarded=tuple(GUARDS))
    free = run_md([atoms], potential, short, **QUIET)
    assert free.replicas[0].status == FINISHED, "switched off"


class Spoilt:
    """A model that returns NaN from a number of evaluations on, for structures of 8 atoms."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, module, inputs, output):
        self.left -= 1
        if self.left >= 0:
            return output
        graph = inputs[0]
        few = torch.bincount(graph.batch)[graph.batch] == 8
        return torch.where(few, torch.nan, output)


def test_nan_stops_its_replica_alone(tmp_path) -> None:
    potential = morse()
    potential.model.register_forward_hook(Spoilt(14))
    settings = replace(NVE, steps=20, unguarded=tuple(GUARDS), last=4)
    result = run_md([sheet(), sheet(3)], potential, settings, tmp_path / "md.traj", **QUIET)
    assert [r.status for r in result.replicas] == [STOPPED, FINISHED]
    assert "NaN" in result.replicas[0].reason
    steps = result.replicas[0].steps
    assert 3 < steps < 19
    assert np.isfinite(result.replicas[0].atoms.get_forces()).all()
    last = ase.io.read(tmp_path / "md-0-last.extxyz", ":")
    assert [a.info["step"] for a in last] == list(range(steps - 3, steps + 1)), (
        "that with NaN is left out"
    )


def test_a_start_that_is_broken_is_stopped_at_once(tmp_path) -> None:
    settings = replace(NVE, steps=5, max_temperature=100.0)
    result = run_md(sheet(), morse(), settings, tmp_path / "md.extxyz", **QUIET)
    assert (result.replicas[0].status, result.replicas[0].steps) == (STOPPED, 0)
    assert result.replicas[0].atoms is None
    assert len(result.log["step"]) == 0
    assert ase.io.read(tmp_path / "md-last.extxyz").info["step"] == 0
    again = run_md(sheet(), morse(), settings, tmp_path / "md.extxyz", **QUIET)
    assert again.replicas[0].reason == result.replicas[0].reason


def test_what_a_user_is_told() -> None:
    said: list[str] = []
    restless = sheet()
    restless.positions[0, 0] += 0.9
    run_md([restless, sheet()], morse(), replace(NVE, steps=1, timestep=9.0), tell=said.append)
    assert any("does not know what surroundings" in text for text in said)
    assert any("9 fs is long for the lightest atom" in text for text in said)
    (sentence,) = (text for text in said if text.startswith("Structure"))
    assert "Structure 0 (Cu8)" in sentence
    assert "mlff2d-relax" in sentence
    hydrogen = sheet()
    hydrogen.numbers[0] = 1
    for timestep in (1.0, 0.5):
        said.clear()
        run_md(hydrogen, morse(), replace(NVE, steps=0, timestep=timestep), tell=said.append)
        assert any("long for the lightest" in text for text in said) == (timestep == 1.0)


def test_corrugation_is_that_of_the_middle_surface() -> None:
    """A wave of amplitude A has A/√2, whatever the layers and however the sheet lies."""
    atoms = sheet(12)
    flat = [torch.from_numpy(x) for x in (atoms.positions, atoms.cell.array, atoms.pbc)]
    assert corrugation(*flat) < 1e-10
    fractions = atoms.get_scaled_positions()[:, 0]
    atoms.positions[:, 2] += 0.4 * np.cos(2 * np.pi * 2 * fractions + 0.3)
    turn(atoms)
    waved = [torch.from_numpy(x) for x in (atoms.positions, atoms.cell.array, atoms.pbc)]
    assert corrugation(*waved) == pytest.approx(0.4 / np.sqrt(2), rel=1e-6)
    few = sheet(1)
    few.positions[0, 2] += 0.5
    small = [torch.from_numpy(x) for x in (few.positions, few.cell.array, few.pbc)]
    assert corrugation(*small) == 0.0, "a unit cell cannot ripple"


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_the_integrator_is_told_all_settings(ensemble) -> None:
    npt = ensemble == "npt"
    settings = MDSettings(
        ensemble=ensemble,
        timestep=0.7,
        temperature=250.0,
        equilibrate=30,
        thermostat_time=40.0,
        seed=5,
        **({"pressure": 2.0, "cell": "isotropic", "barostat_time": 700.0} if npt else {}),
    )
    target = {"temperature": 250.0}
    own = {
        "nve": Verlet(0.7),
        "langevin": Langevin(0.7, friction=25.0, seed=5, **target),
        "nose-hoover": NoseHoover(0.7, relaxation=40.0, **target),
        "bussi": Bussi(0.7, relaxation=40.0, seed=5, **target),
        "npt": NPT(0.7, 250.0, 2.0, "isotropic", friction=25.0, cell_time=700.0, seed=5),
    }
    made, before = integrator(settings), equilibrator(settings)
    if ensemble == "nve":
        assert (made, before) == (own["nve"], own["langevin"])
        return
    for found in (made, before):
        assert {found.temperature(step) for step in (0, 30, 99)} == {250.0}
        assert replace(found, **target) == own[ensemble]
    warm = integrator(replace(settings, temperature_end=350.0, steps=100))
    assert [warm.temperature(step) for step in (0, 30, 80, 130)] == [250.0, 250.0, 300.0, 350.0]
