"""CGCNN against the paper's equations, one neighbour after another, and its 92 features."""

from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import chemical_symbols, covalent_radii
from torch import Tensor

from mlff2d.atoms import to_graph
from mlff2d.models.cgcnn import CGCNN, CGCNNConfig, softplus
from mlff2d.nn.atom_features import (
    AtomEmbedding,
    atom_features,
    block,
    group,
    period,
    valence_electrons,
)
from mlff2d.nn.element_data import ELEMENT_DATA
from tests.structures import mos2, random_crystal

ELEMENTS = (1, 6, 16, 29, 42)


def random_model(**settings: object) -> CGCNN:
    torch.manual_seed(1)
    given = {"cutoff": 3.7, "channels": 6, "n_gaussians": 9} | settings
    return CGCNN(CGCNNConfig(ELEMENTS, **given)).double()  # type: ignore[arg-type]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def log_of_exp(x: np.ndarray) -> np.ndarray:
    return np.log(1 + np.exp(x))


def energy_by_loops(model: CGCNN, atoms: Atoms, positions: np.ndarray) -> complex:
    """The energy by the paper, in numpy; it knows of the model its settings and its weights.

    Its positions may be complex: the imaginary part of the energy is then its derivative.
    """
    w = {name: value.detach().numpy() for name, value in model.named_parameters()}
    config, cutoff, n = model.config, model.config.cutoff, len(atoms)
    centres = np.linspace(0, cutoff, config.n_gaussians)
    images = [range(-3, 4) if periodic else (0,) for periodic in atoms.pbc]
    elements = [config.elements.index(z) for z in atoms.numbers]
    if config.atom_features == "learnt":
        v = [w["embedding.map.weight"][k] for k in elements]
    else:
        known = [np.array(atom_features(z)) for z in config.elements]
        v = [w["embedding.map.weight"] @ known[k] + w["embedding.map.bias"] for k in elements]
    for t in range(config.n_convolutions):
        joined, bias = [w[f"convolutions.{t}.joined.{kind}"] for kind in ("weight", "bias")]
        (w_f, w_s), (b_f, b_s) = np.split(joined, 2), np.split(bias, 2)
        new = []
        for i in range(n):
            total = np.zeros(config.channels, complex)
            for j, shift in product(range(n), product(*images)):
                r = positions[j] + np.array(shift) @ atoms.cell.array - positions[i]
                d = np.sqrt((r * r).sum())
                if not 1e-6 < d.real < cutoff:
                    continue
                u = np.exp(-(((d - centres) / (centres[1] - centres[0])) ** 2))
                z = np.concatenate([v[i], v[j], u])
                message = sigmoid(w_f @ z + b_f) * log_of_exp(w_s @ z + b_s)
                if config.smooth:
                    x = d / cutoff
                    message = message * (1 - 28 * x**6 + 48 * x**7 - 21 * x**8)
                total += message
            new.append(v[i] + total / config.avg_neighbors)
        v = new
    energy = 0j
    for features in v:
        h = features
        for k in range(len(config.hidden)):
            h = log_of_exp(w[f"readout.{2 * k}.weight"] @ h + w[f"readout.{2 * k}.bias"])
        last = 2 * len(config.hidden)
        energy += (w[f"readout.{last}.weight"] @ h + w[f"readout.{last}.bias"])[0]
    return energy


def structure(kind: str) -> Atoms:
    if kind == "slab":
        return mos2()
    if kind == "bulk":
        return random_crystal(np.random.default_rng(3), 4, (True, True, True), [6, 16, 29])
    atoms = molecule("CH3SH")
    atoms.rattle(0.05, seed=2)
    return atoms


@pytest.mark.parametrize("kind", ["slab", "bulk", "molecule"])
@pytest.mark.parametrize(
    "settings",
    [
        {"smooth": False, "hidden": (7,)},
        {"smooth": False, "atom_features": "learnt", "hidden": (7, 5), "n_convolutions": 2},
        {"avg_neighbors": 13.0, "hidden": (), "n_convolutions": 1},
    ],
    ids=["the paper's", "learnt, two hidden layers", "smooth, scaled"],
)
def test_equal_to_the_equations_written_out(kind: str, settings: dict[str, object]) -> None:
    model, atoms = random_model(**settings), structure(kind)
    graph = to_graph(atoms, model.cutoff)
    graph.pos.requires_grad_(True)
    found = model(graph, graph.edge_vectors()).sum()
    (slope,) = torch.autograd.grad(found, graph.pos)
    for atom, axis in ((0, 2), (1, 0)):
        positions = atoms.positions.astype(complex)
        positions[atom, axis] += 1e-30j
        expected = energy_by_loops(model, atoms, positions)
        assert float(found.detach()) == pytest.approx(expected.real, rel=1e-10)
        assert float(slope[atom, axis]) == pytest.approx(expected.imag / 1e-30, rel=1e-10)


def test_the_paper_is_in_the_defaults() -> None:
    config = CGCNNConfig()
    assert (config.n_gaussians, config.atom_features, config.avg_neighbors) == (41, "cgcnn92", 1.0)
    model = CGCNN(config)
    assert model.convolutions[0].joined.weight.shape == (2 * 64, 2 * 64 + 41)
    assert model.embedding.map.weight.shape == (64, 92)


def test_softplus_is_exact() -> None:
    x = torch.linspace(-60, 60, 481, dtype=torch.float64)
    assert softplus(x).numpy() == pytest.approx(np.logaddexp(0, x.numpy()), rel=1e-15)
    single = softplus(x.float())
    assert single.isfinite().all()
    x.requires_grad_(True)
    assert torch.autograd.gradgradcheck(softplus, x[200:281:8])


@pytest.mark.parametrize("smooth", [True, False])
def test_only_the_smooth_one_is_continuous_at_the_cutoff(smooth: bool) -> None:
    model = random_model(smooth=smooth)

    def energy(r: float) -> Tensor:
        graph = to_graph(Atoms("SMo", [(0, 0, 0), (0, 0, r)]), model.cutoff)
        return model(graph, graph.edge_vectors()).sum().detach()

    inside, outside = energy(model.cutoff - 1e-6), energy(model.cutoff + 1e-6)
    assert bool((inside - outside).abs() < 1e-9) == smooth


COLUMNS = {
    0: [*range(57, 71), *range(89, 103)],
    1: [1, 3, 11, 19, 37, 55, 87],
    2: [4, 12, 20, 38, 56, 88],
    3: [21, 39, 71, 103],
    6: [24, 42, 74, 106],
    12: [30, 48, 80, 112],
    13: [5, 13, 31, 49, 81, 113],
    16: [8, 16, 34, 52, 84, 116],
    17: [9, 17, 35, 53, 85, 117],
    18: [2, 10, 18, 36, 54, 86, 118],
}


def test_the_periodic_table() -> None:
    for number, column in COLUMNS.items():
        assert [z for z in range(1, 119) if group(z) == number] == column
    rows = [period(z) for z in range(1, 119)]
    assert np.bincount(rows).tolist() == [0, 2, 8, 8, 18, 18, 32, 32]
    blocks = [block(z) for z in range(1, 119)]
    assert {b: blocks.count(b) for b in "spdf"} == {"s": 14, "p": 36, "d": 40, "f": 28}
    found = {s: valence_electrons(chemical_symbols.index(s)) for s in ("H", "He", "C", "S", "Ar")}
    assert found == {"H": 1, "He": 2, "C": 4, "S": 6, "Ar": 8}
    found = {s: valence_electrons(chemical_symbols.index(s)) for s in ("Ca", "Mo", "Pt", "Zn")}
    assert found == {"Ca": 2, "Mo": 6, "Pt": 10, "Zn": 12}


def test_the_elements_data() -> None:
    assert [row[0] for row in ELEMENT_DATA] == chemical_symbols[1:104]
    columns = [
        np.array(column, dtype=float) for column in list(zip(*ELEMENT_DATA, strict=True))[1:]
    ]
    electronegativity, radius, ionisation, affinity, volume = columns
    # Another set of radii, from crystals.
    assert np.abs(radius[:96] - 100 * covalent_radii[1:97]).max() < 60
    # From each noble gas to the alkali metal after it.
    for z in (2, 10, 18, 36, 54, 86):
        assert ionisation[z - 1] > 2 * ionisation[z]
        assert radius[z - 1] < radius[z]
    assert chemical_symbols[1 + int(np.nanargmax(electronegativity))] == "F"
    assert chemical_symbols[1 + int(np.nanargmax(affinity))] == "Cl"
    assert 4 < np.nanmin(volume) < 5
    assert 60 < np.nanmax(volume) < 120


def test_92_features() -> None:
    sizes = [19, 7, 10, 10, 12, 10, 10, 4, 10]
    for z in range(1, 104):
        parts = np.split(np.array(atom_features(z)), np.cumsum(sizes)[:-1])
        assert [len(part) for part in parts] == sizes
        assert {int(part.sum()) for part in parts} <= {0, 1}
        # Electronegativity, affinity and volume are not always known.
        assert all(parts[k].sum() == 1 for k in (0, 1, 3, 4, 5, 7))
    # Molybdenum: group 6, period 5, 2.16, 138 pm, 6 electrons, 7.09 eV, 0.75 eV, d, 9.4 cm^3/mol.
    expected = [6, 4, 4, 5, 5, 3, 5, 2, 2]
    starts = [0, *np.cumsum(sizes)[:-1]]
    assert np.flatnonzero(atom_features(42)).tolist() == [
        start + k for start, k in zip(starts, expected, strict=True)
    ]
    # All elements but for a few rare ones differ.
    assert len({tuple(atom_features(z)) for z in range(1, 87)}) > 80


# Where the property begins among the 92, its column in the data, and its range in the supplement.
RANGES = {
    "electronegativity": (26, 1, 0.5, 4.0, False),
    "radius": (36, 2, 25, 250, False),
    "ionisation energy": (58, 3, 1.3, 3.3, True),
    "electron affinity": (68, 4, -3, 3.7, False),
    "volume": (82, 5, 1.5, 4.3, True),
}


@pytest.mark.parametrize("name", RANGES)
def test_classes_of_the_continuous_properties(name: str) -> None:
    start, column, low, high, logarithm = RANGES[name]
    inner = np.linspace(low, high, 11)[1:-1]
    for z, row in enumerate(ELEMENT_DATA, start=1):
        found = np.flatnonzero(atom_features(z)[start : start + 10]).tolist()
        if row[column] is None:
            assert found == []
        else:
            value = np.log(row[column]) if logarithm else row[column]
            if np.abs(inner - value).min() > 1e-9:
                assert found == [int((value > inner).sum())]


def test_embedding_of_the_features() -> None:
    embedding = AtomEmbedding("cgcnn92", ELEMENTS, 3)
    assert set(embedding.state_dict()) == {"map.weight", "map.bias"}
    found = embedding(torch.tensor([42, 6, 42]))
    expected = embedding.map(torch.tensor([atom_features(z) for z in (42, 6, 42)]).float())
    assert torch.allclose(found, expected)
    with pytest.raises(IndexError):
        embedding(torch.tensor([7]))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"n_gaussians": 1}, "n_gaussians must be a whole number of at least 2"),
        ({"channels": 0}, "channels"),
        ({"n_convolutions": 0}, "n_convolutions"),
        ({"hidden": 64}, r"hidden must be positive sizes"),
        ({"hidden": (0,)}, "hidden"),
        ({"avg_neighbors": 0.0}, "avg_neighbors"),
        ({"cutoff": -1.0}, "cutoff"),
        ({"cutoff": float("inf")}, "cutoff"),
        ({"atom_features": "learned"}, "Did you mean 'learnt'"),
        ({"elements": (6, 104)}, "up to 103, not 104; use 'learnt'"),
        ({"smooth": "yes"}, "smooth"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CGCNNConfig(**settings)  # type: ignore[arg-type]


def test_every_element_can_be_learnt() -> None:
    assert CGCNNConfig(tuple(range(1, 119)), atom_features="learnt").elements[-1] == 118
