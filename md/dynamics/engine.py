"""A run under way: its steps, its guards, and what it writes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from ase import Atoms

from mlff2d.interrupt import StopRequest
from mlff2d.potential import Potential

from ..evaluator import Evaluator
from ..memory import edge_budget
from . import restart
from .ensembles import equilibrator, integrator
from .files import RunFiles
from .measure import frames, nanoseconds_per_day, rows
from .novelty import NoveltyOf
from .prepare import Prepared
from .restart import Ended, Snapshot
from .result import FAILED, FINISHED, INTERRUPTED, STOPPED, ReplicaResult
from .settings import MDSettings
from .state import Integrator, MDState
from .trajectory import write_frames
from .watch import EVERY, Watch, timestep_limit

RESTLESS = 1.0
"""eV/Å. A start with a larger force is not relaxed."""

Tell = Callable[[str], None]
Progress = Callable[[int, int, int], None]
"""Called with the steps done, all steps, and the replicas that still move."""


class Engine:
    """A run under way; `latest` are its latest states, the last of them the present one."""

    def __init__(
        self,
        prepared: Prepared,
        settings: MDSettings,
        files: RunFiles,
        identity: dict[str, Any],
        tell: Tell,
    ) -> None:
        self._prepared, self._settings, self._files = prepared, settings, files
        self._identity, self._tell = identity, tell
        self._movers = (equilibrator(settings), integrator(settings))
        self._latest: deque[MDState] = deque(maxlen=settings.last + 1)
        self._ended: dict[int, Ended] = {}
        self._n_notes = 0

    def start(self, potential: Potential, snapshot: Snapshot | None) -> None:
        """Be where an earlier process was when it last saved, or at the first step."""
        if snapshot is None:
            self._equip(potential, edge_budget(potential))
            self.save()  # whatever is written from now on belongs to this run
        else:
            self._equip(potential, snapshot.max_edges)
            self._evaluator.part_edges = snapshot.part_edges
            if torch.get_num_threads() != snapshot.threads:
                torch.set_num_threads(snapshot.threads)  # sums may round otherwise
        if snapshot is None or not snapshot.latest:
            self._begin(potential)
            return
        self._latest.extend(snapshot.latest)
        self._ended = dict(snapshot.ended)
        if self._step_of(self.state) < self._settings.steps and self._moving:
            self._tell(f"Going on behind step {self._step_of(self.state)}.")

    def _begin(self, potential: Potential) -> None:
        """Step 0, or the first of the equilibration, and all that is written of it."""
        settings, prepared = self._settings, self._prepared
        device = next(potential.parameters()).device
        self._latest.append(
            self._mover(0).init(
                prepared.slabs.to(device),
                prepared.velocities.to(device),
                self._evaluator,
                prepared.masses.to(device),
            )
        )
        lightest = float(prepared.masses.min())
        if settings.timestep > timestep_limit(lightest):
            self._tell(
                f"A timestep of {settings.timestep:g} fs is long for the lightest atom "
                f"({lightest:.3g} amu): up to {timestep_limit(lightest):.2g} fs its fastest "
                "vibrations are followed well."
            )
        self._tell_restless()
        self._pass()
        self.save()

    def _equip(self, potential: Potential, max_edges: int) -> None:
        self._evaluator = Evaluator(potential, max_edges)
        novelty = None
        if "domain" not in self._settings.unguarded:
            if potential.domain is not None:
                novelty = NoveltyOf(self._evaluator.potential, max_edges)
            else:
                self._tell(
                    "The model does not know what surroundings it was trained on: nothing stops a "
                    "replica that goes beyond them."
                )
        self._watch = Watch(self._settings, self._prepared.starts, novelty)

    @property
    def state(self) -> MDState:
        """The present state of the replicas that move."""
        return self._latest[-1]

    @property
    def _moving(self) -> int:
        return self.state.slabs.n_structures

    def drive(self, stop: StopRequest, save_seconds: float, progress: Progress) -> float:
        """Take the steps that are left, or those until a signal; ns/day of what was done."""
        first = self.state.step
        last = self._settings.steps + self._settings.equilibrate
        begun = saved = time.monotonic()
        progress(first, last, self._moving)
        while self.state.step < last and self._moving and stop.signal is None:
            self._advance()
            progress(self.state.step, last, self._moving)
            if time.monotonic() - saved > save_seconds:
                self.save()
                saved = time.monotonic()
        seconds, steps = time.monotonic() - begun, self.state.step - first
        self.save()
        for key in self.state.slabs.key.tolist():
            self._write_last(key, "")
        return nanoseconds_per_day(steps, self._settings.timestep, seconds)

    def _advance(self) -> None:
        """One step, its guards, and what is written of it."""
        state = self._mover(self.state.step).step(self.state, self._evaluator)
        settings = self._settings
        if settings.ensemble == "nve" and state.step == settings.equilibrate:
            fresh = self._mover(state.step).init(
                state.slabs, state.velocities, self._evaluator, state.masses
            )
            state = replace(fresh, step=state.step)
        self._latest.append(state)
        for note in self._evaluator.notes[self._n_notes :]:
            self._tell(note)
        self._n_notes = len(self._evaluator.notes)
        self._pass()

    def _pass(self) -> None:
        """Stop the replicas that a guard stops, and write what is due of the others."""
        state = self.state
        if found := self._watch.look(state, closely=state.step % EVERY == 0):
            for key, reason in found.items():
                self._end(key, reason)
            kept = torch.tensor([key not in found for key in state.slabs.key.tolist()])
            self._latest[-1] = state = state.select(kept.to(state.energy.device))
        settings, step = self._settings, self._step_of(state)
        if not self._moving:
            return
        if step % settings.log_every == 0:
            target, replicas = settings.ramp(step), self._prepared.replicas
            self._files.log.add(rows(state, replicas, step, settings.timestep, target))
        if step >= 0 and step % settings.write_every == 0:
            for key, atoms in self._frames(state):
                self._files.trajectory(key).add(atoms)

    def _end(self, key: int, reason: str) -> None:
        """Stop a replica: its last good state and its last frames are kept."""
        at = self._step_of(self.state)
        reason = f"after step {at}: {reason}"
        good = _one(self._latest[-2], key) if len(self._latest) > 1 else None
        step = at if good is None else self._step_of(good)
        self._ended[key] = Ended(reason, step, good)
        self._write_last(key, reason)
        if good is not None and step >= 0 and step % self._settings.write_every:
            self._files.trajectory(key).add(self._frame(good))
        self._tell(f"Replica {key} was stopped {reason}.")

    def _write_last(self, key: int, reason: str) -> None:
        """The latest frames of a replica at full rate, as far as they are numbers."""
        found = []
        n_frames = self._settings.last + bool(reason)  # and the one with which it ended
        for state in list(self._latest)[-n_frames:]:
            one = _one(state, key)
            if one is not None and torch.isfinite(one.forces).all():
                found.append(self._frame(one))
        if reason and found:
            found[-1].info["stopped"] = reason
        write_frames(self._files.last(key), found)

    def _frames(self, state: MDState) -> Iterator[tuple[int, Atoms]]:
        replicas, step = self._prepared.replicas, self._step_of(state)
        return frames(state, replicas, step, self._settings.timestep)

    def _frame(self, one: MDState) -> Atoms:
        """Of a state with a single replica."""
        ((_, atoms),) = self._frames(one)
        return atoms

    def _mover(self, step: int) -> Integrator:
        return self._movers[step >= self._settings.equilibrate]

    def _step_of(self, state: MDState) -> int:
        return state.step - self._settings.equilibrate

    def _tell_restless(self) -> None:
        """Say which structures are so far from rest that they will heat up."""
        largest = self.state.forces.norm(dim=1).cpu()
        seen = set()
        for s, key in enumerate(self.state.slabs.key.tolist()):
            structure = self._prepared.replicas[key].structure
            force = float(largest[self.state.slabs.atoms_of(s)].max())
            if force > RESTLESS and structure not in seen:
                seen.add(structure)
                self._tell(
                    f"Structure {structure} ({self._prepared.formulas[structure]}) is not relaxed: "
                    f"it has a force of {force:.1f} eV/Å, which turns into heat. Relax it first, "
                    "with mlff2d-relax."
                )

    def save(self) -> None:
        """Write all that the run needs to go on from here."""
        files, replicas = self._files, self._prepared.replicas
        snapshot = Snapshot(
            settings=self._identity,
            max_edges=self._evaluator.max_edges,
            part_edges=self._evaluator.part_edges,
            threads=torch.get_num_threads(),
            n_replicas=files.n_replicas,
            latest=list(self._latest),
            ended=self._ended,
            log=files.log.size(),
            places={number: files.trajectory(number).place() for number in replicas},
        )
        restart.save(snapshot, files.state)

    def results(self) -> list[ReplicaResult]:
        """What became of every replica."""
        return [self._result(number) for number in range(self._prepared.n_replicas)]

    def _result(self, number: int) -> ReplicaResult:
        prepared, one, reason = self._prepared, None, ""
        step = self._step_of(self.state)
        status = FINISHED if step >= self._settings.steps else INTERRUPTED
        if number in prepared.failed:
            status, reason, step = FAILED, prepared.failed[number], 0
        elif number in self._ended:
            ended = self._ended[number]
            status, reason, step, one = STOPPED, ended.reason, ended.step, ended.state
        else:
            one = _one(self.state, number)
        structure = number // self._settings.replicas
        return ReplicaResult(
            replica=number,
            structure=structure,
            formula=prepared.formulas[structure],
            status=status,
            reason=reason,
            steps=step,
            atoms=None if one is None else self._frame(one),
        )


def _one(state: MDState, key: int) -> MDState | None:
    """The replica of that key alone, on the CPU; None where it is not there."""
    mask = state.slabs.key == key
    return state.select(mask).to("cpu") if mask.any() else None
