"""Swaps of atoms: exact averages, whoever is in the batch, and from any state on."""

import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from ase.units import kB
from torch import nn

from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.md.montecarlo import energies as energies_module
from mlff2d.md.montecarlo import restart
from mlff2d.md.montecarlo.energies import energies_of, find_lattice
from mlff2d.md.montecarlo.result import MonteCarloResult
from mlff2d.md.montecarlo.settings import SwapSettings
from mlff2d.md.montecarlo.state import swapped
from mlff2d.md.montecarlo.swap import swap_monte_carlo
from mlff2d.md.relaxation.batch import BatchRelaxer
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.models.base import EnergyModel
from mlff2d.nn.scatter import segment_sum
from mlff2d.potential import Potential
from tests.standins import MorseConfig

SPECIES = ("Cu", "Au")
RELAX = RelaxSettings(fmax=0.1, smax=1.0, steps=8)
SETTINGS = SwapSettings((300.0, 900.0), sweeps=5, equilibration=2, seed=3)


@dataclass(frozen=True)
class AlloyConfig(MorseConfig):
    """With `mixing`, by which the well between unlike atoms is deeper."""

    mixing: float = 0.1


class MorseAlloy(EnergyModel):
    """Morse's potential, its wells deeper between unlike atoms, and shallower between Au."""

    Config = AlloyConfig
    n_features = 1
    n_hops = 1

    def __init__(self, config: AlloyConfig) -> None:
        super().__init__()
        self.config, self.cutoff = config, config.cutoff
        self.readout = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.readout.weight, config.depth)

    def features(self, graph, edge_vec):
        i, j = graph.edge_index
        gold = (graph.z == 79).to(edge_vec)[:, None]
        depth = 1 + self.config.mixing * ((gold[i] - gold[j]) ** 2 - 0.5 * gold[i] * gold[j])
        r = edge_vec.norm(dim=1, keepdim=True)
        x = torch.exp(-self.config.width * (r - self.config.length))
        fade = (1 - (r / self.cutoff).clamp(max=1) ** 2) ** 3
        return segment_sum((x**2 - 2 * x) * fade * depth, i, graph.n_atoms)


def potential(**config: float) -> Potential:
    model = MorseAlloy(AlloyConfig(**config))
    return Potential(model, {29: -1.0, 79: -1.5}).double().eval()


def alloy(n: int = 3, gold: int = 3) -> Atoms:
    """A hexagonal sheet; gold first."""
    atoms = fcc111("Cu", (n, n, 1), a=3.7, vacuum=6.0)
    atoms.symbols[:gold] = "Au"
    return atoms


def run(output: Path | None = None, structures: Sequence[Atoms] = (), **how: Any):
    """A short run."""
    settings = replace(SETTINGS, **how.pop("settings", {}))
    model = how.pop("model", None) or potential()
    return swap_monte_carlo(structures or [alloy()], SPECIES, model, settings, output, **how)


@cache
def all_energies(relaxing: RelaxSettings | None) -> np.ndarray:
    """(84,) eV of all arrangements, each alone and by another relaxer."""
    model, found = MLFF2DCalculator(potential(), dtype="float64"), []
    for places in combinations(range(9), 3):
        atoms = alloy(gold=0)
        atoms.symbols[list(places)] = "Au"
        found.append(relax(atoms, model, relaxing or RelaxSettings(steps=0)).energy)
    return np.array(found)


def exact(relaxing: RelaxSettings | None, temperature: float) -> tuple[float, float]:
    """Mean energy in eV and heat capacity in kB, per site, with Boltzmann's weights."""
    energy = all_energies(relaxing)
    weights = np.exp(-(energy - energy.min()) / (kB * temperature))
    weights /= weights.sum()
    mean = weights @ energy
    variance = weights @ (energy - mean) ** 2
    return mean / 9, variance / (kB * temperature) ** 2 / 9


@pytest.mark.parametrize(("relaxing", "exchange"), [(None, False), (None, True), (RELAX, True)])
def test_averages_are_those_over_all_arrangements(
    relaxing: RelaxSettings | None, exchange: bool
) -> None:
    temperatures = (900.0, 400.0)
    settings = SwapSettings(temperatures, 500, 20, 24, exchange, relaxing, seed=1)
    found = swap_monte_carlo([alloy()], SPECIES, potential(), settings)
    energies = found.energies[0]
    capacities = energies.var(-1) / (kB * np.array(temperatures)) ** 2 / 9
    assert sum(found.computed.values()) <= 84, "no arrangement is computed twice"
    hot, cold = (exact(relaxing, temperature) for temperature in temperatures)
    for place, (energy, capacity) in enumerate((hot, cold)):
        for ours, theirs, scale in (
            (energies[:, place].mean(-1) / 9, energy, hot[0] - cold[0]),
            (capacities[:, place], capacity, capacity),
        ):
            error = ours.std(ddof=1) / np.sqrt(len(ours))
            assert abs(ours.mean() - theirs) < 4 * error
            assert error < 0.04 * scale


def same(ours: MonteCarloResult, theirs: MonteCarloResult) -> bool:
    """To the bit."""
    left, right = vars(ours), vars(theirs)
    return all(np.array_equal(left[k], right[k], equal_nan=True) for k in ARRAYS) and (
        ours.computed == theirs.computed
    )


ARRAYS = ("energies", "arrangements", "first", "acceptance", "failed", "exchanges")


@pytest.mark.parametrize("relaxing", [None, RELAX])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relaxing: RelaxSettings | None
) -> None:
    how = {"relax": relaxing, "replicas": 2}
    whole = run(tmp_path / "whole.state", settings=how)
    assert np.isfinite(whole.energies).all()

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done in (7, 20, 21):
            raise Killed

    # Saved after every trial; killed within a sweep, just behind one, and once more.
    for _ in range(3):
        with pytest.raises(Killed):
            run(tmp_path / "cut.state", settings=how, progress=kill, save_minutes=-1.0)
    # What was done since a state was saved is done again.
    monkeypatch.setattr(restart, "save", lambda content, path: None)
    assert same(run(tmp_path / "cut.state", settings=how), whole)


def test_a_signal_ends_a_run_in_good_order(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    cut = run(tmp_path / "cut.state", progress=interrupt)
    assert cut.signal == signal.SIGTERM
    assert np.isnan(cut.energies).all(), "equilibration is not over"
    rest = run(tmp_path / "cut.state")
    assert rest.signal is None
    assert same(rest, run())


def test_a_finished_run_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "mc.state")
    monkeypatch.setattr(Potential, "forward", None)
    assert same(run(tmp_path / "mc.state"), whole)


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mc.state"
    run(path)
    with pytest.raises(ValueError, match=r"begun with seed 3 \(now 4\)"):
        run(path, settings={"seed": 4})
    with pytest.raises(ValueError, match="another model"):
        run(path, model=potential(mixing=0.2))
    with pytest.raises(ValueError, match="other structures"):
        run(path, [alloy(gold=4)])
    path.write_text("nonsense")
    with pytest.raises(ValueError, match="is not the state of a Monte Carlo run"):
        run(path)


@pytest.mark.parametrize("relaxing", [None, RELAX])
def test_a_batch_walks_as_its_parts_do(relaxing: RelaxSettings | None) -> None:
    structures = [alloy(), alloy(gold=5)]
    how = {"relax": relaxing, "replicas": 2, "sweeps": 2, "equilibration": 0}
    together, alone = (
        run(structures=structures, settings=how, max_edges=edges) for edges in (100_000, 1)
    )
    assert np.array_equal(together.arrangements, alone.arrangements)
    assert np.allclose(together.energies, alone.energies, rtol=0, atol=1e-9)
    first = run(structures=structures[:1], settings=how)
    assert np.array_equal(first.arrangements[0], together.arrangements[0])


def test_swaps_conserve_the_composition_and_reach_every_pair() -> None:
    rng = np.random.default_rng(0)
    before = np.array([[1, 1, 2, 3]] * 20_000)
    after = swapped(before, rng.random(len(before)), rng.random(len(before)))
    assert (np.sort(after, axis=1) == [1, 1, 2, 3]).all()
    changed = Counter(tuple(np.flatnonzero(row)) for row in after != before)
    # The first at random, the second among those unlike it: 1/4 (1/2 + 1/3) of those with an
    # atom of kind 1, 1/4 (1/3 + 1/3) of the last; the same for the way back.
    expected = {pair: 5 / 24 for pair in [(0, 2), (0, 3), (1, 2), (1, 3)]} | {(2, 3): 1 / 6}
    assert changed.keys() == expected.keys()
    for pair, share in expected.items():
        assert abs(changed[pair] / len(before) - share) < 0.01
    found = run(settings={"replicas": 3}).arrangements
    assert ((found == 79).sum(-1) == 3).all()
    assert ((found == 29).sum(-1) == 6).all()


def test_one_species_alone_stays_as_it_is() -> None:
    found = run(structures=[alloy(gold=0), alloy(gold=9), alloy()])
    assert (np.ptp(found.energies[:2], axis=-1) == 0).all()
    calculator = MLFF2DCalculator(potential(), dtype="float64")
    for number, gold in enumerate((0, 9)):
        atoms = alloy(gold=gold)
        atoms.calc = calculator
        assert np.allclose(found.energies[number], atoms.get_potential_energy(), rtol=0, atol=1e-9)
    assert np.ptp(found.energies[2]) > 0


def test_an_arrangement_without_an_energy_is_never_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = energies_module.OnLattice.__call__

    def some_break(self: Any, asked: Any) -> Any:
        """All with gold on the first site have no energy."""
        found = whole(self, asked)
        return [
            (np.inf, "exploded") if numbers[0] == 79 else one
            for (_, numbers), one in zip(asked, found, strict=True)
        ]

    monkeypatch.setattr(energies_module.OnLattice, "__call__", some_break)
    found = run(settings={"replicas": 8, "sweeps": 20, "equilibration": 10})
    assert np.isinf(found.first).any()
    assert np.isfinite(found.energies).all()
    assert (found.arrangements[..., 0] == 29).all()
    assert found.failed.sum() > 0
    assert found.computed["exploded"] > 0


def test_which_relaxations_have_an_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An arrangement whose relaxation went wrong has none; one that needs more steps has."""
    whole = BatchRelaxer.run
    ends = ["exploded", "detached", "merged", "rebuilt", "max-steps", "converged", "error"]

    def some_break(self: BatchRelaxer, structures: Any) -> Any:
        for finished in whole(self, structures):
            yield [
                (key, StructureError("broken") if end == "error" else replace(result, status=end))
                for key, result in finished
                for end in [ends[key]]
            ]

    monkeypatch.setattr(BatchRelaxer, "run", some_break)
    lattice = find_lattice(alloy(), [29, 79], potential())
    energies, _ = energies_of([lattice], potential(), RelaxSettings(steps=0), 10_000)
    numbers = lattice.atoms.numbers.astype(np.int64)
    asked = [(0, np.roll(numbers, k)) for k in range(len(ends))]
    found = dict(zip(ends, energies(asked), strict=True))
    assert {end for end in ends if np.isinf(found[end])} == {
        "exploded",
        "detached",
        "merged",
        "error",
    }
    assert energies.counts == dict.fromkeys([*ends[:-1], "failed"], 1)
    assert energies(asked[::-1]) == list(found.values())[::-1]
    assert energies.counts.total() == len(ends)


def test_a_structure_that_cannot_begin_is_left_out_alone() -> None:
    lonely = Atoms("Cu2Au", [[0, 0, 0], [2.5, 0, 0], [5, 0, 0]])
    found = run(structures=[lonely, alloy()])
    assert list(found.troubles) == [0]
    assert "not a slab" in found.troubles[0]
    assert np.isnan(found.energies[0]).all()
    assert np.isfinite(found.energies[1]).all()
    with pytest.raises(StructureError, match="not a slab"):
        run(structures=[lonely])
    with pytest.raises(ValueError, match="9 and 16 shared sites"):
        run(structures=[alloy(), alloy(4)])
    with pytest.raises(ValueError, match="'Xx' is no element"):
        swap_monte_carlo([alloy()], ("Cu", "Xx"), potential(), SETTINGS)
    with pytest.raises(StructureError, match="never seen Ag"):
        swap_monte_carlo([alloy()], ("Cu", "Ag"), potential(), SETTINGS)


def test_colder_walkers_lie_lower_whatever_the_order_of_temperatures() -> None:
    up = run(settings={"temperatures": (200.0, 600.0, 2000.0), "sweeps": 60, "replicas": 4})
    assert (np.diff(up.energies.mean((1, 3))[0]) > 0).all()
    assert ((up.exchanges > 0.05) & (up.exchanges <= 1)).all()
    assert (np.diff(up.acceptance.mean(1)[0]) > 0).all()
    down = run(settings={"temperatures": (2000.0, 600.0, 200.0), "sweeps": 60, "replicas": 4})
    assert (np.diff(down.energies.mean((1, 3))[0]) < 0).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperatures": ()}, "must be positive"),
        ({"temperatures": (0.0,)}, "must be positive"),
        ({"temperatures": (300.0, 300.0)}, "each temperature once"),
        ({"sweeps": 5, "equilibration": 5}, "some must be left"),
        ({"replicas": 0}, "at least one replica"),
        ({"seed": -1}, "the seed"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SETTINGS, **wrong)
