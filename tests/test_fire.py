"""FIRE in batches: step for step that of ASE, whoever else is there."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111

from mlff2d.checkpoint import load
from mlff2d.md.relaxation import fire, rows
from mlff2d.md.relaxation.rows import Rows
from mlff2d.md.relaxation.settings import CELLS, RelaxSettings
from tests.relaxing import apart, ase_way, batched_ways, sheets, strained_monolayers
from tests.shared import needs_data
from tests.standins import morse


@pytest.mark.parametrize("pressure", [0.0, 1.5])
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_follows_ase_step_by_step(cell: str, pressure: float) -> None:
    if pressure and cell in ("area", "fixed"):
        return
    settings = RelaxSettings(cell=cell, pressure=pressure)
    follows(sheets(), settings)


@pytest.mark.parametrize("cell", ["full", "isotropic", "area", "fixed"])
def test_follows_ase_where_symmetry_is_kept(cell: str) -> None:
    frames = [fcc111("Cu", size, a=3.5, vacuum=6.0) for size in ((1, 1, 2), (2, 1, 1), (2, 2, 3))]
    for atoms in frames[1:]:
        atoms.set_cell(atoms.cell.array * [1.05, 1, 1], scale_atoms=True)
    frames[2].positions[-4:, 2] += 0.1
    follows(frames, RelaxSettings(cell=cell, symmetry=True))


def follows(frames: list[Atoms], settings: RelaxSettings) -> None:
    potential = morse()
    ways = batched_ways(potential, frames, settings, n_steps=40)
    for atoms, way in zip(frames, ways, strict=True):
        assert apart(way, ase_way(potential, atoms, settings, n_steps=40)) < 1e-9
    moved = max(np.abs(way[-1][1] - way[0][1]).max() for way in ways)
    assert (moved > 1e-5) == (settings.cell != "fixed")


@needs_data
@pytest.mark.slow
def test_follows_ase_on_twenty_materials() -> None:
    potential = load(None, torch.device("cpu"), torch.float64)
    frames, settings = strained_monolayers(20), RelaxSettings()
    for atoms, way in zip(frames, batched_ways(potential, frames, settings, 25), strict=True):
        assert apart(way, ase_way(potential, atoms, settings, 25)) < 1e-6


def quadratic(position: torch.Tensor, stiffness: torch.Tensor) -> torch.Tensor:
    return -stiffness * position


def test_structures_come_and_go() -> None:
    """One that is joined by another, and left by it, moves as if nothing had been."""
    generator = torch.Generator().manual_seed(0)
    one, two = Rows.of(torch.tensor([4])), Rows.of(torch.tensor([2]))
    both = Rows.of(torch.tensor([4, 2]))
    k1, k2 = torch.rand(5, 3, generator=generator) * 9, torch.rand(3, 3, generator=generator) * 5
    x1, x2 = torch.randn(5, 3, generator=generator), torch.randn(3, 3, generator=generator)
    k1, k2, x1, x2 = (t.double() for t in (k1, k2, x1, x2))
    alone, state = x1.clone(), fire.init(one, x1)
    for _ in range(30):
        state, moved = fire.step(state, one, alone, quadratic(alone, k1))
        alone = alone + moved

    x, state = x1, fire.init(one, x1)
    for step in range(30):
        if step == 10:
            x, k = torch.cat([x, x2]), torch.cat([k1, k2])
            state = rows.join([state, fire.init(two, x2)])
        if step == 20:
            kept = torch.tensor([True, False])
            x = x[kept[both.owner]]
            state = rows.select(state, kept[both.owner], kept)
        layout, stiffness = (both, k) if 10 <= step < 20 else (one, k1)
        state, moved = fire.step(state, layout, x, quadratic(x, stiffness))
        x = x + moved
    assert torch.equal(x, alone)


def test_at_rest_nothing_moves() -> None:
    layout = Rows.of(torch.tensor([2]))
    zero = torch.zeros(3, 3, dtype=torch.float64)
    state = fire.init(layout, zero)
    for _ in range(3):
        state, moved = fire.step(state, layout, zero, zero)
        assert not moved.any()
        assert state.dt.isfinite().all()
