"""A structure evaluated in parts against the same as a whole."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms

from mlff2d.atoms import to_graph
from mlff2d.md.parts import evaluate_in_parts
from mlff2d.models import REGISTRY, build_model
from mlff2d.potential import Potential
from tests.potentials import ELEMENTS, SMALL, random_potential
from tests.structures import mos2, turn

LOCAL = sorted(name for name in REGISTRY if random_potential(name).model.n_hops is not None)


def ribbon() -> Atoms:
    atoms = mos2() * (12, 1, 1)
    atoms.rattle(0.1, seed=1)
    atoms.positions += atoms.cell[0] * 0.3  # across the boundary
    turn(atoms)
    return atoms


def assert_parts_make_the_whole(potential: Potential) -> None:
    graph = to_graph(ribbon(), potential.cutoff)
    whole = potential(graph, create_graph=False)
    sizes = []
    hook = potential.model.register_forward_pre_hook(lambda _, a: sizes.append(a[0].n_edges))
    found = evaluate_in_parts(potential, graph, int(0.6 * graph.n_edges))
    hook.remove()
    assert len(sizes) > 1
    assert max(sizes) < 0.6 * graph.n_edges
    for name in ("energy", "forces", "virial"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", LOCAL)
def test_parts_make_the_whole(name: str) -> None:
    assert_parts_make_the_whole(random_potential(name))


def test_of_three_bodies_around_the_neighbour() -> None:
    torch.manual_seed(0)
    settings = SMALL["m3gnet"] | {"threebody_center": "neighbour", "n_blocks": 2}
    potential = Potential(build_model("m3gnet", settings), dict.fromkeys(ELEMENTS, 1.0)).double()
    assert_parts_make_the_whole(potential.eval())


def test_a_model_of_the_whole_is_refused() -> None:
    potential = random_potential("megnet")
    with pytest.raises(ValueError, match="MEGNet cannot be evaluated in parts"):
        evaluate_in_parts(potential, to_graph(mos2(), potential.cutoff), 100)
