"""How many edges a potential is given at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlff2d.atoms import to_graph
from mlff2d.kept import saved_bytes
from mlff2d.md import memory
from mlff2d.md.memory import ENOUGH, bytes_per_edge, edge_budget, edges_that_fit
from mlff2d.potential import Potential
from tests.potentials import random_potential
from tests.structures import mos2


def kept(potential: Potential, repeats: int) -> tuple[int, int]:
    """Bytes that a slab keeps, and its edges."""
    graph = to_graph(mos2() * (repeats, repeats, 1), potential.cutoff)
    weights = list(potential.requires_grad_(False).parameters())
    return saved_bytes(lambda: potential(graph, create_graph=False), weights), graph.n_edges


@pytest.mark.parametrize("name", ["m3gnet", "mace", "schnet"])
def test_a_slab_keeps_no_more_than_is_foreseen(name: str) -> None:
    potential = random_potential(name)
    foreseen = bytes_per_edge(potential)
    found, n_edges = kept(potential, 3)
    assert 0.3 * foreseen < found / n_edges < 1.1 * foreseen


def test_what_is_kept_is_in_proportion_to_edges_and_precision() -> None:
    potential = random_potential("m3gnet")
    (few, n_few), (many, n_many) = kept(potential, 2), kept(potential, 5)
    assert many / few == pytest.approx(n_many / n_few, rel=0.02)
    assert kept(potential.float(), 2)[0] == pytest.approx(few / 2, rel=0.1)
    assert bytes_per_edge(potential) == pytest.approx(
        bytes_per_edge(random_potential("m3gnet")) / 2, rel=0.1
    )


def test_saved_bytes_counts_each_tensor_once_and_no_weights() -> None:
    weight = torch.ones(50, 50)
    x = torch.ones(10, 50, requires_grad=True)

    def run() -> None:
        y = (x @ weight).exp()  # exp keeps its result, the product the weights alone
        (y * y).sum()  # keeps the same tensor twice again

    assert saved_bytes(run, [weight]) == 10 * 50 * 4
    assert saved_bytes(run, []) == (10 + 50) * 50 * 4


def test_the_budget_is_what_pays_or_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = random_potential("painn").train()
    device = torch.device("cpu")
    assert edge_budget(potential) == ENOUGH["cpu"], "less than a gigabyte of memory?"
    assert memory.total_bytes(device) > 1e8
    assert all(weight.requires_grad for weight in potential.parameters())
    monkeypatch.setattr(memory, "total_bytes", lambda device: 1_000_000)
    few = edge_budget(potential)
    assert few == edges_that_fit(potential) < 5000
    monkeypatch.setattr(memory, "total_bytes", lambda device: 2_000_000)
    assert edge_budget(potential) == pytest.approx(2 * few, abs=1)
    assert edge_budget(potential, processes=2) == pytest.approx(few, abs=1)
    monkeypatch.setattr(memory, "total_bytes", lambda device: 1)
    assert edge_budget(potential) == edge_budget(potential, processes=7) == 1


def test_no_more_memory_is_counted_on_than_a_batch_system_allots(tmp_path: Path) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "groups"
    assert memory._limits(own, root) == []
    own.write_text("4:cpu,memory:/job/step\n1:cpu:/job\n0::/slice/job\n")
    for folder, name, content in (
        ("memory/job/step", "memory.limit_in_bytes", "3000\n"),
        ("memory", "memory.limit_in_bytes", "9223372036854771712\n"),
        ("slice/job", "memory.max", "max\n"),
        ("slice", "memory.max", "2000\n"),
        ("", "memory.limit_in_bytes", "1\n"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_text(content)
    (tmp_path / "memory.max").write_text("1\n")  # beyond the root
    assert sorted(memory._limits(own, root)) == [2000, 3000, 9223372036854771712]


def test_the_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_limits", lambda: [12345, 2**63 - 1])
    assert memory.total_bytes(torch.device("cpu")) == 12345
    monkeypatch.setattr(memory, "_limits", list)
    assert memory.total_bytes(torch.device("cpu")) > 1e8
