"""What the composition alone tells of a formation energy: the floor under all that knows more.

Every arrangement of a composition gets the same answer. The energy of a composition is a network's
output less its interpolation between those for the end members, so that end members have none.

Axes: C configurations, U distinct compositions, E elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor, nn

from .formation import dft_formation
from .method import Answer, Answers, Method, Task
from .roost import Roost
from .system import Configuration, System

NETWORKS = 5
"""Their mean is the answer."""

STEPS, LR, DECAY = 300, 5e-3, 1e-3
"""Of AdamW, all configurations in each step."""

Composition = tuple[tuple[str, float], ...]
Make = Callable[[Sequence[str]], nn.Module]


def composition(atoms: Atoms) -> Composition:
    """Share of each element in all atoms, by its symbol; the size of the cell does not enter."""
    counts = atoms.symbols.formula.count()
    return tuple((one, counts[one] / len(atoms)) for one in sorted(counts))


class Table:
    """Compositions of configurations as a network wants them.

    Attributes
    ----------
    elements : symbols by atomic number
    shares : (U, E) of each distinct composition, those of the end members among them
    mixing : (C, U), which turns outputs for compositions into formation energies
    """

    def __init__(
        self,
        systems: Iterable[System],
        configurations: Sequence[Configuration],
    ) -> None:
        ends = {system.name: _ends(system) for system in systems}
        own = [composition(one.ideal) for one in configurations]
        distinct = sorted({*own, *(end for some in ends.values() for end in some.values())})
        symbols = {symbol for one in distinct for symbol, _ in one}
        self.elements = sorted(symbols, key=lambda one: atomic_numbers[one])
        self.shares = torch.tensor(
            [[dict(one).get(symbol, 0.0) for symbol in self.elements] for one in distinct],
            dtype=torch.float32,
        )
        place = {one: k for k, one in enumerate(distinct)}
        self.mixing = torch.zeros(len(own), len(distinct))
        for row, (one, mine) in enumerate(zip(configurations, own, strict=True)):
            self.mixing[row, place[mine]] += 1.0
            for species, share in one.shares.items():
                self.mixing[row, place[ends[one.system][species]]] -= share


def _ends(system: System) -> dict[str, Composition]:
    found = {}
    for species in system.lattice.shared:
        end = system.lattice.parent.copy()
        end.symbols[system.lattice.shared_mask] = species
        found[species] = composition(end)
    return found


class Fractions(nn.Module):
    """A small network on the shares of the elements."""

    def __init__(self, n_elements: int, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_elements, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, shares: Tensor) -> Tensor:
        """(U, E) -> (U,)."""
        return self.layers(shares).squeeze(-1)


def _learnt(make: Make) -> Method:
    """Networks trained on the formation energies of all systems together."""

    def answer(task: Task) -> Answers:
        target = _targets(task)
        known = np.isfinite(target)
        if not known.any() or not np.any(target[known]):
            raise ValueError(
                "a network on compositions needs the DFT energies of mixtures and of their end "
                "members, and there are none to learn from"
            )
        everything = [*task.train, *task.asked]
        table = Table(task.systems.values(), everything)
        rows = torch.from_numpy(np.flatnonzero(known))
        wanted = torch.tensor(target[known], dtype=torch.float32)
        said = train(make, table, rows, wanted, task.seed)
        missed = said[rows] - wanted
        asked = said[len(task.train) :].tolist()
        of = {
            (one.system, one.name): Answer(value)
            for one, value in zip(task.asked, asked, strict=True)
        }
        facts = {
            "": {
                "networks": NETWORKS,
                "compositions": len(set(map(tuple, table.mixing[rows].tolist()))),
                "train_rmse_mev_per_site": 1000 * float(missed.square().mean().sqrt()),
            }
        }
        return Answers(of, facts)

    return answer


def _targets(task: Task) -> np.ndarray:
    """(C,) formation energies of `task.train`, each against the end members of its system."""
    target = np.full(len(task.train), np.nan)
    for name in task.systems:
        places = [k for k, one in enumerate(task.train) if one.system == name]
        target[places] = dft_formation([task.train[k] for k in places])
    return target


def train(make: Make, table: Table, rows: Tensor, target: Tensor, seed: int) -> Tensor:
    """(C,) eV per shared site of all of the table, by networks trained on `rows` of it.

    The networks are trained side by side, which is as each by itself but several times faster.
    Raises ValueError where a training diverges.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = [make(table.elements) for _ in range(NETWORKS)]
    params, buffers = torch.func.stack_module_state(networks)

    def outputs(shares: Tensor) -> Tensor:
        """(U, E) -> (NETWORKS, U)."""

        def one(params: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            out: Tensor = torch.func.functional_call(networks[0], (params, buffers), (shares,))
            return out

        both: Tensor = torch.func.vmap(one)(params, buffers)
        return both

    scale = target.square().mean().sqrt()
    used = table.mixing[rows].any(0)
    shares, mixing = table.shares[used], table.mixing[rows][:, used]
    optimizer = torch.optim.AdamW(params.values(), lr=LR, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (outputs(shares) @ mixing.T - target / scale).square().mean(1).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        said: Tensor = outputs(table.shares).mean(0) @ table.mixing.T * scale
    if not bool(torch.isfinite(said).all()):
        raise ValueError(
            "the training of a network on compositions diverged; look for absurd energies among "
            "the frames"
        )
    return said


def _ideal(task: Task) -> Answers:
    return Answers({(one.system, one.name): Answer(0.0) for one in task.asked})


METHODS: dict[str, Method] = {
    "fractions": _learnt(lambda elements: Fractions(len(elements))),
    "roost": _learnt(lambda elements: Roost([atomic_numbers[one] for one in elements])),
    "ideal": _ideal,
}
"""Composition-only methods."""
