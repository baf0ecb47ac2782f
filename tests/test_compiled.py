"""Compiled code: the numbers of torch, or none at all."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import mx2

from mlff2d import MLFF2DCalculator
from mlff2d.atoms import to_graph
from mlff2d.compiled import is_same, use_compiled_code
from mlff2d.graph import Graph, collate
from mlff2d.md.evaluator import Evaluator
from mlff2d.md.parts import evaluate_in_parts
from mlff2d.models import REGISTRY, build_model
from mlff2d.nn.kernels import compiler, node, source, sums
from mlff2d.nn.tensor_product import NeighbourTensorProduct
from mlff2d.potential import Potential
from tests.potentials import ELEMENTS, SMALL, random_potential

COMPILED = ("mace", "nequip")
VARIANTS: dict[str, dict[str, object]] = {
    "nequip": {},
    "nequip, one vector of channels and more": {
        "hidden_irreps": "19x0e+8x1o+3x1e+9x2e",
        "n_layers": 4,
    },
    "nequip, without parity": {"hidden_irreps": "8x0e+3x1e", "parity": False, "l_max": 1},
    "nequip, l = 3": {"hidden_irreps": "5x0e+4x1o+3x3o", "l_max": 3},
    "nequip, as for many elements": {
        "neighbor_exponent": 1.0,
        "residual": 0.5,
        "norm": "rms",
        "self_connection_rank": 3,
        "n_layers": 3,
    },
    "nequip, as nequix": {
        "self_connection": "linear",
        "first_self_connection": False,
        "norm": "rms",
        "readout_hidden": (),
    },
    "nequip, as the original": {
        "self_connection": "embedding",
        "embedding_channels": 5,
        "hidden_irreps": "3x0e+2x0o+4x1o+3x1e",
        "n_layers": 6,
    },
    "mace": {},
}


def potential(variant: str, dtype: torch.dtype = torch.float64) -> Potential:
    """A random one with frozen weights."""
    torch.manual_seed(0)
    name = variant.split(",")[0]
    model = build_model(name, SMALL[name] | VARIANTS[variant])
    made = Potential(model, {z: -1.0 - z for z in ELEMENTS}, scale=1.7, zbl=True)
    return made.to(dtype).eval().requires_grad_(False)


def structures(cutoff: float = 4.5) -> Graph:
    """A slab, a lone atom and a molecule."""
    slab = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None) * (3, 2, 1)
    slab.rattle(0.1, seed=1)
    molecule = Atoms("CH2", [[0.0, 0.0, 0.0], [0.6, 0.6, 0.6], [-0.7, -0.6, 0.6]])
    return collate([to_graph(atoms, cutoff) for atoms in (slab, Atoms("Cu"), molecule)])


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty folder of compiled code."""
    monkeypatch.setenv("MLFF2D_CACHE", str(tmp_path / "cache"))
    compiler.load_library.cache_clear()
    yield tmp_path / "cache"
    compiler.load_library.cache_clear()


def numbers(of: Potential, graph: Graph) -> list[torch.Tensor]:
    found = of(graph, create_graph=False)
    return [found.energies, found.forces, found.virial]


def greatest_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Relative to the greatest number of each kind."""
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_numbers_of_torch(variant: str, dtype: torch.dtype) -> None:
    by_torch = potential(variant, dtype)
    by_c = deepcopy(by_torch)
    use_compiled_code(by_c, "yes")
    assert by_c.model.compiled is not None
    graph = structures()
    assert by_c.model.compiled.bind(graph, graph.edge_vectors().to(dtype)) is not None
    limit = 1e-12 if dtype == torch.float64 else 2e-5
    assert greatest_difference(numbers(by_c, graph), numbers(by_torch, graph)) < limit


@pytest.mark.parametrize("name", REGISTRY)
def test_every_model_is_compiled_or_says_that_it_is_not(name: str) -> None:
    wanted = random_potential(name).requires_grad_(False)
    has_code = name in (*COMPILED, "painn")
    if has_code:
        use_compiled_code(wanted, "yes")
        assert is_same(wanted)
    else:
        use_compiled_code(wanted)  # without a word
        with pytest.warns(UserWarning, match="has no sums that are compiled; mlff2d computes"):
            use_compiled_code(wanted, "yes")
    assert (wanted.model.compiled is not None) == has_code


def test_several_threads_share_the_edges(threads: None) -> None:
    by_c = potential("nequip")
    use_compiled_code(by_c, "yes")
    slab = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None) * (7, 6, 1)
    slab.rattle(0.1, seed=1)
    graph = to_graph(slab, 4.5)
    torch.set_num_threads(1)
    expected = numbers(by_c, graph)
    torch.set_num_threads(3)
    assert greatest_difference(numbers(by_c, graph), expected) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_second_derivatives_are_those_of_torch(dtype: torch.dtype) -> None:
    def curvature(of: Potential) -> torch.Tensor:
        graph = structures()
        pos = graph.pos.clone().requires_grad_(True)
        found = of(Graph(**{**graph.__dict__, "pos": pos}), create_graph=True)
        return torch.autograd.grad(found.forces[0, 0], pos)[0]

    by_torch = potential("nequip", dtype)
    by_c = deepcopy(by_torch)
    use_compiled_code(by_c, "yes")
    limit = 1e-12 if dtype == torch.float64 else 1e-4
    assert greatest_difference([curvature(by_c)], [curvature(by_torch)]) < limit


def test_forces_are_the_slope_of_the_energy_in_tables_too() -> None:
    by_c = potential("nequip", torch.float32)
    use_compiled_code(by_c, "yes")
    in_float64 = potential("nequip")
    use_compiled_code(in_float64, "yes")
    assert by_c.model.compiled is not None
    assert in_float64.model.compiled is not None
    assert by_c.model.compiled.tabulated
    assert not in_float64.model.compiled.tabulated, "tables are as exact as float32, not float64"
    graph = structures()
    step = torch.zeros_like(graph.pos)
    step[0, 0] = 5e-3
    low, high = (Graph(**{**graph.__dict__, "pos": graph.pos + s * step}) for s in (-1, 1))
    slope = (by_c(high).energy[0] - by_c(low).energy[0]) / 1e-2
    force = by_c(graph).forces[0, 0]
    assert force.double() == pytest.approx(-float(slope), rel=2e-3)


def test_edges_in_any_order_are_left_to_torch() -> None:
    by_torch = potential("nequip")
    by_c = deepcopy(by_torch)
    use_compiled_code(by_c, "yes")
    graph = structures()
    order = torch.randperm(graph.n_edges)
    mixed = Graph(
        **{
            **graph.__dict__,
            "edge_index": graph.edge_index[:, order],
            "edge_shift": graph.edge_shift[order],
        }
    )
    assert greatest_difference(numbers(by_c, mixed), numbers(by_torch, graph)) < 1e-12


@pytest.mark.parametrize("variant", COMPILED)
def test_nothing_is_read_that_is_not_there(variant: str) -> None:
    by_c = potential(variant, torch.float32)
    use_compiled_code(by_c, "yes")
    graph = structures()
    index = graph.edge_index.clone()
    index[1, 5] = 10**9
    with pytest.raises(IndexError, match="out of"):
        by_c(Graph(**{**graph.__dict__, "edge_index": index}))
    lost = graph.pos.clone()
    lost[0] = torch.nan
    found = by_c(Graph(**{**graph.__dict__, "pos": lost}))
    assert found.energy.isnan().tolist() == [True, False, False]
    assert found.forces[0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", COMPILED)
def test_edges_beyond_the_cutoff_count_for_nothing(variant: str, dtype: torch.dtype) -> None:
    by_c = potential(variant, dtype)
    use_compiled_code(by_c, "yes")
    far = structures(by_c.cutoff + 1.5)
    assert far.n_edges > structures().n_edges
    limit = 1e-12 if dtype == torch.float64 else 2e-5
    assert greatest_difference(numbers(by_c, far), numbers(by_c, structures())) < limit


def test_autocast_is_left_to_torch() -> None:
    by_torch = potential("nequip", torch.float32)
    by_torch.model.autocast = torch.bfloat16
    by_c = deepcopy(by_torch)
    use_compiled_code(by_c)
    graph = structures()
    assert greatest_difference(numbers(by_c, graph), numbers(by_torch, graph)) == 0.0


@pytest.mark.parametrize("variant", COMPILED)
def test_changed_or_trained_weights_are_left_to_torch(variant: str) -> None:
    by_c = potential(variant, torch.float32)
    use_compiled_code(by_c, "yes")
    graph = structures()
    with torch.no_grad():
        for weight in by_c.parameters():
            weight.mul_(1.1)
    by_torch = deepcopy(by_c)
    by_torch.model.compiled = None
    assert greatest_difference(numbers(by_c, graph), numbers(by_torch, graph)) == 0.0
    copied = deepcopy(by_c)  # which knows of no changes since
    assert greatest_difference(numbers(copied, graph), numbers(by_torch, graph)) == 0.0

    trained = potential(variant, torch.float32)
    use_compiled_code(trained, "yes")
    trained.requires_grad_(True)
    trained.model(graph, graph.edge_vectors().float()).sum().backward()
    assert all(p.grad is not None for p in trained.model.layers[0].radial.parameters())


def test_another_precision_is_left_to_torch() -> None:
    by_c = potential("nequip", torch.float32)
    use_compiled_code(by_c, "yes")
    by_torch = potential("nequip")
    assert (
        greatest_difference(numbers(by_c.double(), structures()), numbers(by_torch, structures()))
        < 1e-6
    )


@pytest.mark.parametrize("copy", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_calculators_are_compiled_too(
    copy: Callable[[MLFF2DCalculator], MLFF2DCalculator],
) -> None:
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=9.0)
    one = MLFF2DCalculator(potential("nequip"), compile="yes")
    energy = one.get_potential_energy(atoms)
    other = copy(one)
    other.reset()
    assert other.get_potential_energy(atoms) == energy
    graph = structures()
    assert other.potential.model.compiled.bind(graph, graph.edge_vectors().float()) is not None


def test_large_cells_in_parts() -> None:
    by_torch = potential("nequip")
    by_c = deepcopy(by_torch)
    use_compiled_code(by_c, "yes")
    graph = to_graph(mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None) * (9, 9, 1), 4.5)
    found, expected = (evaluate_in_parts(p, graph, 1500) for p in (by_c, by_torch))
    assert torch.allclose(found.energy, expected.energy, rtol=1e-12)
    assert torch.allclose(found.forces, expected.forces, atol=1e-11)
    assert torch.allclose(found.virial, expected.virial, atol=1e-10)


def test_evaluators_and_calculators_use_it_unless_told_not_to() -> None:
    made = potential("nequip")
    assert Evaluator(made, 1000).potential.model.compiled is not None
    assert Evaluator(made, 1000, compile="no").potential.model.compiled is None
    assert MLFF2DCalculator(made).potential.model.compiled is not None
    assert MLFF2DCalculator(made, compile="no").potential.model.compiled is None
    assert made.model.compiled is None, "theirs are copies"
    use_compiled_code(made)
    assert MLFF2DCalculator(made, compile="no").potential.model.compiled is None
    assert Evaluator(made, 1000, compile="no").potential.model.compiled is None
    with pytest.raises(ValueError, match="compile is 'auto', 'yes' or 'no', not 'maybe'"):
        MLFF2DCalculator(made, compile="maybe")


def test_without_a_compiler_one_sentence(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    made = potential("nequip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use_compiled_code(made)
    with pytest.warns(
        UserWarning, match=r"no C compiler \(gcc or clang\); mlff2d computes"
    ) as said:
        use_compiled_code(made, "yes")
    assert len(said) == 1
    assert made.model.compiled is None
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.warns(UserWarning, match="no C compiler 'no-such-compiler', which \\$CC names"):
        use_compiled_code(made, "yes")


def test_a_compiler_that_fails(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.warns(UserWarning, match=r"could not compile \(out of order\)"):
        use_compiled_code(potential("nequip"), "yes")
    assert not list(fresh.glob("*")), "nothing half done stays"


def test_too_many_channels_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_MOST", 20)
    by_c = potential("nequip")
    with pytest.warns(UserWarning, match=r"no compiled code for as many channels: 6x0e\+4x1o"):
        use_compiled_code(by_c, "yes")
    assert by_c.model.compiled is None


def test_other_numbers_are_refused(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(product: NeighbourTensorProduct, name: str, table: bool) -> str:
        return source.functions(product, name, table).replace("y1 = ", "y1 = (real)1.001 * ")

    monkeypatch.setattr(sums, "functions", wrong)
    made = potential("nequip")
    with pytest.warns(UserWarning, match="gave other numbers than torch on a test slab"):
        use_compiled_code(made)
    assert made.model.compiled is None


def test_it_is_compiled_once(fresh: Path) -> None:
    use_compiled_code(potential("nequip"), "yes")
    (library,) = fresh.glob("*.so")
    made = library.stat().st_mtime_ns
    compiler.load_library.cache_clear()
    other = potential("nequip")
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1)
    use_compiled_code(other, "yes")
    assert [path.stat().st_mtime_ns for path in fresh.glob("*.so")] == [made]


def test_several_may_compile_the_same_at_once(fresh: Path) -> None:
    text = "int three(void) { return 3; }"
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(compiler.load_library.__wrapped__, [text] * 3))
    assert [library.three() for library in found] == [3, 3, 3]
    assert len(list(fresh.glob("*"))) == 1


def test_where_nothing_can_be_kept(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFF2D_CACHE", str(tmp_path / "file"))
    assert compiler.load_library("int four(void) { return 4; }").four() == 4


def test_unpickled_where_there_is_no_compiler(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    by_c = potential("nequip")
    use_compiled_code(by_c, "yes")
    pickled = pickle.dumps(by_c)
    monkeypatch.setenv("MLFF2D_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    compiler.load_library.cache_clear()
    other = pickle.loads(pickled)
    with pytest.warns(UserWarning, match="computes without compiled code") as said:
        found = [numbers(other, structures()) for _ in range(2)]
    assert len(said) == 1
    assert greatest_difference(found[0], numbers(by_c, structures())) < 1e-12
