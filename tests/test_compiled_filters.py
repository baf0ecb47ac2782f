"""PaiNN and SchNet by compiled code: the numbers of torch, or none at all."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from copy import deepcopy
from types import ModuleType

import pytest
import torch
from ase import Atoms
from ase.build import bulk, mx2
from torch import Tensor

from mlff2d.atoms import to_graph
from mlff2d.compiled import is_same, use_compiled_code
from mlff2d.graph import Graph, collate
from mlff2d.md.parts import evaluate_in_parts
from mlff2d.models import build_model
from mlff2d.models.schnet import SchNet
from mlff2d.nn.kernels import filters, painn, schnet
from mlff2d.nn.kernels.compiler import CompilerError
from mlff2d.nn.kernels.filters import CompiledFilters
from mlff2d.nn.kernels.spline import radial_spline
from mlff2d.potential import Potential
from tests.potentials import ELEMENTS, SMALL
from tests.test_compiled import greatest_difference, numbers, structures

MODELS = ("painn", "schnet")
VARIANTS: dict[str, dict[str, object]] = {
    "painn": {},
    "painn, as schnetpack": {"envelope": "cosine", "epsilon": 1e-8, "channels": 16},
    "painn, one vector of channels and more": {"channels": 19, "n_blocks": 4},
    "painn, many channels": {"channels": 130, "n_radial": 20},
    "painn, one block": {"n_blocks": 1},
    "painn, two blocks": {"n_blocks": 2, "channels": 33},
    "painn, shared blocks": {"shared_blocks": True},
    "painn, shared filters": {"shared_filters": True},
    "painn, all shared": {"shared_blocks": True, "shared_filters": True, "n_blocks": 4},
    "painn, gaussians": {"radial": "gaussian", "n_radial": 11},
    "painn, gaussians, cosine": {"radial": "gaussian", "envelope": "cosine", "n_radial": 25},
    "painn, one radial function": {"n_radial": 1},
    "painn, one channel": {"channels": 1},
    "schnet": {},
    "schnet, as schnetpack": {"envelope": "cosine", "channels": 16},
    "schnet, more filters": {"channels": 19, "n_filters": 37, "n_blocks": 4},
    "schnet, fewer filters": {"channels": 40, "n_filters": 5},
    "schnet, one block": {"n_blocks": 1},
    "schnet, shared blocks": {"shared_blocks": True},
    "schnet, bessel functions": {"radial": "bessel", "n_radial": 12},
    "schnet, bessel functions, cosine": {"radial": "bessel", "envelope": "cosine"},
    "schnet, one channel": {"channels": 1},
}
DTYPES = [torch.float64, torch.float32]


def potential(variant: str, dtype: torch.dtype = torch.float64, **settings: object) -> Potential:
    """A random one with frozen weights."""
    torch.manual_seed(0)
    name = variant.split(",")[0]
    model = build_model(name, SMALL[name] | VARIANTS[variant] | settings)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # which are zero at the start
            torch.nn.init.normal_(weight, std=0.3)
    made = Potential(model, {z: -1.0 - z for z in ELEMENTS}, scale=1.7)
    return made.to(dtype).eval().requires_grad_(False)


def compiled(by_torch: Potential) -> Potential:
    """A copy that uses compiled code."""
    by_c = deepcopy(by_torch)
    if isinstance(by_c.model, SchNet):  # without tables too, where it is not used
        by_c.model.compiled = by_c.model._compiled()
        assert is_same(by_c)
    use_compiled_code(by_c, "yes")
    assert isinstance(by_c.model.compiled, CompiledFilters)
    return by_c


def is_used(by_c: Potential, graph: Graph) -> bool:
    """Whether compiled code takes a graph."""
    assert by_c.model.compiled is not None
    return by_c.model.compiled.bind(graph, graph.edge_vectors().to(by_c.dtype)) is not None


def assert_same(
    by_c: Potential, by_torch: Potential, graph: Graph, kinds: Sequence[int] = (0, 1, 2)
) -> None:
    """That compiled code gives the energies, forces and virial of torch, to rounding."""
    assert is_used(by_c, graph)
    found, expected = numbers(by_c, graph), numbers(by_torch, graph)
    exact = numbers(deepcopy(by_torch).double(), graph)
    for k in kinds:
        error = (found[k] - exact[k]).abs().max()
        by_rounding = 10 * (expected[k] - exact[k]).abs().max()
        part = 1e-12 if by_c.dtype == torch.float64 else 1e-6
        assert error <= by_rounding + part * exact[k].abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_numbers_of_torch(variant: str, dtype: torch.dtype) -> None:
    by_torch = potential(variant, dtype)
    by_c = compiled(by_torch)
    assert by_c.model.compiled is not None
    assert by_c.model.compiled.tabulated == (dtype == torch.float32)
    assert_same(by_c, by_torch, structures())


@pytest.mark.parametrize("variant", ["painn", "painn, shared filters", "schnet"])
def test_float32_without_tables(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "radial_spline", lambda function, cutoff: None)
    by_torch = potential(variant, torch.float32)
    by_c = compiled(by_torch)
    assert by_c.model.compiled is not None
    assert not by_c.model.compiled.tabulated
    assert_same(by_c, by_torch, structures())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_edges_beyond_the_cutoff_count_for_nothing(name: str, dtype: torch.dtype) -> None:
    by_torch = potential(name, dtype)
    assert_same(compiled(by_torch), by_torch, structures(cutoff=6.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_hidden_layers_far_from_zero(dtype: torch.dtype) -> None:
    for name, blocks in (("painn", ("messages", "updates")), ("schnet", ("blocks",))):
        by_torch = potential(name, dtype)
        for layer in [layer for part in blocks for layer in getattr(by_torch.model, part)]:
            layer.hidden.bias.copy_(torch.linspace(-900.0, 900.0, 8))
            layer.out.weight.mul_(1e-3)
        assert_same(compiled(by_torch), by_torch, structures())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_small_cells_and_lone_atoms(name: str, dtype: torch.dtype) -> None:
    by_torch = potential(name, dtype)
    by_c = compiled(by_torch)
    lone = to_graph(Atoms("Cu"), 4.5)
    found = by_c(lone)
    assert is_used(by_c, lone)
    assert torch.allclose(found.energy, by_torch(lone).energy, rtol=1e-6)
    assert not found.forces.any()
    copper = bulk("Cu")  # an atom among its own images
    copper.set_cell(copper.cell.array * [1.0, 1.1, 0.95], scale_atoms=True)
    chain = Atoms("CS", [[0.0, 0.0, 0.0], [0.9, 0.8, 0.3]], cell=[2.3, 0, 0], pbc=[1, 0, 0])
    assert_same(by_c, by_torch, to_graph(chain, 4.5))
    assert_same(by_c, by_torch, to_graph(copper, 4.5), kinds=(0, 2))
    assert by_c(to_graph(copper, 4.5)).forces.abs().max() < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_any_number_of_atoms(name: str, dtype: torch.dtype) -> None:
    by_torch = potential(name, dtype)
    by_c = compiled(by_torch)
    slab = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None) * (3, 2, 1)
    slab.rattle(0.1, seed=1)
    for n in range(2, 14):
        assert_same(by_c, by_torch, to_graph(slab[:n], 4.5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_is_its_parts(name: str, dtype: torch.dtype) -> None:
    by_c = compiled(potential(name, dtype))
    slab = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None)
    slab.rattle(0.1, seed=1)
    graphs = [to_graph(slab * (n, 1, 1), 4.5) for n in (1, 2, 3)]
    found = by_c(collate(graphs))
    for k, graph in enumerate(graphs):
        assert torch.allclose(found.energy[k], by_c(graph).energy[0], rtol=1e-6)
        assert torch.allclose(found.virial[k], by_c(graph).virial[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_several_threads_share_the_work(name: str, dtype: torch.dtype, threads: None) -> None:
    by_torch = potential(name, dtype)
    by_c = compiled(by_torch)
    slab = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None) * (9, 6, 1)
    slab.rattle(0.1, seed=1)
    graph = to_graph(slab, 4.5)
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        assert_same(by_c, by_torch, graph)


@pytest.mark.parametrize("name", MODELS)
def test_forces_are_the_slope_of_the_energy(name: str) -> None:
    by_c = compiled(potential(name))
    graph = structures()
    forces = by_c(graph).forces
    for atom, axis in ((0, 0), (5, 1), (-1, 2)):
        step = torch.zeros_like(graph.pos)
        step[atom, axis] = 1e-4
        low, high = (Graph(**{**graph.__dict__, "pos": graph.pos + s * step}) for s in (-1, 1))
        slope = (by_c(high).energy.sum() - by_c(low).energy.sum()) / 2e-4
        assert float(forces[atom, axis]) == pytest.approx(-float(slope), rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_forces_are_the_slope_of_the_energy_in_tables_too(name: str) -> None:
    by_c = compiled(potential(name, torch.float32))
    graph = structures()
    step = torch.zeros_like(graph.pos)
    step[0, 0] = 5e-3
    low, high = (Graph(**{**graph.__dict__, "pos": graph.pos + s * step}) for s in (-1, 1))
    slope = (by_c(high).energy[0] - by_c(low).energy[0]) / 1e-2
    forces = by_c(graph).forces
    assert float(forces[0, 0]) == pytest.approx(-float(slope), abs=2e-3 * float(forces.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_second_derivatives_are_those_of_torch(name: str, dtype: torch.dtype) -> None:
    def curvature(of: Potential) -> Tensor:
        graph = structures()
        pos = graph.pos.clone().requires_grad_(True)
        found = of(Graph(**{**graph.__dict__, "pos": pos}), create_graph=True)
        return torch.autograd.grad(found.forces[0, 0], pos)[0]

    by_torch = potential(name, dtype)
    limit = 1e-12 if dtype == torch.float64 else 1e-4
    found, expected = curvature(compiled(by_torch)), curvature(by_torch)
    assert greatest_difference([found], [expected]) < limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_read_that_is_not_there(name: str, dtype: torch.dtype) -> None:
    by_c = compiled(potential(name, dtype))
    graph = structures()
    index = graph.edge_index.clone()
    index[1, 5] = 10**9
    with pytest.raises(IndexError, match="out of"):
        by_c(Graph(**{**graph.__dict__, "edge_index": index}))
    unknown = graph.z.clone()
    unknown[3] = 79
    with pytest.raises(IndexError, match="out of"):
        by_c.model(Graph(**{**graph.__dict__, "z": unknown}), graph.edge_vectors().to(dtype))
    lost = graph.pos.clone()
    lost[0] = torch.nan
    found = by_c(Graph(**{**graph.__dict__, "pos": lost}))
    assert found.energy.isnan().tolist() == [True, False, False]
    assert found.forces[0].isnan().all()


@pytest.mark.parametrize("name", MODELS)
def test_changed_trained_or_mixed_up_ones_are_left_to_torch(name: str) -> None:
    by_c = compiled(potential(name, torch.float32))
    graph = structures()
    assert not is_used(deepcopy(by_c).double(), graph)
    order = torch.randperm(graph.n_edges)
    mixed = Graph(
        **{
            **graph.__dict__,
            "edge_index": graph.edge_index[:, order],
            "edge_shift": graph.edge_shift[order],
        }
    )
    assert not is_used(by_c, mixed)
    assert greatest_difference(numbers(by_c, mixed), numbers(by_c, graph)) < 2e-5
    with torch.no_grad():
        by_c.model.embedding.weight.mul_(1.1)
    assert not is_used(by_c, graph)
    by_torch = deepcopy(by_c)
    by_torch.model.compiled = None
    assert greatest_difference(numbers(by_c, graph), numbers(by_torch, graph)) == 0.0

    trained = compiled(potential(name)).requires_grad_(True)
    trained.model(graph, graph.edge_vectors()).sum().backward()
    assert all(p.grad is not None for p in trained.model.parameters())


@pytest.mark.parametrize("copy", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", MODELS)
def test_copies_are_compiled_too(name: str, copy: Callable[[Potential], Potential]) -> None:
    one = compiled(potential(name, torch.float32))
    graph = structures()
    expected = numbers(one, graph)
    other = copy(one)
    assert is_used(other, graph)
    del one
    assert greatest_difference(numbers(other, graph), expected) == 0.0


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_any_layout(name: str) -> None:
    by_torch = potential(name, channels=16)
    graph = structures()
    edge_vec = graph.edge_vectors().requires_grad_(True)
    by = torch.randn(16, graph.n_atoms, dtype=torch.float64).T
    found, expected = (
        torch.autograd.grad(of.model.features(graph, edge_vec), edge_vec, by)[0]
        for of in (compiled(by_torch), by_torch)
    )
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_large_cells_in_parts(name: str) -> None:
    by_torch = potential(name)
    by_c = compiled(by_torch)
    graph = to_graph(mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None) * (8, 8, 1), 4.5)
    found, expected = (evaluate_in_parts(p, graph, 2500) for p in (by_c, by_torch))
    assert torch.allclose(found.energy, expected.energy, rtol=1e-12)
    assert torch.allclose(found.forces, expected.forces, atol=1e-11)


def test_splines_are_as_exact_as_float32() -> None:
    model = potential("painn", n_radial=20).model
    functions = filters.FilterFunctions(model.radial)
    matrix = torch.randn(24, 21, dtype=torch.float64, generator=torch.manual_seed(0))
    own = filters.Filters(functions, matrix)
    spline = own.spline(4.5)
    assert spline is not None
    r = torch.linspace(0.35, 4.499, 3001, dtype=torch.float64)

    def exact(r: Tensor) -> Tensor:
        return functions(r) @ matrix.T

    expected, expected_slope = torch.func.jvp(exact, (r,), (torch.ones_like(r),))
    value, slope = spline(r)
    assert (value - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (slope - expected_slope).abs().max() < 1e-6 * expected_slope.abs().max()
    # No jump from cell to cell, of slopes neither, and nothing is left at the cutoff.
    knots = torch.arange(1.0, spline.rows.shape[0] - 6.0, dtype=torch.float64) / spline.scale
    for low, high in zip(spline(knots * (1 - 1e-12)), spline(knots * (1 + 1e-12)), strict=True):
        assert (low - high).abs().max() < 1e-8
    assert spline(torch.tensor([4.5], dtype=torch.float64))[0].abs().max() < 1e-6
    change = (spline(r + 1e-5)[0] - spline(r - 1e-5)[0]) / 2e-5
    assert (change - slope).abs().max() < 1e-5


def test_no_spline_of_what_is_too_steep() -> None:
    assert radial_spline(lambda _: lambda r: torch.sin(1e4 * r).unsqueeze(1), 5.0) is None


def test_what_there_is_no_code_for() -> None:
    too_many = potential("painn", torch.float32, channels=1025, n_blocks=1)
    with pytest.raises(CompilerError, match="no compiled code for more than 1024 channels"):
        too_many.model.compile_sums()
    tabulated = potential("schnet", torch.float32)
    use_compiled_code(tabulated, "yes")
    assert tabulated.model.compiled is not None
    exact = potential("schnet")
    with pytest.raises(CompilerError, match="not tabulated, as they are in float32, has no sums"):
        exact.model.compile_sums()
    half = potential("painn", torch.float32).to(torch.bfloat16)
    with pytest.raises(CompilerError, match=r"no compiled code for torch\.bfloat16"):
        half.model.compile_sums()


@pytest.mark.parametrize(
    ("module", "right", "wrong"),
    [
        (painn, "gate[c] + gate[C + c]", "gate[c] - gate[C + c]"),
        (schnet, "x[i * C + c] += w[OUT_BIAS][c]", "x[i * C + c] -= w[OUT_BIAS][c]"),
    ],
)
def test_a_wrong_term_is_noticed(
    module: ModuleType, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert right in module.SOURCE
    monkeypatch.setattr(module, "SOURCE", module.SOURCE.replace(right, wrong))
    made = potential(module.__name__.split(".")[-1], torch.float32)
    with pytest.warns(UserWarning, match="gave other numbers than torch on a test slab"):
        use_compiled_code(made)
    assert made.model.compiled is None
    assert is_same(made)
