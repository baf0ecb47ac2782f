"""Relaxation of many slabs in one batch, each as if it were alone.

Structures enter in the order given while their edges fit, take a step together, and leave as each
of them is done, so that the batch stays full. Who enters when depends on nothing but the
structures, the settings and the number of edges: the same floats come out whenever it is run, and
from a snapshot on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from ase import Atoms

from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.potential import Potential

from ..allocator import keep_freed_memory
from ..evaluator import Evaluator
from ..memory import edge_budget
from ..slabs import Slabs, one_slab
from .flight import Flight, join
from .outcome import judge, runaways
from .result import RelaxResult
from .settings import RelaxSettings

Structures = Sequence[tuple[int, Atoms]]
Finished = list[tuple[int, RelaxResult | StructureError]]

FULL = 0.9
"""Share of the edges that structures may have when they enter; cells shrink and then have more."""


class BatchRelaxer:
    """Relaxes slabs in batches, see `relax` for what that means of each.

    Parameters
    ----------
    potential : on the device and in the precision it shall work in; not changed
    settings : see `RelaxSettings`
    max_edges : of all structures that move at a time; None measures what pays and fits, see
        `mlff2d.md.memory`. A structure with more edges moves alone.

    Attributes
    ----------
    structure_steps : steps taken by all structures together
    """

    def __init__(
        self, potential: Potential, settings: RelaxSettings, max_edges: int | None = None
    ) -> None:
        keep_freed_memory()
        self.structure_steps = 0
        self._potential = potential
        if max_edges is None:
            max_edges = edge_budget(potential)
        if settings.polish and potential.dtype != torch.float64:
            precise = deepcopy(potential).double()
            self._lanes = [
                _Lane(potential, settings.before_polish(), max_edges),
                _Lane(precise, settings, max(1, max_edges // 2)),
            ]
        else:
            self._lanes = [_Lane(potential, settings, max_edges)]
        self._structures: Structures = ()
        self._atoms: dict[int, Atoms] = {}
        self._next = 0
        self._candidate: Flight | None = None

    @property
    def in_flight(self) -> int:
        """Structures that have begun and are not done."""
        return sum(len(lane) for lane in self._lanes)

    @property
    def notes(self) -> list[str]:
        """What a user should know, such as that memory did not suffice for a batch."""
        return [note for lane in self._lanes for note in lane.evaluator.notes]

    def run(
        self, structures: Structures, snapshot: dict[str, Any] | None = None
    ) -> Iterator[Finished]:
        """Relax structures with keys that differ; after every step a list of those that are done.

        Most lists are empty. With a `snapshot` of a run of the same structures it goes on where
        that was taken, to the same floats. What cannot be relaxed at all comes as the error that
        says why. Raises ValueError where two keys are the same.
        """
        self._structures, self._atoms = structures, dict(structures)
        if len(self._atoms) < len(structures):
            raise ValueError("two structures have the same key")
        self._next, self._candidate, self.structure_steps = 0, None, 0
        for lane in self._lanes:
            lane.clear()
        if snapshot:
            self._next = snapshot["next"]
            self.structure_steps = snapshot["structure_steps"]
            for lane, found in zip(self._lanes, snapshot["lanes"], strict=True):
                lane.restore(found)
        while self._next < len(structures) or self.in_flight:
            yield self._turn()

    def snapshot(self) -> dict[str, Any]:
        """All that is in flight, as tensors and primitives; valid when a list was just yielded."""
        return {
            "next": self._next,
            "structure_steps": self.structure_steps,
            "lanes": [lane.snapshot() for lane in self._lanes],
        }

    def _turn(self) -> Finished:
        """One step of all that move, and the first evaluation of those that begin."""
        first, *others = self._lanes
        finished = self._admit(first)
        for lane in self._lanes:
            # What waits for float64 waits for company, or until nothing else is left to do.
            if lane is not first and len(first) and not lane.pays:
                continue
            self.structure_steps += lane.n_moving
            for ended in lane.turn():
                if ended.flight.met and not ended.trouble and lane is first and others:
                    others[0].enter(ended.flight.again(others[0].settings))
                else:
                    finished.append((ended.key, self._result(ended)))
        return finished

    def _admit(self, lane: _Lane) -> Finished:
        """Let structures in while there is room; those that cannot begin come back."""
        refused: Finished = []
        while self._next < len(self._structures):
            key, atoms = self._structures[self._next]
            if self._candidate is None:
                try:
                    slabs = one_slab(atoms, key, self._potential.model.state)
                    self._potential.check_elements(atoms.numbers)
                    self._candidate = lane.candidate(slabs)
                except StructureError as error:
                    refused.append((key, error))
                    self._next += 1
                    continue
            if not lane.has_room_for(self._candidate):
                break
            lane.enter(self._candidate)
            self._candidate = None
            self._next += 1
        return refused

    def _result(self, ended: _Ended) -> RelaxResult | StructureError:
        if not bool(ended.flight.energy.isfinite()):
            return StructureError(ended.trouble)
        return judge(self._atoms[ended.key], ended.flight.reached(ended.trouble))


def relax_many(
    structures: Iterable[Atoms],
    potential: Potential | MLFF2DCalculator,
    settings: RelaxSettings | None = None,
    max_edges: int | None = None,
) -> Iterator[tuple[int, RelaxResult | StructureError]]:
    """Relax many slabs in batches; the number of each and what became of it, as they are done.

    What cannot be relaxed at all comes as the error that says why.
    """
    if isinstance(potential, MLFF2DCalculator):
        potential = potential.potential
    relaxer = BatchRelaxer(potential, settings or RelaxSettings(), max_edges)
    for finished in relaxer.run(list(enumerate(structures))):
        yield from finished


@dataclass(frozen=True)
class _Ended:
    """A structure that left its batch: alone, at its last finite numbers."""

    flight: Flight
    trouble: str

    @property
    def key(self) -> int:
        return int(self.flight.slabs.key)


class _Lane:
    """Structures that move together by one potential: in flight, and waiting to join."""

    def __init__(self, potential: Potential, settings: RelaxSettings, max_edges: int) -> None:
        self.evaluator = Evaluator(potential, max_edges)
        self.settings = settings
        self._max_edges = max_edges
        self._device = next(potential.parameters()).device
        self._flight: Flight | None = None
        self._waiting: list[Flight] = []

    def __len__(self) -> int:
        return self.n_moving + len(self._waiting)

    @property
    def n_moving(self) -> int:
        """Structures that take the next step."""
        return 0 if self._flight is None else len(self._flight)

    @property
    def _parts(self) -> list[Flight]:
        return [*([] if self._flight is None else [self._flight]), *self._waiting]

    @property
    def _edges(self) -> int:
        return sum(int(part.edges.sum()) for part in self._parts)

    @property
    def pays(self) -> bool:
        """Whether the batch is half full."""
        return 2 * self._edges >= FULL * self.evaluator.max_edges

    def candidate(self, slabs: Slabs) -> Flight:
        """A slab ready to enter. Raises StructureError where its symmetry cannot be kept."""
        flight = Flight.starting(slabs, self.settings)
        flight = Flight.of_tensors(flight.tensors(), self.settings.optimizer, self._device)
        return replace(flight, edges=self.evaluator.n_edges(flight.slabs))

    def has_room_for(self, candidate: Flight) -> bool:
        edges = self._edges + int(candidate.edges)
        return not len(self) or edges <= FULL * self.evaluator.max_edges

    def enter(self, flight: Flight) -> None:
        """Let it wait for the next turn."""
        self._waiting.append(flight)

    def turn(self) -> list[_Ended]:
        """A step of those in flight, a first evaluation of those that wait; who is done leaves."""
        if not len(self):
            return []
        before = self._parts
        now = list(before)
        if self._flight is not None:
            now[0] = self._flight.moved(self.settings)
        flight = join(now)
        found = self.evaluator(flight.slabs)
        flight = flight.evaluated(found, self.settings)
        keys = flight.slabs.key.tolist()
        wild = runaways(flight.first_fmax, flight.fmax, flight.cell, flight.slabs)
        done = flight.met | (flight.step >= self.settings.steps)
        places = set(torch.nonzero(done)[:, 0].tolist()) | wild.keys()
        places |= {keys.index(key) for key in found.troubles}
        self._flight, self._waiting = flight, []
        if not places:
            return []
        staying = torch.ones(len(flight), dtype=torch.bool, device=self._device)
        staying[sorted(places)] = False
        self._flight = flight.select(staying) if len(places) < len(flight) else None
        earlier = join(before) if found.troubles else flight
        ended = []
        for s in sorted(places):
            broken = found.troubles.get(keys[s], "")
            alone = torch.arange(len(flight), device=self._device) == s
            last = (earlier if broken else flight).select(alone)
            ended.append(_Ended(last, broken or wild.get(s, "")))
        return ended

    def clear(self) -> None:
        """Forget all structures, and that memory ran out for them."""
        self._flight, self._waiting = None, []
        self.evaluator.max_edges, self.evaluator.part_edges = self._max_edges, None

    def snapshot(self) -> dict[str, Any]:
        """Tensors and primitives."""
        return {
            "flight": None if self._flight is None else self._flight.tensors(),
            "waiting": [flight.tensors() for flight in self._waiting],
            "max_edges": self.evaluator.max_edges,
            "part_edges": self.evaluator.part_edges,
        }

    def restore(self, found: dict[str, Any]) -> None:
        """What `snapshot` gave."""

        def built(plain: dict[str, Any]) -> Flight:
            return Flight.of_tensors(plain, self.settings.optimizer, self._device)

        self._flight = None if found["flight"] is None else built(found["flight"])
        self._waiting = [built(plain) for plain in found["waiting"]]
        self.evaluator.max_edges = found["max_edges"]
        self.evaluator.part_edges = found["part_edges"]
