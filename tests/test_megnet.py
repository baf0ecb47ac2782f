"""MEGNet against matgl's, its state and readouts, and its settings."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlff2d.atoms import to_graph
from mlff2d.errors import StructureError
from mlff2d.graph import Graph, collate
from mlff2d.models import build_model
from mlff2d.models.base import EnergyModel
from mlff2d.models.megnet import DenseLayers, MEGNet, MEGNetConfig
from mlff2d.nn.filters import shifted_softplus
from mlff2d.nn.set2set import LSTMCell, Set2Set
from tests.parity import reference
from tests.potentials import ELEMENTS, SMALL
from tests.structures import mos2, random_crystal

SET2SET = {"readout": "set2set", "set2set_turns": 2}


def small(**settings: Any) -> MEGNet:
    torch.manual_seed(0)
    model = build_model("megnet", {**SMALL["megnet"], **settings}).double()
    assert isinstance(model, MEGNet)
    return model


def energies(model: EnergyModel, graph: Graph) -> Tensor:
    with torch.no_grad():
        return model(graph, graph.edge_vectors())


def crystal(seed: int = 3) -> Atoms:
    return random_crystal(np.random.default_rng(seed), 5, (True, True, True), [6, 16, 42])


class InState(EnergyModel):
    """A model whose structures are all in one state."""

    def __init__(self, model: MEGNet, state: Sequence[float]) -> None:
        super().__init__()
        self.model, self.cutoff = model, model.cutoff
        self.values = torch.tensor([state], dtype=torch.float64)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        return self.model.features(self._in_state(graph), edge_vec)

    def forward(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        return self.model(self._in_state(graph), edge_vec)

    def _in_state(self, graph: Graph) -> Graph:
        return replace(graph, state=self.values.to(graph.pos.dtype))


def renamed(weights: dict[str, np.ndarray], has_state: bool) -> dict[str, Tensor]:
    """Weights of matgl's MEGNet by our names."""
    result: dict[str, Tensor] = {}
    words = {"node": "atom", "edge": "edge", "state": "state"}
    for name, value in weights.items():
        if name == "bond_expansion.rbf.centers":
            continue
        name = name.replace("embedding.layer_node_embedding", "embedding")
        name = name.replace("output_proj", "readout")
        name = re.sub(r"layers\.(\d+)", lambda m: f"layers.{int(m[1]) // 2}", name)
        name = re.sub(r"(node|edge|state)_encoder", lambda m: f"{words[m[1]]}_encoder", name)
        name = re.sub(r"conv\.(node|edge|state)_func", lambda m: f"{words[m[1]]}_update", name)
        name = re.sub(r"(node|edge|state)_func", lambda m: f"{words[m[1]]}_dense", name)
        name = re.sub(r"(node|edge)_s2s\.lstm\.", lambda m: f"read_{words[m[1]]}s.cells.", name)
        name = re.sub(r"cells\.(weight|bias)_([ih])h_l(\d)", r"cells.\3.\2.\1", name)
        name = re.sub(r"(cells\.\d)\.i\.", r"\1.input.", name)
        name = re.sub(r"(cells\.\d)\.h\.weight", r"\1.hidden.weight", name)
        name = re.sub(r"(cells\.\d)\.h\.bias", r"\1.input.bias", name)
        # The LSTM there has two biases, of which only the sum is felt.
        result[name] = result.get(name, 0.0) + torch.from_numpy(value)
    if not has_state:
        encoder = {k: result.pop(k) for k in list(result) if k.startswith("state_encoder.")}
        first, second = encoder["state_encoder.layers.0.bias"], "state_encoder.layers.1."
        hidden = encoder[second + "weight"] @ shifted_softplus(first) + encoder[second + "bias"]
        result["first_state"] = shifted_softplus(hidden)
    return result


@pytest.mark.parametrize("name", ["megnet", "megnet-no-state"])
def test_equal_to_matgl(name: str) -> None:
    stored = reference.read(f"matgl-{name}")
    theirs, has_state = stored.settings, name == "megnet"
    config = MEGNetConfig(
        elements=ELEMENTS,
        cutoff=theirs["cutoff"],
        state=("pressure", "temperature") if has_state else (),
        n_gaussians=theirs["dim_edge_embedding"],
        gamma=0.5,
        embedding=theirs["dim_node_embedding"],
        input_sizes=theirs["hidden_layer_sizes_input"],
        block_sizes=theirs["hidden_layer_sizes_conv"],
        n_blocks=theirs["nblocks"],
        readout="set2set",
        readout_sizes=theirs["hidden_layer_sizes_output"],
        set2set_turns=theirs["niters_set2set"],
        set2set_layers=theirs.get("nlayers_set2set", 1),
        smooth=False,
    )
    model = MEGNet(config).double()
    model.load_state_dict(renamed(stored.weights, has_state))
    reference.compare(InState(model, theirs["state"]) if has_state else model, stored)


def written_out(model: MEGNet, graph: Graph) -> Tensor:
    """(N,) energies of one structure by the equations, with means over joined features."""
    i, j = graph.edge_index
    r = graph.edge_vectors().norm(dim=1)
    c = model.config.block_sizes[-1]
    w = model.envelope(r / model.cutoff)[:, None]
    v = model.atom_encoder(model.embedding(torch.searchsorted(torch.tensor(ELEMENTS), graph.z)))
    grid = torch.linspace(0.0, model.cutoff + 1.0, model.config.n_gaussians, dtype=torch.float64)
    e = model.edge_encoder(torch.exp(-model.config.gamma * (r[:, None] - grid) ** 2))
    u = model.first_state
    for block in model.blocks:
        v0, e0, u0 = block.atom_dense(v), block.edge_dense(e), block.state_dense(u)
        e1 = block.edge_update(torch.cat([v0[i], v0[j], e0, u0.expand(len(r), c)], 1))
        around = torch.stack(
            [(w * e1)[i == k].sum(0) / (w[i == k].sum() + 1) for k in range(graph.n_atoms)]
        )
        v1 = block.atom_update(torch.cat([v0, around, u0.expand(graph.n_atoms, c)], 1))
        over = (w * e1).sum(0) / (w.sum() + graph.n_atoms)
        u = u + block.state_update(torch.cat([u0, over, v1.mean(0)]))
        v, e = v + v1, e + e1
    return model.readout(torch.cat([v, u.expand(graph.n_atoms, c)], 1)).squeeze(1)


def test_model_against_its_equations_written_out() -> None:
    model = small()
    torch.nn.init.normal_(model.first_state)
    graph = to_graph(crystal(), model.cutoff)
    with torch.no_grad():
        assert torch.allclose(energies(model, graph), written_out(model, graph), atol=1e-13)


@pytest.mark.parametrize("settings", [{}, SET2SET], ids=["atoms", "set2set"])
def test_state_is_felt_by_its_own_structure_alone(settings: dict[str, Any]) -> None:
    model = small(state=("pressure", "temperature"), **settings)
    assert model.state == ("pressure", "temperature")
    graphs, results = [], []
    for k, atoms in enumerate([crystal(), crystal(), mos2()]):
        atoms.info |= {"temperature": 0.3, "pressure": float(k)}
        graphs.append(to_graph(atoms, model.cutoff, model.state))
        results.append(energies(model, graphs[-1]))
    assert (results[0] - results[1]).abs().max() > 1e-5
    assert torch.allclose(energies(model, collate(graphs)), torch.cat(results), atol=1e-12)
    with pytest.raises(StructureError, match="pressure"):
        to_graph(crystal(), model.cutoff, model.state)


def test_an_atom_far_away_is_felt_through_the_state() -> None:
    model = small()
    near = molecule("CH3SH")
    far = near + Atoms("Mo", [(50.0, 0, 0)])
    found = energies(model, to_graph(far, model.cutoff))[:-1]
    assert (found - energies(model, to_graph(near, model.cutoff))).abs().max() > 1e-6


@pytest.mark.parametrize("smooth", [True, False])
def test_set2set_reads_a_number_of_the_structure(smooth: bool) -> None:
    model = small(smooth=smooth, **SET2SET)
    atoms = crystal()
    found = energies(model, to_graph(atoms, model.cutoff))
    assert torch.allclose(found, found[0], atol=1e-14)
    twice = energies(model, to_graph(atoms * (2, 1, 1), model.cutoff))
    assert torch.allclose(twice, found[0], atol=1e-12)
    longer = energies(model, to_graph(atoms, model.cutoff + 1.0))
    assert torch.allclose(longer, found, atol=1e-12)
    structures = [atoms, Atoms("Cu"), bulk("Cu"), mos2()]
    graphs = [to_graph(a, model.cutoff) for a in structures]
    expected = torch.cat([energies(model, graph) for graph in graphs])
    assert torch.allclose(energies(model, collate(graphs)), expected, atol=1e-12)


def force_on_last(model: MEGNet) -> Callable[[float], Tensor]:
    """(3,) force on an atom as a function of its distance from the middle one of two others."""

    def force(distance: float) -> Tensor:
        atoms = Atoms("HCS", [(0, 1.1, 0), (0, 0, 0), (distance, 0, 0)])
        graph = to_graph(atoms, model.cutoff)
        graph.pos.requires_grad_(True)
        energy = model(graph, graph.edge_vectors()).sum()
        return torch.autograd.grad(energy, graph.pos)[0][2]

    return force


@pytest.mark.parametrize("settings", [{}, SET2SET], ids=["atoms", "set2set"])
def test_forces_end_smoothly_unless_asked_otherwise(settings: dict[str, Any]) -> None:
    cutoff = 4.5
    smooth, sharp = force_on_last(small(**settings)), force_on_last(small(smooth=False, **settings))
    biggest = max(float(smooth(d).abs().max()) for d in (2.0, 2.5, 3.0))
    assert float(smooth(cutoff - 1e-3).abs().max()) < 1e-4 * biggest
    assert float(sharp(cutoff - 1e-3).abs().max()) > 1e-2 * biggest


def test_second_derivatives_of_set2set() -> None:
    model = small(**SET2SET)
    graph = collate([to_graph(mos2(), model.cutoff), to_graph(Atoms("C"), model.cutoff)])
    edge_vec = graph.edge_vectors().requires_grad_(True)
    energy = model(graph, edge_vec).sum()
    (gradient,) = torch.autograd.grad(energy, edge_vec, create_graph=True)
    (gradient.square().sum() + energy.square()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_lstm_cell_against_torch(n_layers: int, n_turns: int, seed: int) -> None:
    torch.manual_seed(seed)
    theirs, ours = torch.nn.LSTMCell(5, 3).double(), LSTMCell(5, 3).double()
    with torch.no_grad():
        ours.input.weight.copy_(theirs.weight_ih)
        ours.input.bias.copy_(theirs.bias_ih + theirs.bias_hh)
        ours.hidden.weight.copy_(theirs.weight_hh)
    x, h, c = torch.randn(2, 5).double(), torch.randn(2, 3).double(), torch.randn(2, 3).double()
    for found, expected in zip(ours(x, h, c), theirs(x, (h, c)), strict=True):
        assert torch.allclose(found, expected, atol=1e-14)
    read = Set2Set(3, n_turns, n_layers).double()
    assert read(x[:, :3], torch.tensor([1, 1]), h[:, :1].exp(), c[:, :1].exp()).shape == (2, 6)


def test_set2set_is_bounded_and_may_find_nothing() -> None:
    torch.manual_seed(0)
    read = Set2Set(4, 2, 1).double()
    x = 1e4 * torch.randn(6, 4).double()
    index, one, none = torch.tensor([0, 0, 0, 2, 2, 2]), torch.ones(6, 1), torch.zeros(3, 1)
    found = read(x, index, one.double(), none.double())
    assert found.isfinite().all()
    assert (found[1, 4:] == 0).all()
    assert (found[0, 4:].abs() <= x[:3].abs().amax(0)).all()
    alone = read(x, torch.arange(6), one.double(), torch.zeros(6, 1).double())
    assert torch.allclose(alone[:, 4:], x)
    # A member of no weight is not there, and weights matter in proportion where nothing else is.
    some = torch.tensor([1.0, 1, 0, 1, 1, 1]).double()[:, None]
    without = read(x[some[:, 0] > 0], index[some[:, 0] > 0], one[1:].double(), none.double())
    assert torch.allclose(read(x, index, some, none.double()), without)
    assert torch.allclose(read(x, index, 3 * some, none.double()), without)
    x = x / 1e4
    nothing = torch.full((3, 1), 1e6).double()
    assert read(x, index, some, nothing)[:, 4:].abs().max() < 1e-3


def test_dense_layers_end_with_or_without_activation() -> None:
    torch.manual_seed(0)
    on, off = DenseLayers([3, 2], True), DenseLayers([3, 2], False)
    off.load_state_dict(on.state_dict())
    x = torch.randn(4, 3)
    assert torch.allclose(on(x), shifted_softplus(off(x)))


def test_settings_from_yaml_are_tuples() -> None:
    config = MEGNetConfig(state=["pressure"], input_sizes=[8, 4], block_sizes=[4])  # type: ignore[arg-type]
    assert (config.state, config.input_sizes, config.block_sizes) == (("pressure",), (8, 4), (4,))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"gamma": 0.0}, "gamma must be a positive number"),
        ({"n_gaussians": 1}, "n_gaussians must be a whole number of at least 2"),
        ({"embedding": 0}, "embedding"),
        ({"n_blocks": 0}, "n_blocks"),
        ({"state": "temperature"}, r"state must be names .* such as \('temperature',\)"),
        ({"state": (1,)}, "state must be names"),
        ({"state": None}, "state must be names"),
        ({"state": 300.0}, "state must be names"),
        ({"state": ("a", "b", "a")}, r"names an entry twice; use \('a', 'b'\)"),
        ({"input_sizes": (64, 16)}, "let input_sizes end in 32"),
        ({"input_sizes": ()}, "input_sizes must have at least one"),
        ({"block_sizes": (0,)}, "block_sizes must be positive sizes"),
        ({"readout": "set2sets"}, "Did you mean 'set2set'"),
        ({"set2set_turns": 0}, "set2set_turns"),
        ({"set2set_layers": 0}, "set2set_layers"),
        ({"smooth": 1}, "smooth must be true or false"),
        ({"cutoff": float("nan")}, "cutoff"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MEGNetConfig(**settings)
