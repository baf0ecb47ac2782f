"""Batched relaxation: the same as one by one, whoever comes and goes, and from any snapshot on."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from ase.constraints import FixAtoms
from torch import Tensor

from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.graph import Graph
from mlff2d.md.relaxation.batch import BatchRelaxer, relax_many
from mlff2d.md.relaxation.one_by_one import AseRelaxer
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.result import RelaxResult
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.potential import Potential
from tests.relaxing import sheets
from tests.standins import MorseConfig, MorseNet, copper, morse

Results = dict[int, RelaxResult | StructureError]
EDGES = 900
"""Room for some, but not all, of the sheets."""


def finish(relaxer: Any, frames: list[Atoms], **how: Any) -> Results:
    results: Results = {}
    for finished in relaxer.run(list(enumerate(frames)), **how):
        for key, result in finished:
            assert key not in results, "nothing is done twice"
            results[key] = result
    assert sorted(results) == list(range(len(frames)))
    return results


def many() -> list[Atoms]:
    """Sheets, and among them what cannot be relaxed."""
    frames = sheets()
    molecule = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])
    unknown = Atoms("Xe", cell=[3, 3, 20], pbc=[True, True, False])
    twice, far = copper(), copper()
    twice.positions[1] = twice.positions[0]
    far.positions[1, 2] = 1e9
    nothing = Atoms("CuX", [[0, 0, 0], [0, 0, 2.5]], cell=[3, 3, 20], pbc=[True, True, False])
    dense = Atoms("Cu", cell=[0.01, 0.01, 20], pbc=[True, True, False])
    broken = [unknown, twice, nothing, far, dense]
    return [frames[0], molecule, *frames[1:3], *broken, *frames[3:], copper(seed=7)]


@pytest.mark.parametrize(
    "settings",
    [
        RelaxSettings(),
        RelaxSettings(cell="a", pressure=0.5, steps=30),
        RelaxSettings(optimizer="lbfgs", symmetry=True),
        RelaxSettings(steps=9),
        RelaxSettings(steps=0, cell="fixed"),
    ],
    ids=["default", "a", "lbfgs", "9 steps", "no step"],
)
def test_the_same_as_one_by_one(settings: RelaxSettings) -> None:
    frames, potential = many(), morse()
    batched = finish(BatchRelaxer(potential, settings, EDGES), frames)
    expected = finish(AseRelaxer(potential, settings), frames)
    statuses = set()
    for key, result in batched.items():
        other = expected[key]
        if isinstance(other, StructureError):
            assert str(result) == str(other)
            continue
        assert isinstance(result, RelaxResult)
        assert (result.status, result.reason) == (other.status, other.reason)
        assert (result.steps, result.met) == (other.steps, other.met)
        assert result.energy == pytest.approx(other.energy, abs=1e-9)
        assert np.allclose(result.atoms.positions, other.atoms.positions, atol=1e-8)
        assert np.allclose(result.atoms.cell, other.atoms.cell, atol=1e-8)
        assert np.allclose(result.atoms.get_forces(), other.atoms.get_forces(), atol=1e-7)
        assert result.stress_2d == pytest.approx(other.stress_2d, abs=1e-7)
        for name in ("fmax", "smax", "area_before", "area_after", "thickness", "symmetrized"):
            assert getattr(result, name) == pytest.approx(getattr(other, name), abs=1e-7), name
        assert result.layer_group_after == other.layer_group_after
        statuses.add(result.status)
    assert statuses >= ({"converged"} if settings.steps == 1000 else {"max-steps"})
    assert sum(isinstance(r, StructureError) for r in batched.values()) == 6


def test_structures_are_swapped_while_others_move() -> None:
    """Never more edges than allowed, but as many as fit, and none waits for the slowest."""
    frames = [copper(scale=1 + 0.005 * k, seed=k) for k in range(8)]
    relaxer = BatchRelaxer(morse(), RelaxSettings(), EDGES)
    turns, crowds = 0, []
    steps: dict[int, int] = {}
    for finished in relaxer.run(list(enumerate(frames))):
        turns += 1
        steps |= {key: result.steps for key, result in finished}
        crowds.append(relaxer.in_flight)
    assert 1 < max(crowds) < len(frames)
    assert relaxer.structure_steps == sum(steps.values())
    assert list(steps) != sorted(steps), "who is quick leaves before who came earlier"
    assert turns < sum(steps.values()) / 2


def copied(snapshot: dict[str, Any]) -> dict[str, Any]:
    """As a file would bring it back."""
    file = io.BytesIO()
    torch.save(snapshot, file)
    file.seek(0)
    restored: dict[str, Any] = torch.load(file, weights_only=True)
    return restored


@pytest.mark.parametrize(
    "settings",
    [
        RelaxSettings(),
        RelaxSettings(optimizer="lbfgs", cell="isotropic"),
        RelaxSettings(polish=True, symmetry=True, fmax=0.002, pressure=1.0, steps=40),
    ],
    ids=["fire", "lbfgs", "polish"],
)
def test_a_snapshot_goes_on_bit_for_bit(settings: RelaxSettings) -> None:
    frames, potential = many(), morse().float()
    structures = list(enumerate(frames))
    relaxer = BatchRelaxer(potential, settings, EDGES)
    whole: Results = {}
    kept: list[tuple[Results, dict[str, Any]]] = []
    for turn, finished in enumerate(relaxer.run(structures)):
        whole.update(finished)
        if turn in (2, 9, 24):
            kept.append((dict(whole), copied(relaxer.snapshot())))
    assert len(kept) == 3
    for done, snapshot in kept:
        again = BatchRelaxer(potential, settings, EDGES)
        for finished in again.run(structures, snapshot):
            done.update(finished)
        assert again.structure_steps == relaxer.structure_steps
        assert done.keys() == whole.keys()
        for key, result in whole.items():
            if isinstance(result, StructureError):
                assert str(done[key]) == str(result)
                continue
            other = done[key]
            assert isinstance(other, RelaxResult)
            assert np.array_equal(other.atoms.positions, result.atoms.positions)
            assert np.array_equal(other.atoms.cell, result.atoms.cell)
            assert np.array_equal(other.atoms.get_forces(), result.atoms.get_forces())
            assert (other.energy, other.steps) == (result.energy, result.steps)


def test_polished_in_float64() -> None:
    """What float32 cannot resolve is met, and in as few steps as it takes."""
    settings = RelaxSettings(fmax=1e-7, smax=1e-6, polish=True, optimizer="lbfgs")
    frames, potential = [copper(seed=1), copper(layers=3, seed=2)], morse()
    results = finish(BatchRelaxer(potential.float(), settings, EDGES), frames)
    calculator = MLFF2DCalculator(potential, device="cpu", dtype="float64")
    for result in results.values():
        assert isinstance(result, RelaxResult)
        assert result.status == "converged"
        fresh = result.atoms.copy()
        fresh.calc = calculator
        assert np.linalg.norm(fresh.get_forces(), axis=1).max() <= settings.fmax
        assert fresh.get_potential_energy() == pytest.approx(result.energy, abs=1e-12)
    assert potential.dtype == torch.float32, "the potential given is as it was"


class Failing(MorseNet):
    """Does not answer where a condition holds."""

    def forward(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        energies = super().forward(graph, edge_vec)
        self.check(graph)
        return torch.where(self.fails(graph)[graph.batch], torch.nan, 1.0) * energies

    def check(self, graph: Graph) -> None:
        """Nothing."""

    def fails(self, graph: Graph) -> Tensor:
        return torch.zeros(graph.n_structures, dtype=torch.bool)


class FailsWhenSmall(Failing):
    """NaN for cells below an area."""

    def fails(self, graph: Graph) -> Tensor:
        return torch.linalg.cross(graph.cell[:, 0], graph.cell[:, 1]).norm(dim=1) < 21.5


def potential_of(model: MorseNet) -> Potential:
    return Potential(model, {29: 0.0}).double().eval()


def test_no_number_on_the_way_is_a_status_and_at_the_start_an_error() -> None:
    """Of the one whose cell shrinks below what the model knows; the others go on."""
    frames = [copper(scale=s) for s in (1.03, 0.9, 1.0)]
    frames[2].set_cell(frames[2].cell.array * [1.2, 1.2, 1], scale_atoms=True)
    potential = potential_of(FailsWhenSmall(MorseConfig(depth=2.0, length=2.0)))
    batched = finish(BatchRelaxer(potential, RelaxSettings(), 10**6), frames)
    plain = finish(AseRelaxer(potential, RelaxSettings()), frames)
    assert isinstance(batched[1], StructureError)
    assert "NaN" in str(batched[1])
    shrunk, expected = batched[0], plain[0]
    assert isinstance(shrunk, RelaxResult)
    assert isinstance(expected, RelaxResult)
    assert (shrunk.status, shrunk.steps) == ("exploded", expected.steps)
    assert "NaN" in shrunk.reason
    assert not shrunk.met
    assert np.isfinite(shrunk.atoms.get_forces()).all()
    assert np.allclose(shrunk.atoms.positions, expected.atoms.positions, atol=1e-9)
    assert shrunk.energy == pytest.approx(expected.energy)


def test_memory_that_runs_out_loses_nothing() -> None:
    class Hungry(Failing):
        def check(self, graph: Graph) -> None:
            if graph.n_edges > 700:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    frames = [copper(scale=1 + 0.004 * k, seed=k) for k in range(6)]
    relaxer = BatchRelaxer(potential_of(Hungry(MorseConfig())), RelaxSettings(), 10**5)
    results = finish(relaxer, frames)
    plain = finish(BatchRelaxer(morse(), RelaxSettings(), 10**5), frames)
    assert relaxer.notes
    for key, result in results.items():
        expected = plain[key]
        assert isinstance(result, RelaxResult)
        assert isinstance(expected, RelaxResult)
        assert result.steps == expected.steps
        assert result.energy == pytest.approx(expected.energy, abs=1e-9)


def test_what_memory_allows_of_one_structure_is_kept_with_it() -> None:
    class Hungry(Failing):
        n_hops = 1

        def check(self, graph: Graph) -> None:
            if graph.n_edges > 1500:
                raise MemoryError

    structures = [(0, fcc111("Cu", (6, 6, 2), a=3.55, vacuum=6.0)), (1, copper())]
    structures[0][1].rattle(0.05, seed=1)
    settings, potential = RelaxSettings(steps=6), potential_of(Hungry(MorseConfig())).float()
    relaxer = BatchRelaxer(potential, settings, 10**5)
    whole, snapshot = {}, {}
    for turn, finished in enumerate(relaxer.run(structures)):
        whole.update(finished)
        if turn == 2:
            snapshot = copied(relaxer.snapshot())
    notes = list(relaxer.notes)
    assert "of one structure" in notes[-1]
    resumed = BatchRelaxer(potential, settings, 10**5)
    for run in (resumed.run(structures, snapshot), relaxer.run(structures)):
        again = {key: result for finished in run for key, result in finished}
        assert again.keys() == whole.keys()
        for key, result in again.items():
            expected = whole[key]
            assert isinstance(result, RelaxResult)
            assert isinstance(expected, RelaxResult)
            assert np.array_equal(result.atoms.positions, expected.atoms.positions)
            assert result.energy == expected.energy
    assert resumed.notes == [], "it knows what did not suffice"
    assert relaxer.notes == 2 * notes, "another run finds out for itself"


def test_held_atoms_stay_in_the_cell() -> None:
    atoms = copper(layers=3)
    atoms.set_constraint(FixAtoms([0, 5]))
    (result,) = finish(BatchRelaxer(morse(), RelaxSettings(), EDGES), [atoms]).values()
    assert isinstance(result, RelaxResult)
    assert result.status == "converged"
    assert np.abs(result.atoms.cell - atoms.cell).max() > 0.01
    before, after = (a.get_scaled_positions()[[0, 5]] for a in (atoms, result.atoms))
    assert np.allclose(before, after, atol=1e-12)


def test_many_from_any_source() -> None:
    def source() -> Iterator[Atoms]:
        yield from sheets()

    calculator = MLFF2DCalculator(morse(), device="cpu", dtype="float64")
    results = dict(relax_many(source(), calculator, max_edges=EDGES))
    for key, atoms in enumerate(sheets()):
        assert results[key].energy == pytest.approx(relax(atoms, calculator).energy, abs=1e-9)


def test_none_and_the_same_key_twice() -> None:
    relaxer = BatchRelaxer(morse(), RelaxSettings(), EDGES)
    assert list(relaxer.run([])) == []
    with pytest.raises(ValueError, match="key"):
        next(relaxer.run([(3, copper()), (3, copper())]))


def test_one_too_large_for_the_batch_moves_alone() -> None:
    frames = [fcc111("Cu", (4, 4, 2), a=3.55, vacuum=6.0), copper()]
    relaxer = BatchRelaxer(morse(), RelaxSettings(), max_edges=100)
    crowd = [relaxer.in_flight for _ in relaxer.run(list(enumerate(frames)))]
    assert max(crowd) == 1
