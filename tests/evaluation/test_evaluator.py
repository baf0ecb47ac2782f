"""Energy, forces and virial of batches against the calculator, and batches in trouble."""

from __future__ import annotations

import re
from collections.abc import Callable

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from mlff2d.calculator import MLFF2DCalculator
from mlff2d.graph import Graph
from mlff2d.md.evaluator import Evaluation, Evaluator
from mlff2d.md.slabs import Slabs, join, one_slab
from mlff2d.models import REGISTRY, build_model
from mlff2d.potential import Potential, Prediction
from tests.potentials import ELEMENTS, SMALL, random_potential
from tests.shared import DATA, needs_data
from tests.structures import VARIANTS, mos2, variant

ALL = 10**9


def slabs_of(structures: list[Atoms]) -> Slabs:
    return join([one_slab(atoms, 100 + 3 * k) for k, atoms in enumerate(structures)])


def some(n: int = 4) -> Slabs:
    return slabs_of([mos2(seed=k) * (1 + k % 2, 1, 1) for k in range(n)])


def assert_equal(found: Evaluation, expected: Evaluation, atol: float = 0.0) -> None:
    for name in ("energy", "forces", "virial"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=0.0, atol=atol, equal_nan=True
        )
    assert torch.equal(found.n_edges, expected.n_edges)
    assert found.troubles == expected.troubles


def assert_as_calculator(structures: list[Atoms], potential: Potential) -> None:
    slabs = slabs_of(structures)
    found = Evaluator(potential, ALL)(slabs)
    assert not found.troubles
    calculator = MLFF2DCalculator(potential, dtype="float64")
    for s, atoms in enumerate(structures):
        calculator.calculate(atoms)
        expected = calculator.results
        assert float(found.energy[s]) == pytest.approx(expected["energy"], abs=1e-9)
        forces = found.forces[slabs.atoms_of(s)].numpy()
        np.testing.assert_allclose(forces, expected["forces"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.virial[s], expected["virial"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_numbers_are_those_of_the_calculator(name: str) -> None:
    """In one batch, however a slab is written, and beside larger and denser ones."""
    structures = [variant(v)[0] for v in VARIANTS] if name == "m3gnet" else []
    structures += [mos2(seed=1), variant("vacuum first")[0], mos2(seed=2) * (2, 1, 1)]
    assert_as_calculator(structures, random_potential(name))


@needs_data
def test_real_slabs_in_one_batch() -> None:
    frames = ase.io.read(DATA / "monolayers_2dmatpedia.extxyz.gz", ":30")[::2]
    frames += ase.io.read(DATA / "mowse2_28_classes.extxyz", ":12")[::4]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
        atoms.pbc = (True, True, k % 2)
    numbers = {int(z) for atoms in frames for z in atoms.numbers}
    torch.manual_seed(0)
    settings = SMALL["m3gnet"] | {"elements": tuple(sorted(numbers))}
    potential = Potential(build_model("m3gnet", settings), dict.fromkeys(numbers, -1.0))
    assert_as_calculator(frames, potential.double())


def test_numbers_do_not_depend_on_when_lists_were_made() -> None:
    """Bit for bit: a run that goes on from a snapshot has fresh lists."""
    potential = random_potential("m3gnet").float()
    old = Evaluator(potential, ALL)
    slabs, generator = some(), torch.Generator().manual_seed(0)
    n_kept = 0
    for _ in range(6):
        noise = torch.randn(slabs.pos.shape, dtype=slabs.pos.dtype, generator=generator)
        slabs = slabs.moved(slabs.pos + 0.04 * noise, slabs.cell * 1.002)
        before = old._lists.n_builds
        assert_equal(old(slabs), Evaluator(potential, ALL)(slabs))
        n_kept += slabs.n_structures - (old._lists.n_builds - before)
    assert n_kept > 2, "all lists were new"


def test_structures_come_and_go() -> None:
    potential = random_potential("painn")
    evaluator = Evaluator(potential, ALL)
    slabs = some()
    evaluator(slabs)
    fewer = slabs.select(torch.tensor([True, False, False, True]))
    assert_equal(evaluator(fewer), Evaluator(potential, ALL)(fewer))
    more = join([fewer, one_slab(variant("vacuum first")[0], 7)])
    found = evaluator(more)
    assert_equal(found, Evaluator(potential, ALL)(more))
    assert torch.equal(evaluator.n_edges(more), found.n_edges)
    assert evaluator._lists.n_builds == 5


def test_in_pieces_the_numbers_are_the_same() -> None:
    potential = random_potential("painn")
    slabs = some(6)
    whole = Evaluator(potential, ALL)(slabs)
    largest = int(whole.n_edges.max())
    for max_edges in (int(whole.n_edges.sum()) - 1, largest, largest // 2, 1):
        found = Evaluator(potential, max_edges)(slabs)
        assert_equal(found, whole, atol=1e-10)
    with pytest.raises(ValueError, match="max_edges"):
        Evaluator(potential, 0)


class Wrapped(torch.nn.Module):
    """A potential that something happens to before it is asked."""

    def __init__(self, potential: Potential, before: Callable[[Graph], None]) -> None:
        super().__init__()
        self.inner, self.before = potential, before
        self.elements, self.cutoff = potential.elements, potential.cutoff
        self.model = potential.model

    def forward(self, graph: Graph, create_graph: bool, own: Tensor | None = None) -> Prediction:
        self.before(graph)
        return self.inner(graph, create_graph=create_graph, own=own)


def cpu_error() -> RuntimeError:
    """What torch really says on this machine's CPU."""
    try:
        torch.empty(2**60, dtype=torch.int8)
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("kind", ["cuda", "cpu", "windows", "numpy"])
def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(kind: str) -> None:
    errors = {
        "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        "cpu": cpu_error(),
        "windows": RuntimeError("not enough memory: you tried to allocate 137438953472 bytes."),
        "numpy": MemoryError(),
    }
    potential = random_potential("painn")
    slabs = some(6)
    whole = Evaluator(potential, ALL, compile="no")(slabs)
    there_is = int(whole.n_edges.sum()) // 3
    assert int(whole.n_edges.max()) < there_is
    asked = []

    def before(graph: Graph) -> None:
        asked.append(graph.n_edges)
        if graph.n_edges > there_is:
            raise errors[kind]

    evaluator = Evaluator(Wrapped(potential, before), ALL, compile="no")  # type: ignore[arg-type]
    assert_equal(evaluator(slabs), whole, atol=1e-10)
    assert evaluator.max_edges <= there_is
    halvings = len(evaluator.notes)
    assert sum(n > there_is for n in asked) == halvings >= 1
    assert "memory ran out for 6 structures" in evaluator.notes[0]
    assert_equal(evaluator(slabs), whole, atol=1e-10)
    assert len(evaluator.notes) == halvings, "what is known is not tried again"


def test_one_too_large_for_the_memory_is_evaluated_in_parts() -> None:
    potential = random_potential("schnet")
    slabs = slabs_of([mos2(), mos2() * (9, 18, 1), mos2(seed=1)])
    whole = Evaluator(potential, ALL, compile="no")(slabs)

    def before(graph: Graph) -> None:
        if graph.n_edges > 0.6 * int(whole.n_edges[1]):
            raise MemoryError

    evaluator = Evaluator(Wrapped(potential, before), ALL, compile="no")  # type: ignore[arg-type]
    assert_equal(evaluator(slabs), whole, atol=1e-9)
    assert "memory ran out for 972 atoms" in evaluator.notes[-1]
    assert evaluator.part_edges == int(whole.n_edges[1]) // 2


def test_one_too_large_even_so_is_told_and_the_others_go_on() -> None:
    potential = random_potential("megnet")  # whose atoms feel all others
    slabs = slabs_of([mos2(), mos2() * (3, 3, 1), mos2(seed=1)])
    whole = Evaluator(potential, ALL, compile="no")(slabs)

    def before(graph: Graph) -> None:
        if graph.n_edges > int(whole.n_edges[[0, 2]].sum()):
            raise MemoryError

    evaluator = Evaluator(Wrapped(potential, before), ALL, compile="no")  # type: ignore[arg-type]
    found = evaluator(slabs)
    assert list(found.troubles) == [103]
    assert found.troubles[103].startswith(f"54 atoms with {int(whole.n_edges[1])} edges need more")
    assert_others_equal(found, whole, slabs, 1)


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    def before(graph: Graph) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    evaluator = Evaluator(Wrapped(random_potential("painn"), before), ALL, compile="no")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="shapes"):
        evaluator(some())


def assert_others_equal(found: Evaluation, whole: Evaluation, slabs: Slabs, bad: int) -> None:
    """All but one structure have the numbers of a batch without trouble, and that one has none."""
    others = torch.arange(slabs.n_structures) != bad
    atoms = others[slabs.batch]
    for name, kept in (("energy", others), ("forces", atoms), ("virial", others)):
        of_found, of_whole = getattr(found, name), getattr(whole, name)
        torch.testing.assert_close(of_found[kept], of_whole[kept], rtol=0.0, atol=1e-10)
        assert of_found[~kept].isnan().all()


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_nan_of_the_model_stays_with_its_structure(name: str) -> None:
    potential = random_potential(name, zbl=False)
    copper = mos2(seed=3)
    copper.numbers[0] = 29
    structures = [mos2(), copper, mos2(seed=2) * (2, 1, 1)]
    slabs = slabs_of(structures)
    whole = Evaluator(potential, ALL)(slabs)
    potential.model.register_forward_hook(
        lambda model, given, energies: torch.where(given[0].z == 29, torch.nan, energies)
    )
    found = Evaluator(potential, ALL)(slabs)
    assert list(found.troubles) == [103]
    assert "NaN or infinity for CuMoS4" in found.troubles[103]
    assert_others_equal(found, whole, slabs, 1)


@pytest.mark.parametrize("trouble", ["NaN", "overlap", "image", "element", "cell"])
def test_a_bad_structure_gets_its_sentence(trouble: str) -> None:
    slabs = some(3)
    evaluator = Evaluator(random_potential("m3gnet"), ALL)
    whole = evaluator(slabs)
    atoms = slabs.atoms_of(1)
    words = {
        "NaN": "NaN",
        "overlap": r"atoms 0 \(Mo\) and 2 \(S\) are 0.173 Å apart",
        "image": r"atom \d+ \(\w+\) and its periodic image are 0.3",
        "element": "never seen W",
        "cell": "linearly dependent",
    }
    if trouble == "NaN":
        slabs.pos[atoms.start] = torch.nan
    elif trouble == "overlap":
        slabs.pos[atoms.start + 2] = slabs.pos[atoms.start] + 0.1
    elif trouble == "image":
        slabs.cell[1, 1] *= 0.1
    elif trouble == "element":
        slabs.z[atoms.start] = 74
    else:
        slabs.cell[1, 1] = slabs.cell[1, 0]
    found = evaluator(slabs)
    assert list(found.troubles) == [103]
    assert_others_equal(found, whole, slabs, 1)
    assert re.search(words[trouble], found.troubles[103])


def test_float32_does_not_lose_what_is_far_from_the_origin() -> None:
    potential = random_potential("m3gnet").float()
    near, far = mos2(), mos2()
    far.positions += 3000 * far.cell[0] + 2000 * far.cell[1]
    found = Evaluator(potential, ALL)(slabs_of([near, far]))
    n = len(near)
    torch.testing.assert_close(found.forces[n:], found.forces[:n], rtol=0, atol=2e-6)
    torch.testing.assert_close(found.virial[1], found.virial[0], rtol=0, atol=1e-5)


def test_a_state_comes_along() -> None:
    torch.manual_seed(0)
    settings = SMALL["megnet"] | {"state": ("charge",)}
    potential = Potential(build_model("megnet", settings), dict.fromkeys(ELEMENTS, 0.0))
    structures = [mos2(), mos2()]
    slabs = []
    for k, atoms in enumerate(structures):
        atoms.info["charge"] = 0.5 * k
        slabs.append(one_slab(atoms, k, ("charge",)))
    found = Evaluator(potential, ALL)(join(slabs))
    calculator = MLFF2DCalculator(potential)
    for atoms, energy in zip(structures, found.energy.tolist(), strict=True):
        calculator.calculate(atoms)
        assert energy == pytest.approx(calculator.results["energy"], rel=1e-6)
    assert found.energy[0] != found.energy[1]
