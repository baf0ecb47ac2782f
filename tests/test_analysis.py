"""Analysis of trajectories, against cases whose answers are known exactly."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import graphene
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d import cli
from mlff2d.errors import StructureError
from mlff2d.md.analysis.analyse import groups_of
from mlff2d.md.analysis.averages import Averages, Mean, averages, expansions
from mlff2d.md.analysis.msd import diffusion, mean_squared_displacement
from mlff2d.md.analysis.rdf import rdf
from mlff2d.md.analysis.ripples import ripples
from mlff2d.md.analysis.tracks import Track, read_tracks
from tests.structures import mos2, turn

PLANE = np.array([True, True, False])


def track(pos: np.ndarray, cell: np.ndarray, number: int = 6, **changes: object) -> Track:
    """Frames (T, N, 3) of one element in a cell that stays, 0.1 ps apart."""
    n_frames, n_atoms = pos.shape[:2]
    made = Track(
        name="made",
        numbers=np.full(n_atoms, number),
        masses=np.ones(n_atoms),
        pbc=PLANE,
        pos=pos,
        cell=np.repeat(cell[None], n_frames, axis=0),
        time=0.1 * np.arange(n_frames),
        temperature=np.full(n_frames, 300.0),
        energy=np.full(n_frames, -1.0),
    )
    return replace(made, **changes)


def sheet(repeat: int = 6) -> Atoms:
    atoms = graphene(a=2.46, vacuum=8.0).repeat((repeat, repeat, 1))
    atoms.pbc = PLANE
    return atoms


# Radial distribution


@pytest.mark.parametrize("turned", [False, True])
def test_peaks_of_an_ideal_lattice_hold_its_neighbours(turned: bool) -> None:
    atoms = sheet()
    if turned:
        turn(atoms)
    found = rdf([track(atoms.positions[None], atoms.cell.array)], r_max=5.5, width=0.1)
    assert list(found.g) == ["C-C"]
    density = len(atoms) / np.linalg.norm(np.cross(*atoms.cell.array[:2]))
    counts = found.g["C-C"] * density * 2 * np.pi * found.r * 0.1
    bond = 2.46 / np.sqrt(3)
    shells = {bond: 3, 2.46: 6, 2 * bond: 3, np.sqrt(7) * bond: 6, 3 * bond: 6, 2 * 2.46: 6}
    shells[np.sqrt(13) * bond] = 6
    for distance, neighbours in shells.items():
        assert counts[int(distance / 0.1)] == pytest.approx(neighbours), distance
    assert counts.sum() == pytest.approx(sum(shells.values()))


def test_pairs_of_elements_and_atoms_on_top_of_each_other() -> None:
    atoms = mos2(rattle=0.0)
    numbers = atoms.numbers.astype(np.int64)
    given = track(atoms.positions[None], atoms.cell.array, numbers=numbers)
    found = rdf([given], r_max=4.0, width=0.05)
    assert list(found.g) == ["S-S", "S-Mo", "Mo-Mo"]
    area = given.area[0]

    def neighbours(pair: str, low: float, high: float) -> float:
        chosen = (found.r > low) & (found.r < high)
        n_partners = {"S-S": 4, "S-Mo": 2, "Mo-Mo": 2}[pair]
        rings = 2 * np.pi * found.r * 0.05
        return float((found.g[pair] * rings * n_partners / area)[chosen].sum())

    assert neighbours("S-S", 0, 0.1) == pytest.approx(1)  # the sulphur below
    assert neighbours("S-Mo", 1.7, 2.0) == pytest.approx(3)
    assert neighbours("Mo-Mo", 3, 3.3) == pytest.approx(6)
    assert neighbours("S-S", 3, 3.3) == pytest.approx(12)


def test_without_order_it_is_one() -> None:
    draw = np.random.default_rng(0)
    pos = draw.uniform(0, 1, (40, 200, 3)) * [30.0, 20.0, 4.0]
    found = rdf([track(pos, np.diag([30.0, 20.0, 15.0]))], r_max=9.0, width=0.5)
    assert found.g["C-C"][1:] == pytest.approx(1.0, abs=0.05)
    assert found.n_frames == 40


# Displacements


def walk(d: float, n_frames: int = 2000, n_atoms: int = 64, seed: int = 0) -> np.ndarray:
    """(T, N, 3) Å: D in Å²/ps along two axes, frames 0.1 ps apart; a still height."""
    draw = np.random.default_rng(seed)
    steps = draw.normal(scale=np.sqrt(2 * d * 0.1), size=(n_frames, n_atoms, 2))
    pos = np.zeros((n_frames, n_atoms, 3))
    pos[..., :2] = steps.cumsum(0)
    return pos


def test_mean_squared_displacement_is_that_of_the_definition() -> None:
    pos = walk(1.0, 30, 5)[..., :2] + [1e4, -1e4]
    found = mean_squared_displacement(pos)
    for lag in (0, 1, 7, 29):
        wanted = ((pos[lag:] - pos[: 30 - lag]) ** 2).sum(2).mean()
        assert found[lag] == pytest.approx(wanted, rel=1e-9, abs=1e-7)


def test_diffusion_of_a_random_walk() -> None:
    """Over twenty walks the mean is right, and the errors are as large as the scatter."""
    results = []
    for seed in range(20):
        made = track(walk(0.7, 500, 32, seed), np.diag([20.0, 20.0, 15.0]))
        results.append(diffusion([made])["C"])
    d = np.array([r.coefficient for r in results])
    # Relative to the centre of mass an atom moves (1 - 1/N) as much.
    assert d.mean() == pytest.approx(0.7 * 31 / 32, abs=4 * d.std() / np.sqrt(20))
    typical = float(np.sqrt(np.mean([r.error**2 for r in results])))
    assert 0.6 < typical / d.std(ddof=1) < 1.6


def test_replicas_make_the_error_smaller() -> None:
    tracks = [track(walk(0.7, 500, 8, seed), np.diag([20.0, 20.0, 15.0])) for seed in range(16)]
    alone, together = diffusion(tracks[:1])["C"], diffusion(tracks)["C"]
    assert together.error < 0.6 * alone.error
    assert together.coefficient == pytest.approx(0.7 * 7 / 8, abs=4 * together.error)


def test_a_drift_of_the_layer_is_no_diffusion() -> None:
    pos = walk(0.7, 400, 16)
    cell = np.diag([20.0, 20.0, 15.0])
    drift = np.linspace(0, 500, 400)[:, None, None] * np.array([1.0, 0.5, 0.0])
    still, drifting = (diffusion([track(p, cell)])["C"] for p in (pos, pos + drift))
    assert drifting.coefficient == pytest.approx(still.coefficient, rel=1e-6)


def test_a_breathing_cell_is_no_diffusion() -> None:
    pos = sheet(4).positions[None].repeat(300, axis=0)
    made = track(pos, sheet(4).cell.array)
    scale = 1 + 0.02 * np.sin(np.arange(300))
    breathing = replace(
        made, pos=made.pos * scale[:, None, None], cell=made.cell * scale[:, None, None]
    )
    assert abs(diffusion([breathing])["C"].msd).max() < 1e-9


def test_frames_without_times_or_with_gaps_are_refused() -> None:
    made = track(walk(1.0, 50, 4), np.diag([9.0, 9.0, 15.0]))
    with pytest.raises(ValueError, match="--interval"):
        diffusion([replace(made, time=None)])
    assert made.time is not None
    with pytest.raises(ValueError, match="not equally spaced"):
        diffusion([replace(made, time=np.where(made.time > 2, made.time + 1, made.time))])
    gap = replace(made, name="gap", time=np.where(made.time > 2, made.time + 1, made.time))
    with pytest.raises(ValueError, match="the frames of gap are not"):
        diffusion([made, gap])


def test_the_last_frame_of_a_stopped_replica_comes_early_and_is_left_out() -> None:
    made = track(walk(1.0, 50, 4), np.diag([9.0, 9.0, 15.0]))
    assert made.time is not None
    stopped = replace(made, time=np.append(made.time[:-1], made.time[-2] + 0.03))
    expected, found = diffusion([made.cut(0, -1)])["C"], diffusion([stopped])["C"]
    assert found.coefficient == expected.coefficient
    assert found.lag.tolist() == expected.lag.tolist()


# Ripples


def waving(kappa: float, n_frames: int, seed: int) -> Track:
    """A square net whose waves are Gaussian variables of variance kT/(A κ q⁴), at 300 K."""
    n, spacing = 16, 2.5
    length = n * spacing
    draw = np.random.default_rng(seed)
    m = np.fft.fftfreq(n, 1 / n)
    q = 2 * np.pi / length * np.hypot(*np.meshgrid(m, m, indexing="ij"))
    q[0, 0] = np.inf
    kt = 300 * units.kB
    deviation = np.sqrt(kt / (length**2 * kappa)) / q**2
    x, y = np.meshgrid(*2 * [spacing * np.arange(n)], indexing="ij")
    pos = np.zeros((n_frames, n * n, 3))
    pos[..., 0], pos[..., 1] = x.ravel(), y.ravel()
    noise = draw.normal(size=(n_frames, n, n))  # of real heights, so that h(-q) = h(q)*
    modes = np.fft.fft2(noise) / n * deviation
    pos[..., 2] = np.fft.ifft2(modes * n * n).real.reshape(n_frames, -1) + 7.0
    return track(pos, np.diag([length, length, 15.0]))


def test_rigidity_of_a_surface_with_a_known_spectrum() -> None:
    found = ripples([waving(1.3, 400, 0)])
    assert found is not None
    assert found.rigidity == pytest.approx(1.3, abs=4 * found.rigidity_error)
    assert found.rigidity_error < 0.03
    assert found.exponent == pytest.approx(-4, abs=0.15)
    length = 40.0
    wanted = 300 * units.kB / (length**2 * 1.3 * found.q**4)
    single = found.q < 2 * np.pi / length * 1.2  # a bin with waves of one length
    assert single.sum() == 1
    assert found.square[single] == pytest.approx(wanted[single], abs=4 * found.error[single][0])


def test_errors_of_the_rigidity_are_as_large_as_its_scatter() -> None:
    found = [ripples([waving(1.3, 64, seed)], q_range=(0, 0.35)) for seed in range(16)]
    values = np.array([f.rigidity for f in found if f])
    typical = np.sqrt(np.mean([f.rigidity_error**2 for f in found if f]))
    assert 0.6 < typical / values.std(ddof=1) < 1.7
    together = ripples([waving(1.3, 64, seed) for seed in range(16)], q_range=(0, 0.35))
    assert together is not None
    assert together.rigidity == pytest.approx(1.3, abs=4 * together.rigidity_error)
    assert together.rigidity_error < 0.45 * typical


def test_another_temperature_and_a_flat_layer() -> None:
    hot = ripples([waving(1.3, 50, 0)], temperature=600.0)
    cold = ripples([waving(1.3, 50, 0)])
    assert hot is not None
    assert cold is not None
    assert hot.rigidity == pytest.approx(2 * cold.rigidity)
    flat = ripples([track(sheet(8).positions[None], sheet(8).cell.array)])
    assert flat is not None
    assert np.isnan(flat.rigidity)
    assert ripples([track(sheet(1).positions[None], sheet(1).cell.array)]) is None


# Means


def test_means_and_their_errors() -> None:
    """A series in which each value keeps 0.9 of the one before: the error is 4.36 times larger."""
    draw, n, rho = np.random.default_rng(1), 3000, 0.9
    noise = draw.normal(size=n) * np.sqrt(1 - rho**2)
    series = np.zeros(n)
    for k in range(1, n):
        series[k] = rho * series[k - 1] + noise[k]
    made = track(np.zeros((n, 1, 3)), np.diag([3.0, 3.0, 15.0]), temperature=300 + series)
    found = averages(made.cut(100)).means["temperature"]
    wanted = np.sqrt((1 + rho) / (1 - rho) / (n - 100))
    assert 0.7 < found.error / wanted < 1.6
    assert found.value == pytest.approx(300, abs=4 * found.error)


def test_lattice_area_and_thickness() -> None:
    atoms = mos2(rattle=0.0)
    found = averages(track(atoms.positions[None].repeat(9, axis=0), atoms.cell.array)).means
    assert found["a"].value == pytest.approx(2 * 3.18)
    assert found["b"].value == pytest.approx(3.18)
    assert found["angle"].value == pytest.approx(120)
    assert found["area"].value == pytest.approx(3.18**2 * np.sqrt(3) / 2 / 3)
    assert found["thickness"].value == pytest.approx(3.13)
    assert found["energy"].value == pytest.approx(-1 / 6)
    assert found["area"].error == pytest.approx(0, abs=1e-12)


def test_thermal_expansion_is_the_slope() -> None:
    def row(t: float, area: float, error: float, formula: str = "C") -> Averages:
        means = {"temperature": Mean(t, 1.0), "area": Mean(area, error)}
        return Averages("x", formula, 10, 0.0, 1.0, means)

    rows = [row(t, 5 * (1 + 2e-5 * t), 1e-3) for t in (100, 200, 300)] + [row(9, 1, 1, "BN")]
    (found,) = expansions(rows)
    assert found.formula == "C"
    assert found.area_at_zero == pytest.approx(5)
    assert found.coefficient == pytest.approx(2e-5 / (1 + 2e-5 * 200))
    # Of three points at -100, 0 and 100 K from their mean.
    assert found.coefficient_error == pytest.approx(1e-3 / np.sqrt(2e4) / 5.02)
    assert expansions([row(300, 5.0, 1e-3), row(304, 5.1, 1e-3)]) == []  # replicas
    assert expansions([row(t, 5.0, 1e-16) for t in (100, 300)]) == []  # a cell that was held
    other = [replace(r, structure=1) for r in rows[:3]]
    assert len(expansions(rows + other)) == 2  # polymorphs in one run
    unknown = [row(t, a, np.nan) for t, a in ((100, 5.0), (200, 5.1), (300, 5.2))]
    assert expansions(unknown)[0].coefficient_error == pytest.approx(0, abs=1e-12)


# Files


def frames_of(atoms: Atoms, pos: np.ndarray, **info: object) -> list[Atoms]:
    frames = []
    for k, places in enumerate(pos):
        frame = atoms.copy()
        frame.positions = places
        frame.info |= {"time_fs": 100.0 * k, "temperature": 250.0} | info
        frame.calc = SinglePointCalculator(frame, energy=-2.0 * len(atoms))
        frames.append(frame)
    return frames


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", ["traj", "extxyz"])
def test_wrapped_and_straddling_frames_are_put_together(
    wrapped: bool, suffix: str, tmp_path: Path
) -> None:
    atoms = sheet(2)
    moved = walk(0.5, 60, len(atoms)) * 0.3 + atoms.positions
    moved[..., 2] += 7.9  # near the upper end of the cell, so that some are below, once wrapped
    frames = frames_of(atoms, moved + [0, 0, 0.3] * np.sin(np.arange(60))[:, None, None])
    if wrapped:
        for frame in frames:
            energy = frame.get_potential_energy()
            frame.pbc = True
            frame.wrap()
            frame.calc = SinglePointCalculator(frame, energy=energy)
    ase.io.write(tmp_path / f"run.{suffix}", frames)
    (found,) = read_tracks([tmp_path / f"run.{suffix}"], None, [])
    assert found.pbc.tolist() == [True, True, False]
    travelled = found.pos[-1] - found.pos[0]
    assert travelled[:, :2] == pytest.approx((moved[-1] - moved[0])[:, :2], abs=1e-6)
    thickness = averages(found).means["thickness"].value
    assert thickness == pytest.approx(0, abs=1e-6)
    assert found.time is not None
    assert found.time[-1] == pytest.approx(5.9)
    assert found.energy[0] == -2.0 * len(atoms)


def test_replicas_in_one_file_and_what_cannot_be_read(tmp_path: Path) -> None:
    atoms = sheet(2)
    pos = walk(0.1, 4, len(atoms)) * 0.1 + atoms.positions
    first, second = (frames_of(atoms, pos, replica=k) for k in (0, 1))
    path = tmp_path / "run.extxyz"
    ase.io.write(path, [frame for pair in zip(first, second, strict=True) for frame in pair])
    with path.open("a") as file:
        file.write("2\nnot a frame\nC 0 0\n")
    notes: list[str] = []
    found = read_tracks([path], None, notes)
    assert [t.name for t in found] == ["run.extxyz, replica 0", "run.extxyz, replica 1"]
    assert [len(t) for t in found] == [4, 4]
    assert len(notes) == 1
    assert "run.extxyz" in notes[0]
    assert len(groups_of(found)) == 1
    other = replace(found[1], temperature=found[1].temperature + 100)
    assert len(groups_of([found[0], other])) == 2
    for frame in second:
        frame.info["structure"] = 1
    ase.io.write(path, first + second)
    assert len(groups_of(read_tracks([path], None, []))) == 2, "perhaps two polymorphs"


def test_momenta_tell_the_temperature(tmp_path: Path) -> None:
    frames = frames_of(sheet(2), sheet(2).positions[None].repeat(3, axis=0))
    for frame in frames:
        del frame.info["temperature"], frame.info["time_fs"]
        frame.set_momenta(np.ones((len(frame), 3)))
    ase.io.write(tmp_path / "run.extxyz", frames)
    (found,) = read_tracks([tmp_path / "run.extxyz"], None, [])
    kinetic = frames[0].get_kinetic_energy()
    assert found.temperature[0] == pytest.approx(2 * kinetic / (21 * units.kB))
    assert found.time is None
    (found,) = read_tracks([tmp_path / "run.extxyz"], 50.0, [])
    assert found.time == pytest.approx([0, 0.05, 0.1])


def test_files_that_are_no_trajectory_of_a_layer(tmp_path: Path) -> None:
    path = tmp_path / "run.extxyz"
    ase.io.write(path, [sheet(1), mos2()])
    with pytest.raises(StructureError, match=r"run.extxyz, frame 1: other atoms"):
        read_tracks([path], None, [])
    ase.io.write(path, Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True))
    with pytest.raises(StructureError, match="no slab"):
        read_tracks([path], None, [])


# The command


def test_the_command_writes_tables_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for t in (200, 400):
        atoms = sheet(6)
        atoms.set_cell(atoms.cell * (1 + 1e-5 * t), scale_atoms=True)
        pos = atoms.positions + draw.normal(scale=0.05, size=(40, len(atoms), 3))
        ase.io.write(f"T{t}.extxyz", frames_of(atoms, pos, temperature=float(t)))
    assert cli.main(["analyse", "T200.extxyz", "T400.extxyz", "-o", "out", "--skip", "0"]) == 0
    said = capsys.readouterr().out
    assert "Thermal expansion of C: (1/A) dA/dT = 19.9" in said.replace("\n", " ")
    assert "Bending rigidity of T200.extxyz" in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"averages.csv", "rdf.csv", "msd.csv", "diffusion.csv", "ripples.csv"} <= names
    assert {"rigidity.csv", "expansion.csv", "area.png", "rdf-0.png", "msd-1.png"} <= names
    with open("out/averages.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["temperature"] for row in rows] == ["200", "400"]
    assert float(rows[0]["end_ps"]) == pytest.approx(3.9)
    assert cli.main(["analyse", "T200.extxyz", "--parts", "4"]) == 0
    with open("T200-analysis/averages.csv") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_the_command_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = [sheet(1) for _ in range(5)]
    ase.io.write("run.extxyz", frames)
    assert cli.main(["analyse", "run.extxyz"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "give the time between frames with --interval" in said
    assert "too small for a wave" in said
    assert cli.main(["analyse", "run.extxyz", "--parts", "9"]) == 2
    assert "lower --parts" in capsys.readouterr().err
    assert cli.main(["analyse", "nothing.traj"]) == 2
    assert "nothing.traj" in capsys.readouterr().err


def test_the_last_frames_of_a_run_do_not_count_twice(tmp_path: Path) -> None:
    for name in ("md-0", "md-0-last", "md-1-last"):
        ase.io.write(tmp_path / f"{name}.extxyz", [sheet(), sheet()])
    notes: list[str] = []
    found = read_tracks(sorted(tmp_path.iterdir()), 50.0, notes)
    assert {track.name for track in found} == {"md-0.extxyz", "md-1-last.extxyz"}
    assert len(notes) == 1
    assert "md-0-last.extxyz, whose run is given as a whole" in notes[0]
