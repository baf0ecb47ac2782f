"""L-BFGS in batches: step for step that of ASE, whoever else is there."""

import pytest
import torch
from ase.build import graphene

from mlff2d.checkpoint import load
from mlff2d.md.relaxation import lbfgs
from mlff2d.md.relaxation.batch import BatchRelaxer
from mlff2d.md.relaxation.one_by_one import AseRelaxer
from mlff2d.md.relaxation.result import RelaxResult
from mlff2d.md.relaxation.rows import Rows
from mlff2d.md.relaxation.settings import RelaxSettings
from tests.relaxing import apart, ase_way, batched_ways, sheets, strained_monolayers
from tests.shared import needs_data
from tests.standins import morse


@pytest.mark.parametrize("cell", ["full", "a", "fixed"])
def test_follows_ase_step_by_step(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lbfgs, "MEMORY", 5)  # so that it forgets within the steps taken
    settings = RelaxSettings(cell=cell, optimizer="lbfgs")
    frames, potential = sheets(), morse()
    # ASE's divides by zero where nothing is left to move, as in a cell of one atom.
    frames = [atoms for atoms in frames if len(atoms) > 1]
    for atoms, way in zip(frames, batched_ways(potential, frames, settings, 9), strict=True):
        assert apart(way, ase_way(potential, atoms, settings, 9)) < 1e-7


@needs_data
@pytest.mark.slow
def test_follows_ase_on_twenty_materials() -> None:
    potential = load(None, torch.device("cpu"), torch.float64)
    frames, settings = strained_monolayers(20), RelaxSettings(optimizer="lbfgs")
    for atoms, way in zip(frames, batched_ways(potential, frames, settings, 15), strict=True):
        assert apart(way, ase_way(potential, atoms, settings, 15)) < 1e-6


def test_finds_the_bottom_of_a_bowl() -> None:
    """Of two bowls of their own shapes and dimensions, in a few steps."""
    generator = torch.Generator().manual_seed(0)
    layout = Rows.of(torch.tensor([3, 5]))
    x = torch.rand(10, 3, generator=generator, dtype=torch.float64) * 0.1
    stiffness = 50 + 40 * torch.rand(10, 3, generator=generator, dtype=torch.float64)
    state = lbfgs.init(layout, x)
    for _ in range(20):
        state, moved = lbfgs.step(state, layout, x, -stiffness * x)
        x = x + moved
    assert x.abs().max() < 1e-9


def test_leaves_the_top_of_a_hill() -> None:
    """Of 10 eV/Å² (x⁴ - 2x²) / 4, beside which it began: there the energy curves down."""
    layout = Rows.of(torch.tensor([1]))
    x = torch.zeros(2, 3, dtype=torch.float64)
    x[0, 2] = 0.02
    state = lbfgs.init(layout, x)
    for _ in range(40):
        before, force = x[0, 2].item(), 10 * (x - x**3)
        state, moved = lbfgs.step(state, layout, x, force)
        assert (moved * force).sum() >= 0, f"uphill from {before}"
        x = x + moved
    assert x[0, 2] == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("relaxer", [BatchRelaxer, AseRelaxer])
def test_flat_germanene_buckles(relaxer: type[BatchRelaxer | AseRelaxer]) -> None:
    flat = graphene(formula="Ge2", a=4.05, vacuum=8.0)
    flat.rattle(0.1, seed=1)  # by less it comes to rest flat: the model has a hollow there
    potential = load(None, torch.device("cpu"), torch.float32)
    way = relaxer(potential, RelaxSettings(optimizer="lbfgs")).run([(0, flat)])
    (result,) = (result for finished in way for _, result in finished)
    assert isinstance(result, RelaxResult)
    assert result.met
    assert result.thickness > 0.5


def test_no_row_moves_too_far_and_rest_is_rest() -> None:
    layout = Rows.of(torch.tensor([2, 1]))
    force = torch.zeros(5, 3, dtype=torch.float64)
    force[1] = torch.tensor([300.0, 400.0, 0.0])
    state, moved = lbfgs.step(lbfgs.init(layout, force), layout, torch.zeros_like(force), force)
    assert moved[1].tolist() == pytest.approx([0.6 * lbfgs.MAX_STEP, 0.8 * lbfgs.MAX_STEP, 0.0])
    assert not moved[[0, 2, 3, 4]].any()
    state, moved = lbfgs.step(state, layout, torch.zeros_like(force), 0 * force)
    assert moved.isfinite().all()
