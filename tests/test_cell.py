"""Strain of cells: what each mode keeps, exact gradients, and which stress does work."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mlff2d import slab
from mlff2d.md.relaxation import cell as strain
from mlff2d.md.relaxation.settings import CELLS
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

MODES = sorted(CELLS)


def cells(seed: int, axis: int, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 3, 3) cells in any plane, the missing axis of each where it should be, perhaps zero."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        rows = np.zeros((3, 3))
        rows[:2, :2] = np.array([[3.0, 0.2], [-0.9, 4.0]]) + rng.uniform(-0.6, 0.6, (2, 2))
        if k != 1:
            rows[2] = [*rng.uniform(-3, 3, 2), 15.0]
        turned = rows @ Rotation.random(rng=rng).as_matrix().T if k else rows
        found.append(np.roll(turned, axis + 1, axis=0))
    pbc = np.arange(3) != axis
    return torch.tensor(np.array(found)), torch.tensor(np.array([pbc] * n))


def make(seed: int, axis: int, mode: str) -> tuple[torch.Tensor, ...]:
    cell, pbc = cells(seed, axis)
    axes = strain.plane_axes(cell, pbc)
    return cell, pbc, axes, strain.basis(cell, pbc, axes, mode)


any_cell = {"seed": st.integers(0, 10**6), "axis": st.integers(0, 2)}
any_q = {"q": st.tuples(*[st.floats(-0.7, 0.7)] * 3)}


@settings(max_examples=60, deadline=None)
@given(mode=st.sampled_from(MODES), **any_cell, **any_q)
def test_each_mode_keeps_what_it_promises(mode, seed, axis, q) -> None:
    cell, pbc, axes, basis = make(seed, axis, mode)
    deformation = strain.deformation(torch.tensor([q] * 3, dtype=torch.float64), basis, axes)
    after = cell @ deformation
    normal = torch.linalg.cross(axes[:, 0], axes[:, 1])
    assert torch.allclose((deformation @ normal[:, :, None])[:, :, 0], normal, atol=1e-13)
    assert torch.allclose((normal[:, None] @ deformation)[:, 0], normal, atol=1e-13)
    first, second = (strain.in_plane(c, pbc) for c in (cell, after))
    area = slab.batched_area(after, pbc) / slab.batched_area(cell, pbc)
    if mode in ("full", "isotropic", "area", "fixed"):
        assert torch.allclose(deformation, deformation.transpose(1, 2), atol=1e-13), "no rotation"
    if mode == "full":
        assert torch.allclose(area, torch.full_like(area, np.exp(q[0] + q[1])), rtol=1e-12)
    elif mode == "isotropic":
        scale = np.exp(q[0] / 2**0.5)
        assert torch.allclose(after[pbc], cell[pbc] * scale, atol=1e-12)
    elif mode == "area":
        assert torch.allclose(area, torch.ones_like(area), rtol=1e-12)
    elif mode == "fixed":
        assert torch.equal(after[pbc], cell[pbc])
    else:
        kept = 0 if mode == "a" else 1
        assert torch.allclose(first[kept], second[kept], atol=1e-12)
        assert torch.allclose(area, torch.full_like(area, np.exp(q[0])), rtol=1e-12)


@pytest.mark.parametrize(
    ("mode", "free"), [("full", 3), ("isotropic", 1), ("area", 2), ("a", 2), ("b", 2), ("fixed", 0)]
)
def test_bases_are_orthonormal_and_span_what_is_free(mode, free) -> None:
    basis = make(0, 2, mode)[3]
    overlap = torch.einsum("skij,slij->skl", basis, basis)
    expected = torch.diag(torch.tensor([1.0] * free + [0.0] * (3 - free), dtype=torch.float64))
    assert torch.allclose(overlap, expected.expand(3, 3, 3), atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(mode=st.sampled_from(MODES), **any_cell, **any_q)
def test_gradient_is_the_finite_difference(mode, seed, axis, q) -> None:
    """Of an energy that is no function of the area alone: a spring in every lattice direction."""
    cell, pbc, axes, basis = make(seed, axis, mode)
    lengths = torch.tensor([2.5, 3.5, 5.0], dtype=torch.float64)

    def springs(rows: torch.Tensor) -> torch.Tensor:
        first, second = strain.in_plane(rows, pbc)
        return torch.stack([first, second, first + second], dim=1)

    def energy(at: torch.Tensor) -> torch.Tensor:
        stretched = springs(cell @ strain.deformation(at, basis, axes))
        return ((stretched.norm(dim=2) - lengths) ** 2).sum(1)

    at = torch.tensor([q] * 3, dtype=torch.float64)
    vectors = springs(cell @ strain.deformation(at, basis, axes))
    size = vectors.norm(dim=2, keepdim=True)
    pull = 2 * (size - lengths[:, None]) * vectors / size
    virial = torch.einsum("spx,spy->sxy", vectors, pull)
    found = strain.gradient(at, basis, axes, virial)
    step = 1e-5
    for k in range(3):
        moved = torch.zeros(3, dtype=torch.float64)
        moved[k] = step
        numeric = (energy(at + moved) - energy(at - moved)) / (2 * step)
        assert torch.allclose(found[:, k], numeric, atol=1e-7 * float(virial.abs().max()) + 1e-8)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0.0, 1e-9, 1e-4, 0.05, 0.5, 1.5, 3.0]))
def test_exponential_and_its_derivative_are_those_of_scipy(seed, size) -> None:
    rng = np.random.default_rng(seed)
    symmetric = size * rng.normal(size=(2, 2))
    shear = size * np.outer(rng.normal(size=2), rng.normal(size=2))
    for g in (symmetric + symmetric.T, shear, size * np.eye(2)):
        e = rng.normal(size=(2, 2))
        value, slope = scipy.linalg.expm_frechet(g, e)
        g, e = torch.tensor(g)[None], torch.tensor(e)[None]
        assert np.allclose(strain._exponential(g)[0], value, rtol=1e-13, atol=1e-13 * value.max())
        found = strain._derivative(g, e)[0].numpy()
        assert np.allclose(found, slope, rtol=1e-12, atol=1e-13 * np.abs(slope).max())


@settings(max_examples=40, deadline=None)
@given(mode=st.sampled_from(MODES), **any_cell, **any_q)
def test_what_is_not_free_stress_does_no_work(mode, seed, axis, q) -> None:
    """At any strain: without the free part of its stress a cell has no gradient, else it has."""
    _, _, axes, basis = make(seed, axis, mode)
    rng = np.random.default_rng(seed)
    stress = torch.tensor(rng.normal(size=(3, 2, 2)))
    stress = stress + stress.transpose(1, 2)
    free = strain.free_stress(stress, basis)
    at = torch.tensor([q] * 3, dtype=torch.float64)

    def slope(of: torch.Tensor) -> torch.Tensor:
        return strain.gradient(at, basis, axes, axes.transpose(1, 2) @ of @ axes)

    assert torch.allclose(free, free.transpose(1, 2))
    assert torch.allclose(strain.free_stress(free, basis), free, atol=1e-12)
    assert slope(stress - free).abs().max() < 1e-12 * float(stress.abs().max()) + 1e-12
    assert torch.allclose(slope(stress), slope(free), atol=1e-11)
    if mode == "full":
        assert torch.allclose(free, stress, atol=1e-12)
    if mode == "fixed":
        assert not free.any()
    else:
        assert (slope(free).norm(dim=1) > 0.05 * free.flatten(1).norm(dim=1)).all()


@settings(max_examples=30, deadline=None)
@given(pressure=st.floats(-5, 5), **any_cell)
def test_a_pressure_adds_the_derivative_of_pressure_times_area(pressure, seed, axis) -> None:
    cell, pbc, axes, _ = make(seed, axis, "full")
    area = slab.batched_area(cell, pbc)
    found = strain.enthalpy_virial(torch.zeros_like(cell), area, axes, pressure)
    step = 1e-5
    for i in range(3):
        for j in range(3):
            areas = []
            for sign in (1, -1):
                small = torch.eye(3, dtype=torch.float64)
                small[i, j] += sign * step
                areas.append(slab.batched_area(cell @ small, pbc))
            numeric = pressure / EV_PER_ANGSTROM2_IN_N_PER_M * (areas[0] - areas[1]) / (2 * step)
            assert torch.allclose(found[:, i, j], numeric, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(**any_cell)
def test_axes_are_those_of_one_slab(seed, axis) -> None:
    cell, pbc = cells(seed, axis)
    found = strain.plane_axes(cell, pbc).numpy()
    for one, rows, periodic in zip(found, cell.numpy(), pbc.numpy(), strict=True):
        assert np.allclose(one, slab.plane_axes(rows, periodic), atol=1e-12)


def test_principal_is_the_largest_in_size() -> None:
    rng = np.random.default_rng(0)
    stress = rng.normal(size=(50, 2, 2))
    stress = stress + stress.transpose(0, 2, 1)
    expected = np.abs(np.linalg.eigvalsh(stress)).max(1)
    assert np.allclose(strain.principal(torch.tensor(stress)), expected)
