"""ALIGNN: equal to its authors' program, its line graph and how it ends at the cutoffs."""

from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation
from torch import Tensor

from mlff2d.atoms import to_graph
from mlff2d.graph import Graph, collate
from mlff2d.models import build_model
from mlff2d.models.alignn import ALIGNN, ALIGNNConfig
from mlff2d.nn.lines import line_graph
from tests.parity import reference
from tests.structures import mos2, random_crystal

ELEMENTS = (1, 6, 16, 29, 42)
CONVOLUTION = {
    "receiver_gate": "dst_gate",
    "neighbour_gate": "src_gate",
    "edge_gate": "edge_gate",
    "receiver": "src_update",
    "neighbour": "dst_update",
    "node_norm": "bn_nodes",
    "edge_norm": "bn_edges",
}
"""Ours and the program's names. There the neighbour is the source and the receiver the target of an
edge, but for the updates, whose names are those of the other end."""


def translated(weights: dict[str, np.ndarray], n_alignn: int, n_gcn: int) -> dict[str, Tensor]:
    """The program's weights by our names."""
    found = {
        # An element is one of five there: a column of the layer for each.
        "atom_embedding.0.map.weight": weights["atom_embedding.layer.0.weight"].T
        + weights["atom_embedding.layer.0.bias"],
        "readout.weight": weights["fc.weight"],
        "readout.bias": weights["fc.bias"],
    }
    for kind in ("weight", "bias"):
        found[f"atom_embedding.1.{kind}"] = weights[f"atom_embedding.layer.1.{kind}"]
        for ours, theirs in (("bond", "edge"), ("angle", "angle")):
            for layer, part in product((1, 2), (0, 1)):
                name = f"{theirs}_embedding.{layer}.layer.{part}.{kind}"
                found[f"{ours}_embedding.{layer}.{part}.{kind}"] = weights[name]
    convolutions = {f"gcn_layers.{k}": f"gcn_layers.{k}" for k in range(n_gcn)}
    for k in range(n_alignn):
        convolutions[f"alignn_layers.{k}.atoms"] = f"alignn_layers.{k}.node_update"
        convolutions[f"alignn_layers.{k}.bonds"] = f"alignn_layers.{k}.edge_update"
    # The program computes edges after the last layer too, and reads them nowhere.
    last = (f"gcn_layers.{n_gcn - 1}", f"alignn_layers.{n_alignn - 1}.bonds")
    for (ours, theirs), (part, name) in product(convolutions.items(), CONVOLUTION.items()):
        if not (ours in last and part == "edge_norm"):
            for kind in ("weight", "bias"):
                found[f"{ours}.{part}.{kind}"] = weights[f"{theirs}.{name}.{kind}"]
    return {name: torch.from_numpy(value) for name, value in found.items()}


@pytest.mark.parametrize("name", ["alignn-atomwise", "alignn-atomwise-three-layers"])
def test_equal_to_its_authors_program(name: str) -> None:
    expected = reference.read(name)
    theirs = expected.settings
    model = build_model(
        "alignn",
        {
            "elements": reference.ELEMENTS,
            "cutoff": 8.0,
            "angle_cutoff": theirs["three_body_cutoff"],
            "n_radial": theirs["edge_input_features"],
            "n_angular": theirs["triplet_input_features"],
            "embedding": theirs["embedding_features"],
            "channels": theirs["hidden_features"],
            "alignn_layers": theirs["alignn_layers"],
            "gcn_layers": theirs["gcn_layers"],
            "atom_features": "learnt",
            "smooth": False,
        },
    ).double()
    weights = translated(expected.weights, theirs["alignn_layers"], theirs["gcn_layers"])
    model.load_state_dict(weights, strict=True)
    reference.compare(model, expected)


def lines_by_loops(graph: Graph, cutoff: float) -> dict[tuple[int, int], float]:
    """The cosine for every bond v -> w and bond u -> v, by their rows among the edges."""
    vectors = graph.edge_vectors().numpy()
    receivers, neighbours = graph.edge_index.numpy()
    near = [e for e in range(graph.n_edges) if np.linalg.norm(vectors[e]) < cutoff]
    found = {}
    for told, tells in product(near, near):
        if neighbours[told] == receivers[tells]:
            to_w, to_u = -vectors[told], vectors[tells]
            lengths = np.linalg.norm(to_w) * np.linalg.norm(to_u)
            found[told, tells] = to_w @ to_u / lengths
    return found


def two_structures() -> Graph:
    """A molecule and a slab in one batch."""
    return collate([to_graph(atoms, 5.0) for atoms in (chain(), Atoms("S"), mos2())])


def chain() -> Atoms:
    """A straight chain, whose angles are 0 or pi."""
    return Atoms("CSCS", [(0, 0, 1.5 * k) for k in range(4)])


@pytest.mark.parametrize(
    "graph",
    [
        two_structures(),
        to_graph(bulk("Cu"), 5.0),
        to_graph(random_crystal(np.random.default_rng(1), 3, (True, True, False), [6]), 5.0),
        to_graph(Atoms("C"), 5.0),
        to_graph(Atoms("CS", [(0, 0, 0), (0, 0, 4.0)]), 5.0),
    ],
    ids=["batch", "one atom per cell", "small cell", "lone atom", "no angle"],
)
def test_line_graph_against_loops(graph: Graph) -> None:
    expected = lines_by_loops(graph, 3.2)
    vectors = graph.edge_vectors()
    found = line_graph(vectors, vectors.norm(dim=1), graph.edge_index, graph.n_atoms, 3.2)
    pairs = list(zip(found.receivers.tolist(), found.neighbours.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert dict(zip(pairs, found.cosines.tolist(), strict=True)) == pytest.approx(expected)
    assert pairs == sorted(pairs)


def random_model(**settings: object) -> ALIGNN:
    torch.manual_seed(1)
    given = {"angle_cutoff": 3.5, "channels": 12, "embedding": 12, "n_radial": 20} | settings
    return ALIGNN(ALIGNNConfig(ELEMENTS, **given)).double()  # type: ignore[arg-type]


def energy_and_forces(model: ALIGNN, atoms: Atoms) -> tuple[float, Tensor]:
    graph = to_graph(atoms, model.cutoff)
    graph.pos.requires_grad_(True)
    energy = model(graph, graph.edge_vectors()).sum()
    return float(energy.detach()), -torch.autograd.grad(energy, graph.pos)[0]


def bent(angle: float) -> Atoms:
    """H-S-H with bonds of 1.4 Å."""
    a = np.radians(angle)
    return Atoms("SHH", [(0, 0, 0), (1.4, 0, 0), (1.4 * np.cos(a), 1.4 * np.sin(a), 0)])


def test_feels_angles_where_no_distance_tells() -> None:
    # The hydrogens are further from each other than the cutoff.
    model = random_model(cutoff=2.1, angle_cutoff=2.1)
    assert to_graph(bent(100), 2.1).n_edges == 4
    narrow, wide = [energy_and_forces(model, bent(angle))[0] for angle in (100, 150)]
    assert abs(narrow - wide) > 1e-4
    beyond = random_model(cutoff=2.1, angle_cutoff=1.3)
    narrow, wide = [energy_and_forces(beyond, bent(angle))[0] for angle in (100, 150)]
    assert narrow == pytest.approx(wide, abs=1e-12)


NEAR = (1.1, 0.3, 0.0)


@pytest.mark.parametrize("others", [(), (NEAR,)], ids=["the only edge", "one of several"])
@pytest.mark.parametrize("cutoff", [3.5, 5.0])
def test_forces_and_their_slopes_are_continuous_at_both_cutoffs(
    others: tuple[tuple[float, float, float], ...], cutoff: float
) -> None:
    def force(model: ALIGNN, r: float) -> float:
        atoms = Atoms("S" + "H" * len(others) + "Mo", [(0, 0, 0), *others, (-r, 0, 0)])
        return float(energy_and_forces(model, atoms)[1][-1, 0])

    model, h = random_model(), 1e-3
    below, above = [force(model, cutoff + side * h) for side in (-1, 1)]
    slope_below, slope_above = [
        (force(model, cutoff + side * 3 * h) - force(model, cutoff + side * h)) / (2 * h * side)
        for side in (-1, 1)
    ]
    # Of a force on the way there, and its slope.
    scale = max(abs(force(model, r)) for r in np.linspace(2.0, 5.0, 31))
    assert scale > 1e-3
    assert abs(above - below) < 5 * h * scale
    assert abs(slope_above - slope_below) < 0.2 * scale


@pytest.mark.parametrize("cutoff", [3.5, 5.0])
def test_the_original_jumps_at_the_cutoffs(cutoff: float) -> None:
    model = random_model(smooth=False)
    inside, outside = [
        energy_and_forces(model, Atoms("SHMo", [(0, 0, 0), NEAR, (-r, 0, 0)]))[0]
        for r in (cutoff - 1e-6, cutoff + 1e-6)
    ]
    assert abs(inside - outside) > 1e-3


def hessian(model: ALIGNN, atoms: Atoms) -> Tensor:
    """(3N, 3N) second derivatives of the energy."""
    graph = to_graph(atoms, model.cutoff)
    i, j = graph.edge_index

    def energy(pos: Tensor) -> Tensor:
        return model(graph, pos[j] - pos[i]).sum()

    found = torch.autograd.functional.hessian(energy, graph.pos)
    return found.reshape(graph.pos.numel(), -1)


@pytest.mark.parametrize("bend", [0.0, 1e-8])
@pytest.mark.parametrize("end", [-1.6, 3.0], ids=["straight", "folded"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_second_derivatives_at_straight_and_folded_angles(
    bend: float, end: float, seed: int
) -> None:
    # Turned, so that rounding brings some cosines beyond 1.
    rotation = Rotation.random(rng=seed).as_matrix()
    sideways = rotation[:, 1]
    atoms = Atoms("CSH", [(0, 0, 0), (0, 0, 1.4), (0, bend, end)])
    atoms.positions = atoms.positions @ rotation.T
    model, h = random_model(), 1e-4
    found = hessian(model, atoms)
    moved = []
    for side in (1, -1):
        copy = atoms.copy()
        copy.positions[2] += side * h * sideways
        moved.append(-energy_and_forces(model, copy)[1].flatten())
    expected = (moved[0] - moved[1]) / (2 * h)
    along = found[:, 6:] @ torch.from_numpy(sideways)
    assert torch.allclose(along, expected, atol=1e-6 * float(found.abs().max()))


def test_second_derivatives_where_a_norm_meets_no_variance() -> None:
    model = random_model()
    with torch.no_grad():
        for layer in (model.bond_embedding[1], model.angle_embedding[1]):
            layer[0].weight.zero_()
            layer[0].bias.zero_()
        for convolution in (model.gcn_layers[0], model.alignn_layers[0].bonds):
            for part in convolution.children():
                if isinstance(part, torch.nn.Linear):
                    part.weight.zero_()
                    part.bias.fill_(0.3)
    graph = to_graph(mos2(), model.cutoff)
    vectors = graph.edge_vectors().requires_grad_(True)
    (slope,) = torch.autograd.grad(model(graph, vectors).sum(), vectors, create_graph=True)
    slope.square().sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"angle_cutoff": 5.5}, "angle_cutoff .* use 5.0"),
        ({"angle_cutoff": 0.0}, "angle_cutoff"),
        ({"cutoff": float("nan")}, "cutoff"),
        ({"n_radial": 1}, "n_radial"),
        ({"n_angular": 1}, "n_angular"),
        ({"channels": 1}, "channels must be a whole number of at least 2"),
        ({"embedding": 1}, "embedding"),
        ({"alignn_layers": 0}, "alignn_layers"),
        ({"gcn_layers": 0}, "gcn_layers"),
        ({"gcn_layers": 1.5}, "gcn_layers"),
        ({"atom_features": "cgcnn"}, "Did you mean 'cgcnn92'"),
        ({"elements": (6, 104)}, "up to 103, not 104; use 'learnt'"),
        ({"smooth": 1}, "smooth"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ALIGNNConfig(**settings)  # type: ignore[arg-type]
