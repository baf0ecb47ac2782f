"""`mlff2d check`: good potentials pass, and each broken one fails where it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from mlff2d import checkpoint, cli
from mlff2d.atoms import canonical_slab, to_graph
from mlff2d.checking.checks import CHECKS, Finding, run
from mlff2d.checking.slabs import WAYS, bilayer, bundled
from mlff2d.checking.subject import Subject
from mlff2d.checkpoint import save
from mlff2d.graph import Graph
from mlff2d.models import REGISTRY, build_model
from mlff2d.nn.kernels import source, sums
from mlff2d.nn.scatter import segment_sum
from mlff2d.nn.tensor_product import NeighbourTensorProduct
from mlff2d.potential import Potential, Prediction
from mlff2d.property import PropertyPredictor
from tests.potentials import ELEMENTS, SMALL, random_potential
from tests.standins import MorseConfig, MorseNet, morse

FORCES, STRESS = "forces = -dE/dr", "stress = dE/dstrain"
FINITE, VACUUM, SINGLE = "finite numbers", "nothing along vacuum", "float32 = float64"
WAY, SYMMETRY = "one slab, one answer", "mirrored, repeated"
BATCH, CUTOFF = "batched = single", "smooth at cutoff"
COMPILED = "compiled = torch"


def findings(potential: Potential) -> list[Finding]:
    return run(Subject(potential), CHECKS)


def wrong(potential: Potential) -> set[str]:
    return {finding.check for finding in findings(potential) if not finding.worst.fine}


class Broken(Potential):
    """Morse's potential; `of_energies` and `of_prediction` spoil it."""

    def __init__(
        self,
        of_energies: Callable[[Tensor, Graph], Tensor] = lambda energies, graph: energies,
        offset: float = 0.0,
        of_prediction: Callable[[Prediction, Graph], Prediction] = lambda found, graph: found,
        pbc: bool | None = None,
    ) -> None:
        sound = morse()
        super().__init__(sound.model, sound.references.as_dict())
        self.of_energies, self.of_prediction, self.pbc = of_energies, of_prediction, pbc
        self.offset = offset

    def forward(self, graph: Graph, *args: object, **settings: object) -> Prediction:
        if self.pbc is not None:
            graph = replace(graph, pbc=torch.full_like(graph.pbc, self.pbc))
        return self.of_prediction(super().forward(graph, *args, **settings), graph)

    def _energies(self, graph: Graph, edge_vec: Tensor, own: Tensor | None) -> Tensor:
        energies = self.of_energies(super()._energies(graph, edge_vec, own), graph)
        if self.dtype is torch.float32:  # large numbers that cancel
            energies = (energies.float() + self.offset).double() - self.offset
        return energies


def scaled(**factors: float) -> Callable[[Prediction, Graph], Prediction]:
    """Forces or virial, where they are asked for, times a factor."""

    def change(found: Prediction, graph: Graph) -> Prediction:
        there = {k: f for k, f in factors.items() if getattr(found, k) is not None}
        return replace(found, **{k: f * getattr(found, k) for k, f in there.items()})

    return change


def scaled_by_height(key: str) -> Callable[[Prediction, Graph], Prediction]:
    """Right in the cells that are bundled, 20 Å high, only."""

    def change(found: Prediction, graph: Graph) -> Prediction:
        return scaled(**{key: float(graph.cell.norm(dim=2).max()) / 20})(found, graph)

    return change


def scaled_in_batches(found: Prediction, graph: Graph) -> Prediction:
    return scaled(forces=1.01)(found, graph) if graph.n_structures > 1 else found


def half(key: str) -> Callable[[Prediction, Graph], Prediction]:
    """Rounded to half precision where the model is in float32."""

    def change(found: Prediction, graph: Graph) -> Prediction:
        value = getattr(found, key)
        rough = value is not None and value.dtype is torch.float32
        return replace(found, **{key: value.half().float()}) if rough else found

    return change


def height(energies: Tensor, graph: Graph) -> Tensor:
    return energies + 1e-4 * graph.cell.norm(dim=2).max(dim=1).values[graph.batch]


def place(energies: Tensor, graph: Graph) -> Tensor:
    """Later atoms of a structure count for more."""
    first = torch.searchsorted(graph.batch, graph.batch)
    return energies * (1 + 1e-6 * (torch.arange(graph.n_atoms) - first))


def nan_for(z: int) -> Callable[[Tensor, Graph], Tensor]:
    return lambda energies, graph: torch.where(graph.z == z, torch.nan, energies)


class Cut(MorseNet):
    """Without a fade at the cutoff."""

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        r = edge_vec.norm(dim=1, keepdim=True)
        x = torch.exp(-self.config.width * (r - self.config.length))
        well = (x**2 - 2 * x) * (r < self.cutoff)
        return segment_sum(well, graph.edge_index[0], graph.n_atoms)


@pytest.mark.parametrize(
    "name", ["morse", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(REGISTRY))]
)
def test_good_potentials_pass(name: str) -> None:
    found = findings(morse() if name == "morse" else random_potential(name))
    assert [f for f in found if not f.worst.fine] == []
    assert list(dict.fromkeys(f.check for f in found)) == list(CHECKS)
    # No deviation of zero because nothing was compared.
    measured = {f.check: f.worst.value for f in found}
    assert measured[FORCES] > 0
    assert measured[SINGLE] > 0


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (lambda: Broken(of_prediction=scaled(forces=1.01)), {FORCES}),
        (lambda: Broken(of_prediction=scaled(virial=1.01)), {STRESS}),
        (lambda: Broken(pbc=True), {VACUUM}),
        (lambda: Broken(of_prediction=scaled(forces=-1.0, virial=-1.0)), {FORCES, STRESS}),
        (lambda: Broken(offset=1e4), {SINGLE}),
        (lambda: Broken(of_energies=height), {WAY}),
        (lambda: Broken(of_energies=place), {SYMMETRY}),
        (lambda: Broken(of_prediction=scaled_by_height("forces")), {WAY}),
        (lambda: Broken(of_prediction=scaled_by_height("virial")), {WAY}),
        (lambda: Broken(of_prediction=scaled_in_batches), {BATCH}),
        (lambda: Broken(of_prediction=half("forces")), {SINGLE}),
        (lambda: Broken(of_prediction=half("virial")), {SINGLE}),
        (lambda: Broken(of_energies=nan_for(79)), {FINITE}),
        (lambda: Broken(offset=1e39), {FINITE, SINGLE, COMPILED, VACUUM}),
        (lambda: Potential(Cut(MorseConfig()), morse().references.as_dict()).double(), {CUTOFF}),
    ],
    ids=[
        *("forces", "virial", "mask", "signs", "cancelling", "vacuum", "order"),
        *("forces by vacuum", "virial by vacuum", "batches", "half forces", "half virial"),
        *("gold", "single", "cutoff"),
    ],
)
def test_what_is_broken_fails_where_it_is(
    broken: Callable[[], Potential], expected: set[str]
) -> None:
    assert wrong(broken()) == expected


def test_compiled_code_that_computes_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong_functions(product: NeighbourTensorProduct, name: str, table: bool) -> str:
        return source.functions(product, name, table).replace("y1 = ", "y1 = (real)1.001 * ")

    monkeypatch.setenv("MLFF2D_CACHE", str(tmp_path))
    checks = {COMPILED: CHECKS[COMPILED]}
    assert all(f.worst.fine for f in run(Subject(random_potential("nequip")), checks))
    monkeypatch.setattr(sums, "functions", wrong_functions)
    monkeypatch.setattr("mlff2d.compiled.is_same", lambda potential: True)
    assert not any(f.worst.fine for f in run(Subject(random_potential("nequip")), checks))


def test_all_electron_reference_energies_pass() -> None:
    """Their rounding, 1e-11 eV of 1e5 eV, over the steps of a difference is no fault."""
    sound = morse()
    assert wrong(Potential(sound.model, dict.fromkeys(sound.elements, -4e4)).double()) == set()


def megnet(**settings: object) -> Potential:
    torch.manual_seed(0)
    model = build_model("megnet", SMALL["megnet"] | {"elements": (29,)} | settings)
    return Potential(model, {29: -1.0}).double()


def test_edges_that_do_not_fade_out_are_found() -> None:
    assert wrong(megnet(smooth=False)) == {CUTOFF}


def test_what_a_model_takes_in_from_info_is_given() -> None:
    assert wrong(megnet(state=("temperature",))) == set()


def test_what_one_batch_shares_is_found() -> None:
    """A potential that knows how many structures it is given, so that differences are off too."""
    shared = Broken(of_energies=lambda energies, graph: energies + 0.01 * (graph.n_structures - 1))
    assert BATCH in wrong(shared) <= {BATCH, FORCES, STRESS}


def test_a_potential_without_any_number() -> None:
    found = findings(Broken(of_energies=nan_for(6), of_prediction=scaled(forces=1.01)))
    assert found[0].worst.value == 2  # graphene, and the bilayer of carbon
    assert "graphene" in found[0].worst.where
    assert [f.check for f in found] == [FINITE, FORCES]  # after which nothing is to be had
    assert not any(f.worst.fine for f in found)
    assert "graphene, float64: the model returned NaN or infinity for C4" in found[1].worst.where


@pytest.mark.parametrize(
    ("elements", "names"),
    [
        ((16, 42), ["1H-MoS2", "1T-MoS2"]),
        ((6, 16, 29, 42, 74), ["1H-MoS2", "graphene", "Cu bilayer"]),
        ((5, 7), ["hBN"]),
        ((53, 55), ["Cs bilayer (made up)", "1H-CsI2 (made up)"]),
        ((100,), ["Fm bilayer (made up)"]),
    ],
)
def test_slabs_are_of_known_elements(elements: tuple[int, ...], names: list[str]) -> None:
    slabs = bundled(elements)
    assert list(slabs) == names
    for atoms in slabs.values():
        assert set(atoms.numbers.tolist()) <= set(elements)


@pytest.mark.parametrize("z", range(1, 119))
def test_a_bilayer_of_every_element_is_a_slab(z: int) -> None:
    for atoms in (bilayer(z), WAYS["vacuum of 4.6 Å TTT"](bilayer(z)).atoms):
        canonical = canonical_slab(atoms)
        assert canonical.axis == 2
        distance = to_graph(atoms, 6.0).edge_vectors().norm(dim=1).min()
        assert 1.0 < distance < 6


@pytest.mark.parametrize("elements", [range(1, 90), (16, 42), (53, 55)], ids=str)
def test_every_way_of_writing_is_that_slab(elements: Iterable[int]) -> None:
    """By the distances within it, atom by atom."""
    for atoms in bundled(elements).values():
        expected = around(atoms)
        for name, rewrite in WAYS.items():
            way = rewrite(atoms.copy())
            source = np.arange(len(atoms)) if way.source is None else way.source
            assert around(way.atoms) == [pytest.approx(expected[k], abs=1e-9) for k in source], name
            assert way.rotation @ way.rotation.T == pytest.approx(np.eye(3), abs=1e-12)


def around(atoms: Atoms) -> list[list[float]]:
    """For each atom the distances to its neighbours."""
    graph = to_graph(atoms, 4.0)
    lengths = graph.edge_vectors().norm(dim=1)
    return [sorted(lengths[graph.edge_index[0] == k].tolist()) for k in range(len(atoms))]


def test_the_command_checks_several_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(tmp_path / f"{name}.pt") for name in ("good", "bad")]
    for path in paths:
        save(of_two_elements(), path)
    load = checkpoint.load

    def load_one_wrong(model: str) -> Potential:
        potential = load(model)
        if "bad" in model:
            potential.scale *= 1.5
            potential.register_forward_hook(lambda *a: scaled(forces=1.01)(a[2], a[1][0]))
        return potential

    monkeypatch.setattr(checkpoint, "load", load_one_wrong)
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["check", *paths]) == 1
    shown = capsys.readouterr().out
    good, bad = shown.split(f"{paths[0]} is fine in all {len(CHECKS)} checks.")
    assert "WRONG" not in good
    assert bad.count("WRONG") == 2  # in the table, and in the verdict
    assert f"{paths[1]} is WRONG in 1 of {len(CHECKS)} checks:" in bad
    assert f"{FORCES}: relaxations miss the minimum" in bad
    assert "On Cs bilayer (made up)" in good
    assert "No bundled material has only elements that the model knows." in good


def of_two_elements() -> Potential:
    torch.manual_seed(0)
    model = build_model("painn", SMALL["painn"] | {"elements": (53, 55)})
    return Potential(model, {53: -1.0, 55: -2.0}, zbl=True)


def test_the_shipped_model_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check"]) == 0
    shown = capsys.readouterr().out
    assert "universal is fine" in shown
    assert "On 1H-MoS2, graphene, Cu bilayer: cells of two units, rattled." in shown


def test_what_is_no_potential_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gap = tmp_path / "gap.pt"
    model = build_model("painn", SMALL["painn"])
    save(PropertyPredictor(model, dict.fromkeys(ELEMENTS, 0.0), name="gap", unit="eV"), gap)
    text = tmp_path / "notes.txt"
    text.write_text("no model")
    for path, sentence in (
        (gap, "predicts 'gap' in eV of a structure and has no energies or forces"),
        (text, "is not a model file"),
        (tmp_path / "none.pt", "there is no model file"),
    ):
        assert cli.main(["check", "universal", str(path)]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert sentence in told.err
        assert len(told.err.splitlines()) == 1
