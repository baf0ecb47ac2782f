"""Monte Carlo of alloys: by a cluster expansion, by a potential, and what is made of either."""

import os
import random
import signal
from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import kB

from mlff2d import cli
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.training.alloys import mchammer, montecarlo
from mlff2d.training.alloys.config import AlloyConfig, ExpansionConfig
from mlff2d.training.alloys.expansion import fit
from mlff2d.training.alloys.mchammer import anneal
from mlff2d.training.alloys.montecarlo import decorated, run_monte_carlo
from mlff2d.training.alloys.montecarlo_figures import spinodal
from mlff2d.training.alloys.observables import (
    Course,
    Samples,
    course_of,
    shared_sites,
    shells,
    spread,
    stars,
    warren_cowley,
    waves,
)
from mlff2d.training.alloys.system import System
from tests.alloys import ising_system

COUPLING = 0.004
"""eV for each like neighbour of a site: unlike species want to be neighbours."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    return ising_system(tmp_path_factory.mktemp("ising"), COUPLING, max_sites=3)


def expansion(system: System) -> Any:
    return fit(
        system, system.configurations, ExpansionConfig(cutoffs=((1.1,),)), "ols", 0
    ).expansion


def cell(system: System, n: int, tungsten: int) -> Atoms:
    """n x n cells of the parent, the first sites tungsten."""
    atoms = system.lattice.parent.repeat((n, n, 1))
    atoms.symbols[shared_sites(system, (n, n))[:tungsten]] = "W"
    return atoms


def ising_energy(system: System, supercell: Atoms, numbers: np.ndarray) -> np.ndarray:
    """(...) eV per site of (..., n) arrangements, from the pairs themselves."""
    side = round(np.sqrt(numbers.shape[-1]))
    near = shells(supercell, shared_sites(system, (side, side)), 1).pairs[0]
    like = np.where(numbers[..., near[:, 0]] == numbers[..., near[:, 1]], 1.0, -1.0)
    return COUPLING * (like.sum(-1) / numbers.shape[-1] - 6)


def exact(system: System, n: int, tungsten: int, temperature: float) -> tuple[float, float, float]:
    """Energy in eV, heat capacity and entropy in kB, per site, over all arrangements."""
    numbers = np.full((0, n * n), 42)
    for places in combinations(range(n * n), tungsten):
        numbers = np.concatenate([numbers, np.full((1, n * n), 42)])
        numbers[-1, list(places)] = 74
    energy = n * n * ising_energy(system, cell(system, n, tungsten), numbers)
    weights = np.exp(-(energy - energy.min()) / (kB * temperature))
    total = weights.sum()
    mean = weights @ energy / total
    variance = weights @ (energy - mean) ** 2 / total
    entropy = np.log(total) + (mean - energy.min()) / (kB * temperature)
    return mean / n**2, variance / (kB * temperature) ** 2 / n**2, entropy / n**2


def test_averages_are_those_over_all_arrangements(system: System) -> None:
    temperatures = (2000.0, 700.0, 400.0, 250.0)
    start = cell(system, 3, 3)
    found = anneal(expansion(system), start, temperatures, 320, 20, 12, seed=1)
    assert np.allclose(found.energies, ising_energy(system, start, found.arrangements), atol=1e-9)
    assert abs(found.random - exact(system, 3, 3, 1e9)[0]) < 2e-4
    cold, hot = exact(system, 3, 3, 250.0), exact(system, 3, 3, 2000.0)
    for place, temperature in enumerate(temperatures):
        energy, heat, entropy = exact(system, 3, 3, temperature)
        for ours, theirs, scale in (
            (found.mean_energy[:, place], energy, hot[0] - cold[0]),
            (found.heat_capacity[:, place], heat, cold[1]),
        ):
            error = spread(ours)
            assert abs(ours.mean() - theirs) < 4 * error
            assert error < 0.05 * scale
        assert abs(found.entropy[:, place].mean() - entropy) < 0.02
    assert found.ideal_entropy == pytest.approx(np.log(84) / 9)


def test_hot_there_is_no_order_and_cold_the_ground_state(system: System) -> None:
    start = cell(system, 6, 12)
    state = random.getstate()
    found = anneal(expansion(system), start, (30.0, 1e5, 150.0, 70.0), 150, 50, 2, seed=0)
    assert random.getstate() == state, "draws of others are left alone"
    course = course_of(system, (6, 6), found)
    # Of n sites a random arrangement has -1 / (n - 1).
    assert np.allclose(course.alpha[:, 1], -1 / 35, atol=0.02)
    # A third of tungsten on a triangular lattice: none has a neighbour of its kind, and each
    # molybdenum has three; the mean of like less unlike neighbours is -2.
    assert np.allclose(found.energies[:, 0].min(-1), COUPLING * (-2 - 6), atol=1e-9)
    assert course.alpha[:, 0, 0] == pytest.approx(-0.5, abs=0.02)
    assert course.star == "(1/3 1/3)"
    assert course.order.mean(0)[0] > 0.95
    assert course.order.mean(0)[1] < 0.1
    assert course.at_random == pytest.approx(2 / 36)
    assert (np.sort(found.arrangements, axis=-1) == np.repeat([42, 74], [24, 12])).all()


def test_the_same_seed_gives_the_same(system: System) -> None:
    how = (expansion(system), cell(system, 3, 4), (900.0, 300.0), 12, 2)
    one, same, other = (anneal(*how, 2, seed) for seed in (5, 5, 6))
    assert np.array_equal(one.arrangements, same.arrangements)
    assert np.array_equal(one.energies, same.energies)
    assert not np.array_equal(one.arrangements, other.arrangements)
    assert not np.array_equal(one.arrangements[0], one.arrangements[1])


def test_a_walk_that_is_stopped_goes_on_to_the_same(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = (expansion(system), cell(system, 3, 4), (300.0, 900.0, 500.0), 12, 2, 2, 5)
    whole = anneal(*how)
    stops = iter([False, True])
    saved: list[Samples] = []
    part = anneal(*how, save=saved.append, stopped=lambda: next(stops))
    assert np.isfinite(part.acceptance).tolist() == [[False, True, True], [False] * 3]
    assert not part.finished
    made, walk = [], mchammer._ensemble
    monkeypatch.setattr(mchammer, "_ensemble", lambda *a: made.append(a[2]) or walk(*a))
    again = anneal(*how, begun=saved[-1])
    assert made == [300, 900, 500, 300]
    assert again.finished
    for name, value in vars(whole).items():
        assert np.array_equal(vars(again)[name], value), name


def test_a_signal_ends_a_walk_and_the_same_call_goes_on(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, plain = (settings(tmp_path / name, shares=(1 / 3, 2 / 3)) for name in ("a", "b"))
    (whole,) = run_monte_carlo(system, plain)
    begun, walk = [], mchammer._ensemble

    def ensemble(*args: Any) -> Any:
        begun.append(args)
        if len(begun) == 8:  # the second composition, its second temperature
            os.kill(os.getpid(), signal.SIGTERM)
        return walk(*args)

    monkeypatch.setattr(mchammer, "_ensemble", ensemble)
    (found,) = run_monte_carlo(system, config)
    assert found.signal == signal.SIGTERM
    assert len(begun) == 8
    assert found.tables == []
    (again,) = run_monte_carlo(system, config)
    assert len(begun) == 2 * 3 * 2, "what was done is not done again"
    assert again.signal is None
    assert repr(again.tables) == repr(whole.tables)


def test_too_small_a_supercell_is_refused(system: System) -> None:
    with pytest.raises(ValueError, match=r"larger monte_carlo\.expansion\.supercell"):
        anneal(expansion(system), cell(system, 1, 0), (300.0,), 2, 0, 1, 0)


def stripes(n: int) -> np.ndarray:
    """(n * n,) rows of either kind by turns."""
    return np.where(np.arange(n * n) // n % 2, 42, 74).astype(np.uint8)


def test_orders_of_arrangements_that_are_known(system: System) -> None:
    parent = system.lattice.parent
    near = shells(parent.repeat((6, 6, 1)), shared_sites(system, (6, 6)))
    a = parent.cell.lengths()[0]
    assert np.allclose(near.distances, a * np.sqrt([1, 3, 4]))
    assert [len(pairs) for pairs in near.pairs] == [36 * 6] * 3
    # Of six neighbours four are unlike; of the second shell four too; none of the third.
    assert np.allclose(warren_cowley(stripes(6), near), [1 - 4 / 3, 1 - 4 / 3, 1.0])
    found = stars(parent, (6, 6))
    share = waves(stripes(6), (6, 6), found)
    assert share.sum() == pytest.approx(1)
    assert found.names[int(share.argmax())] == "(0 1/2)"
    assert share.max() == pytest.approx(1)
    assert found.members[share.argmax()].sum() == 3
    assert found.members.sum() == 36
    # Three kinds by turns are unlike all neighbours, and (1/3 1/3) alone.
    i, j = np.divmod(np.arange(36), 6)
    assert parent.cell.array[1, 0] < 0, "its vectors are 120° apart"
    three = np.array([23, 42, 74])[(i + j) % 3]
    order = warren_cowley(three.astype(np.uint8), near)[0]
    assert order == pytest.approx(1 - 1 / (1 - 3 / 9))
    share = waves(three.astype(np.uint8), (6, 6), found)
    assert found.names[int(share.argmax())] == "(1/3 1/3)"
    # Halves of the cell: like keeps to like, in the longest waves.
    halves = np.where(np.arange(144) < 72, 42, 74).astype(np.uint8)
    share = waves(halves, (12, 12), stars(parent, (12, 12)))
    assert int(share.argmax()) == 1
    assert share[1] > 0.8


def test_random_arrangements_have_every_wave_alike(system: System) -> None:
    rng = np.random.default_rng(0)
    numbers = np.array([rng.permutation(np.repeat([42, 74], 18)) for _ in range(3000)])
    found = stars(system.lattice.parent, (6, 6))
    share = waves(numbers.astype(np.uint8), (6, 6), found).mean(0)
    assert share[0] < 1e-12, "the composition is fixed"
    assert np.allclose(share[1:], found.members.sum((1, 2))[1:] / 35, atol=0.01)


def settings(folder: Path, **how: Any) -> AlloyConfig:
    """A study with a short Monte Carlo of small cells."""
    walk = {"supercell": (3, 3), "sweeps": 20, "replicas": 2}
    given = {"expansion": walk, "potential": walk, "temperatures": (900, 300, 100), "fit": "ols"}
    return AlloyConfig.model_validate(
        {
            "run_dir": folder,
            "systems": [{"parent": "x", "sublattice": "Mo", "species": ["Mo", "W"]}],
            "expansion": {"cutoffs": [[1.1]]},
            "dtype": "float64",
            "monte_carlo": given | how,
        }
    )


def test_a_run_with_an_expansion_is_kept_and_shown(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, shares=(1 / 3, 2 / 3))
    (found,) = run_monte_carlo(system, config)
    assert found.signal is None
    assert [one.x for one in found.courses] == pytest.approx([1 / 3, 2 / 3])
    sketch, table = found.tables
    assert len(sketch.rows) == 2
    assert [row[1] for row in table.rows[:3]] == [900.0, 300.0, 100.0]
    energy = [row[table.columns.index("mixing energy (meV/site)")] for row in table.rows[:3]]
    assert energy[0] > energy[2] > -8 * 1e3 * COUPLING - 1e-6
    assert all(len(row) == len(one.columns) for one in found.tables for row in one.rows)
    assert all(plot.image.startswith(b"\x89PNG") for plot in found.plots)
    monkeypatch.setattr(montecarlo, "anneal", None)
    (again,) = run_monte_carlo(system, config)
    assert repr(again.tables) == repr(found.tables)
    assert run_monte_carlo(system, config.model_copy(update={"monte_carlo": None})) == []


@pytest.mark.parametrize("by", ["potential", "potential-relaxed"])
def test_a_run_with_a_potential(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(montecarlo, "sampler", cli._swap_many)
    walk = {"supercell": (2, 2), "sweeps": 3, "replicas": 2, "steps": 2}
    config = settings(tmp_path, shares=(0.25, 0.5), by=[by], potential=walk)
    calculator = MLFF2DCalculator(dtype="float64")
    (found,) = run_monte_carlo(system, config, potential=calculator.potential)
    assert found.signal is None
    assert "each once" in found.lines[0]
    assert len(found.plots) == 2

    def energy(symbols: list[str]) -> float:
        """eV per site, by ASE and another relaxer."""
        ideal = decorated(system, config.monte_carlo.potential, [0.5])[0]
        ideal.symbols[shared_sites(system, (2, 2))] = symbols
        start = system.alloy.finished(ideal, "k", 0)
        steps = 2 if by == "potential-relaxed" else 0
        how = RelaxSettings(fmax=0.05, smax=0.1, steps=steps, optimizer="lbfgs")
        return relax(start, calculator, how).energy / 4

    for one in found.courses:
        numbers = one.samples.arrangements[1, 2, -1]
        symbols = [chemical_symbols[number] for number in numbers]
        mixing = energy(symbols) - sum(
            share * energy([species] * 4) for species, share in one.shares.items()
        )
        assert one.samples.energies[1, 2, -1] == pytest.approx(mixing, abs=1e-8)
        assert abs(mixing) < 0.1


def test_what_cannot_be_done_says_so(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = run_monte_carlo(system, settings(tmp_path, shares=(0.01,)))
    assert "leaves a species without a site" in found.lines[-1]
    assert found.tables == []
    monkeypatch.setattr(montecarlo, "sampler", cli._swap_many)
    (found,) = run_monte_carlo(system, settings(tmp_path, by=["potential"]))
    assert "no fine-tuned potential; see why it could not be trained" in found.lines[-1]
    config = settings(tmp_path, by=["potential"]).model_copy(update={"methods": ("zero-shot",)})
    (found,) = run_monte_carlo(system, config)
    assert "no fine-tuned potential; name it among the methods" in found.lines[-1]


def test_a_walk_goes_on_while_what_it_depends_on_is_the_same(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []

    def sampler(structures: Any, species: Any, potential: Any, output: Path, *_: Any, **__: Any):
        outputs.append(output)
        raise ValueError("enough")

    monkeypatch.setattr(montecarlo, "sampler", sampler)
    potential = MLFF2DCalculator(dtype="float64").potential

    def output(of: System = system, **how: Any) -> Path:
        config = settings(tmp_path, **{"by": ["potential"], "shares": (0.5,)} | how)
        outputs.clear()
        run_monte_carlo(of, config, potential=potential)
        return outputs[-1]

    walk = {"supercell": (3, 3), "sweeps": 20, "replicas": 2}
    before = output()
    assert output(fit="ridge") == before
    assert output(by=["expansion", "potential"]) == before
    assert output(expansion=walk | {"sweeps": 30}) == before
    assert output(potential=walk | {"fmax": 0.2}) == before, "nothing is relaxed"
    wider = replace(system, alloy=deepcopy(system.alloy))
    wider.alloy._sizes["Mo", "W"] = (1.01, 1.0)  # what another end member would lead to
    others = [
        output(by=["potential-relaxed"]),
        output(by=["potential-relaxed"], potential=walk | {"fmax": 0.2}),
        output(shares=(1 / 3,)),
        output(temperatures=(900, 300)),
        output(equilibrate=0.5),
        output(potential=walk | {"sweeps": 30}),
        output(potential=walk | {"supercell": (4, 4)}),
        output(wider),
    ]
    assert len({before, *others}) == 9


def test_a_regular_solution_is_unstable_below_its_critical_temperature() -> None:
    # At x = 1/2 with W = 0.1 eV: kT = W / 2.
    numbers = np.array([[[[42, 42, 74, 74]]]], dtype=np.uint8)
    samples = Samples(np.array([300.0]), np.zeros((1, 1, 1)), numbers, np.zeros((1, 1)), 0.025)
    course = Course({"Mo": 0.5, "W": 0.5}, samples, *(np.zeros((1, 1, 1)),) * 3, "", 0.0)
    assert spinodal(course) == pytest.approx(0.05 / kB)
    assert np.isnan(spinodal(replace(course, samples=replace(samples, random=-0.01))))
