"""Compiled sums that training goes through: the same numbers, and gradients, as torch's."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from e3nn import o3
from torch import Tensor

from mlff2d import checkpoint
from mlff2d.atoms import to_graph
from mlff2d.compiled import train_compiled
from mlff2d.models import build_model
from mlff2d.models.base import EnergyModel
from mlff2d.nn.kernels import trainable
from mlff2d.nn.kernels.compiler import CompilerError
from mlff2d.nn.kernels.trainable import TrainableSum, compile_product
from mlff2d.nn.tensor_product import NeighbourTensorProduct
from mlff2d.potential import Potential
from mlff2d.training.loop import train
from mlff2d.training.sections import Config
from tests.structures import mos2
from tests.training_helpers import small_config, write_monolayers

IRREPS = ["3x0e+1x1o", "5x0e+4x1o", "17x0e+9x1o+3x2e", "2x0e+2x0o+2x1e+2x1o"]


def product_of(irreps: str, l_max: int = 2, parity: bool = True) -> NeighbourTensorProduct:
    given = o3.Irreps(irreps)
    return NeighbourTensorProduct(given, l_max, {ir for _, ir in given}, parity)


def arguments(product: NeighbourTensorProduct, dtype: torch.dtype, n_edges: int = 40) -> Any:
    """Features, harmonics and weights of random edges, with their index."""
    torch.manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    x = [random(7, ir.dim, mul) for mul, ir in product.irreps_in]
    receiver = torch.randint(0, 6, (n_edges,)).sort()[0]  # the last atom has no neighbours
    edge_index = torch.stack([receiver, torch.randint(0, 7, (n_edges,))])
    vectors = random(n_edges, (product.l_max + 1) ** 2 - 1)
    return x, vectors, random(n_edges, product.n_weights), edge_index


def derivatives(how: Any, x: list[Tensor], vectors: Tensor, weights: Tensor, index: Tensor) -> Any:
    """Sums, their gradients, and the gradients of these."""
    harmonics = torch.cat([torch.ones_like(weights[:, :1]), vectors], dim=1)
    out = how(x, harmonics, weights, index)
    inputs = [vectors, weights, *x]
    by = torch.autograd.grad(sum((t**3).sum() for t in out), inputs, create_graph=True)
    loss = sum((t**2).sum() for t in (*out, *by))
    return [*out, *by, *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("irreps", IRREPS)
def test_sums_and_two_derivatives_are_those_of_torch(
    irreps: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "_EDGES_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        product = product_of(irreps)
        given = arguments(product, torch.float64)
        found = derivatives(TrainableSum(product, torch.float64), *given)
        expected = derivatives(product, *given)
    finally:
        torch.set_num_threads(before)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-11, atol=1e-11)


def test_derivatives_are_those_of_finite_differences() -> None:
    product = product_of("2x0e+2x1o", 1)
    compiled = TrainableSum(product, torch.float64)
    x, vectors, weights, index = arguments(product, torch.float64, n_edges=4)

    def flat(vectors: Tensor, weights: Tensor, *x: Tensor) -> Tensor:
        harmonics = torch.cat([torch.ones_like(weights[:, :1]), vectors], dim=1)
        return torch.cat([t.flatten() for t in compiled(list(x), harmonics, weights, index)])  # type: ignore[union-attr]

    assert torch.autograd.gradcheck(flat, (vectors, weights, *x))
    assert torch.autograd.gradgradcheck(flat, (vectors, weights, *x))


def test_one_missing_gradient_does_not_lose_the_others() -> None:
    """The loss of forces alone asks for one of the gradients only."""
    product = product_of("5x0e+4x1o")
    x, vectors, weights, index = arguments(product, torch.float64)
    results = []
    for how in (TrainableSum(product, torch.float64), product):
        harmonics = torch.cat([torch.ones_like(weights[:, :1]), vectors], dim=1)
        energy = sum((t**2).sum() for t in how(x, harmonics, weights, index))  # type: ignore[operator]
        (force,) = torch.autograd.grad(energy, [vectors], create_graph=True)
        results.append(torch.autograd.grad((force**2).sum(), [vectors, weights, *x]))
    for f, e in zip(*results, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-11, atol=1e-11)


def test_no_third_derivative_is_a_word_not_a_wrong_number() -> None:
    product = product_of("3x0e+2x1o")
    x, vectors, weights, index = arguments(product, torch.float64)
    harmonics = torch.cat([torch.ones_like(weights[:, :1]), vectors], dim=1)
    out = TrainableSum(product, torch.float64)(x, harmonics, weights, index)
    assert out is not None
    (by,) = torch.autograd.grad((out[0] ** 3).sum(), [weights], create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivatives"):
        torch.autograd.grad((by**2).sum(), [weights], create_graph=True)


def test_what_it_is_not_made_for_is_left_to_torch() -> None:
    product = product_of("3x0e+2x1o")
    compiled = TrainableSum(product, torch.float32)
    x, vectors, weights, index = arguments(product, torch.float32)
    harmonics = torch.cat([torch.ones_like(weights[:, :1]), vectors], dim=1)
    assert compiled(x, harmonics, weights, index) is not None
    assert compiled(x, harmonics, weights, index.flip(1)) is None  # receivers descend
    assert compiled([t.double() for t in x], harmonics, weights, index) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(x, harmonics, weights, index) is None
    product.compiled = compiled
    out = product(x, harmonics, weights, index.flip(1))
    assert [t.shape for t in out] == [(7, ir.dim, mul) for mul, ir in product.irreps_out]


def test_copies_and_pickles_compute_too() -> None:
    product = product_of("3x0e+2x1o")
    compile_product(product, torch.float64)
    given = arguments(product, torch.float64)
    expected = derivatives(product, *given)
    for other in (copy.deepcopy(product), pickle.loads(pickle.dumps(product))):
        assert other.compiled is not None
        for f, e in zip(derivatives(other, *given), expected, strict=True):
            assert torch.equal(f, e)


@pytest.mark.parametrize(
    ("right", "wrong"), [("gx_0 += w", "gx_0 -= w"), ("double unit", "int no")]
)
def test_code_that_errs_is_refused(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = trainable.library

    def broken(*given: Any) -> str:
        text = library(*given)
        assert right in text
        return text.replace(right, wrong)

    monkeypatch.setattr(trainable, "library", broken)
    product = product_of("3x0e+2x1o")
    with pytest.raises(CompilerError):
        compile_product(product, torch.float64)
    assert product.compiled is None


def potential(name: str, **settings: Any) -> Potential:
    torch.manual_seed(0)
    model = build_model(name, {"elements": (16, 42), "cutoff": 4.5, **settings}).double()
    return Potential(model, {16: 0.0, 42: 0.0})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nequip", {"hidden_irreps": "8x0e+4x1o+2x2e", "l_max": 2}),
        ("nequip", {"hidden_irreps": "8x0e+4x1o+4x1e", "l_max": 1, "n_layers": 4}),
        ("mace", {"hidden_irreps": "6x0e+6x1o", "l_max": 2}),
    ],
)
def test_gradients_of_a_loss_of_forces_are_those_of_torch(
    name: str, settings: dict[str, Any]
) -> None:
    own = potential(name, **settings)
    graph = to_graph(mos2(), own.cutoff)
    gradients = []
    for compiled in (False, True):
        if compiled:
            assert train_compiled(own.model, torch.float64)
            sums = [m for m in own.modules() if isinstance(m, NeighbourTensorProduct)]
            assert sums
            assert all(m.compiled is not None for m in sums)
        found = own(graph, create_graph=True)
        loss = found.energy.sum() + found.forces.square().sum() + found.virial.square().sum()
        gradients.append(torch.autograd.grad(loss, list(own.parameters())))
    for f, e in zip(*gradients, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-9 * float(e.abs().max()))


def test_models_without_such_sums_stay_as_they_are() -> None:
    model: EnergyModel = potential("schnet").model
    assert not train_compiled(model, torch.float64)


def test_a_run_learns_the_same_with_it(tmp_path: Path) -> None:
    data = write_monolayers(tmp_path / "data.extxyz")
    weights = []
    for choice in (False, True):
        run_dir = tmp_path / str(choice)
        config = small_config(run_dir, data, epochs=2, dtype="float64", compile=choice).resolved()
        config["model"] = {"name": "nequip", "hidden_irreps": "4x0e+4x1o", "l_max": 1}
        train(Config.model_validate(config))
        best = checkpoint.load(run_dir / "best.pt", dtype=torch.float64)
        weights.append(dict(best.named_parameters()))
    for name, e in weights[0].items():
        torch.testing.assert_close(weights[1][name], e, rtol=1e-6, atol=1e-9)
