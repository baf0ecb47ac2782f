"""MACE by compiled code: the numbers of torch and of mace-torch, or none at all."""

from __future__ import annotations

import gzip
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from ase.build import mx2

from mlff2d.atoms import to_graph
from mlff2d.compiled import use_compiled_code
from mlff2d.graph import Graph
from mlff2d.importers.mace import convert
from mlff2d.md.parts import evaluate_in_parts
from mlff2d.models import build_model
from mlff2d.models.mace import MACE
from mlff2d.nn.kernels import products
from mlff2d.nn.symmetric_contraction import SymmetricContraction
from mlff2d.potential import Potential
from tests.parity import reference
from tests.potentials import ELEMENTS, SMALL
from tests.test_compiled import greatest_difference, numbers, structures
from tests.test_import_mace import deviations
from tests.test_mace import of_mace_torch

DENSITY = {"first_interaction": "density", "interaction": "density_residual"}
VARIANTS: dict[str, dict[str, object]] = {
    "vectors": {},
    "scalars, a panel of channels and more": {"hidden_irreps": "19x0e", "n_layers": 3},
    "tensors": {"hidden_irreps": "16x0e+16x1o+16x2e", "l_max": 3},
    "four factors": {"hidden_irreps": "5x0e", "correlation": 4},
    "pairs": {"correlation": 1},
    "no harmonics": {"hidden_irreps": "33x0e", "l_max": 0, "correlation": 5},
    "one layer": {"hidden_irreps": "8x0e", "n_layers": 1},
    "plain": {"first_interaction": "plain", "interaction": "plain"},
    "densities": DENSITY,
    "transformed distances": {"distance_transform": "agnesi", "pair_repulsion": True, **DENSITY},
}
DTYPES = [torch.float64, torch.float32]


def potential(variant: str, dtype: torch.dtype = torch.float64) -> Potential:
    """A random one with frozen weights."""
    torch.manual_seed(0)
    model = build_model("mace", SMALL["mace"] | VARIANTS[variant])
    made = Potential(model, {z: -1.0 - z for z in ELEMENTS}, scale=1.7, zbl=True)
    return made.to(dtype).eval().requires_grad_(False)


def compiled(by_torch: Potential) -> Potential:
    """A copy that uses compiled code."""
    by_c = deepcopy(by_torch)
    use_compiled_code(by_c, "yes")
    assert uses_compiled_code(by_c, structures())
    return by_c


def uses_compiled_code(of: Potential, graph: Graph) -> bool:
    made = of.model.compiled
    return made is not None and made.bind(graph, graph.edge_vectors().to(of.dtype)) is not None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_numbers_of_torch(variant: str, dtype: torch.dtype) -> None:
    by_torch = potential(variant, dtype)
    by_c = compiled(by_torch)
    limit = 1e-12 if dtype == torch.float64 else 2e-5
    graph = structures()
    assert greatest_difference(numbers(by_c, graph), numbers(by_torch, graph)) < limit


@pytest.mark.parametrize("variant", ["scalars", "vectors", "four", "plain", "density-residual"])
def test_the_numbers_of_mace_torch(variant: str) -> None:
    model, ref, scale, references = of_mace_torch(variant)
    model.requires_grad_(False)
    model.compile_sums()
    reference.compare(model, ref, scale=scale, shift=references, in_float32=False)
    graph = to_graph(ref.structures[0], model.cutoff)
    assert uses_compiled_code(Potential(model.double(), references), graph)


def test_the_numbers_of_an_imported_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.model"
    path.write_bytes(gzip.decompress((reference.FOLDER / "mace-tiny.model.gz").read_bytes()))
    ref = reference.read("mace-file")
    for dtype, limit in ((torch.float32, 1e-4), (torch.float64, 1e-6)):
        by_c = convert(path).potential.to(dtype).requires_grad_(False)
        use_compiled_code(by_c, "yes")
        graph = to_graph(ref.structures[0], by_c.cutoff).to(dtype=dtype)
        assert uses_compiled_code(by_c, graph)
        assert max(deviations(by_c, ref)) < limit


@pytest.mark.parametrize("variant", ["tensors", "plain", "transformed distances"])
def test_several_threads_share_atoms_and_edges(variant: str, threads: None) -> None:
    by_c = compiled(potential(variant))
    # So large that all threads are at work at the same time.
    slab = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None) * (20, 20, 1)
    slab.symbols[::5] = "Cu"
    slab.rattle(0.1, seed=1)
    graph = to_graph(slab, 4.5)
    torch.set_num_threads(1)
    expected = numbers(by_c, graph)
    torch.set_num_threads(3)
    for _ in range(3):
        assert greatest_difference(numbers(by_c, graph), expected) < 1e-13


def test_large_cells_in_parts() -> None:
    by_torch = potential("densities")
    by_c = compiled(by_torch)
    graph = to_graph(mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=None) * (9, 9, 1), 4.5)
    found, expected = (evaluate_in_parts(p, graph, 1500) for p in (by_c, by_torch))
    assert torch.allclose(found.energy, expected.energy, rtol=1e-12)
    assert torch.allclose(found.forces, expected.forces, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", ["vectors", "densities", "transformed distances"])
def test_second_derivatives_are_those_of_torch(variant: str) -> None:
    def curvature(of: Potential) -> torch.Tensor:
        graph = structures()
        pos = graph.pos.clone().requires_grad_(True)
        found = of(Graph(**{**graph.__dict__, "pos": pos}), create_graph=True)
        return torch.autograd.grad(found.forces[0, 0], pos)[0]

    by_torch = potential(variant)
    by_c = compiled(by_torch)
    assert greatest_difference([curvature(by_c)], [curvature(by_torch)]) < 1e-11


def test_only_what_is_smooth_and_single_is_in_tables() -> None:
    for variant, dtype, expected in (
        ("vectors", torch.float32, True),
        ("densities", torch.float32, True),
        ("vectors", torch.float64, False),
        ("transformed distances", torch.float32, False),
    ):
        made = compiled(potential(variant, dtype)).model.compiled
        assert made is not None
        assert made.tabulated == expected


def test_polynomials_are_what_the_contraction_computes() -> None:
    torch.manual_seed(0)
    model = build_model("mace", SMALL["mace"]).double()
    assert isinstance(model, MACE)
    contraction = model.layers[0].contraction
    assert isinstance(contraction, SymmetricContraction)
    x = [torch.randn(7, dim, 6, dtype=torch.float64) for dim in (1, 3, 5)]
    element = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    polynomials = contraction.polynomials()
    factors = [torch.ones(7, 6, dtype=torch.float64), *torch.cat(x, dim=1).unbind(1)]
    for left, right in polynomials.stages.tolist():
        factors.append(factors[left] * factors[right])
    rows, begin = [], 0
    parts = zip(polynomials.ends.tolist(), contraction.coefficients(), strict=True)
    for end, coefficients in parts:
        products_of = [factors[a] * factors[b] for a, b in polynomials.monomials[begin:end]]
        rows.append((torch.stack(products_of, dim=1) * coefficients[element]).sum(1))
        begin = end
    expected = torch.cat(contraction(x, element), dim=1)
    assert torch.allclose(torch.stack(rows, dim=1), expected, rtol=1e-11, atol=1e-11)


def test_too_many_polynomials_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_MAX_BYTES", 2**15)
    by_c = potential("vectors")
    with pytest.warns(UserWarning, match="108 monomials for 5 elements would take"):
        use_compiled_code(by_c, "yes")
    assert by_c.model.compiled is None
