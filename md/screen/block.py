"""One block of structures from its journal and snapshot to its end: the one primitive of screens.

Whoever works on a block, here or on another machine, calls `run_block`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from ase import Atoms

from mlff2d.errors import StructureError
from mlff2d.sources import Found

from ..relaxation.result import RelaxResult
from .journal import Journal
from .row import Record, failed, relaxed
from .run_folder import RunFolder

SAVE_SECONDS = 2.0
"""How often what is in flight is kept; a kill costs as much work, and no structure."""

_LOG = logging.getLogger(__name__)

Structures = Sequence[tuple[int, Atoms]]
Report = Callable[[list[Record], int], None]
"""Told after each step which structures were finished by it, and how many took it."""


class Relaxer(Protocol):
    """What relaxes structures; see `BatchRelaxer`."""

    structure_steps: int

    @property
    def notes(self) -> list[str]:
        """What the user should know, such as that memory ran out and batches became smaller."""

    def run(
        self, structures: Structures, snapshot: dict[str, Any] | None = None
    ) -> Iterator[list[tuple[int, RelaxResult | StructureError]]]:
        """Relax structures; lists of those that are done."""

    def snapshot(self) -> dict[str, Any]:
        """All that is in flight."""


class Work(Protocol):
    """What is done to every block."""

    @property
    def one_by_one(self) -> bool:
        """Whether structures do not depend on each other, so that those finished can be left out.

        Of others what is in flight is kept, to go on with the same company.
        """

    def start(self) -> Relaxer:
        """A relaxer that has done nothing yet."""


def silent(finished: list[Record], structure_steps: int) -> None:
    """Reports to nobody."""


def run_block(
    folder: RunFolder, k: int, samples: Iterable[Found], work: Work, report: Report = silent
) -> bool:
    """Relax what is not finished of block k; False where another process works on it.

    `samples` are all structures of the block; they are read only where there is something to do.
    The same floats come out however often this is cut short and called again. Raises OSError where
    nothing can be written; what is finished is kept.
    """
    journal = folder.claim(k)
    if journal is None:
        return False
    with journal:
        first, last = folder.plan.span(k)
        if len(journal.done) < last - first:
            _Block(folder, k, {f.index: f for f in samples}, work, journal, report).run()
        folder.remove_state(k)
    return True


class _Block:
    """A block that this process works on."""

    def __init__(
        self,
        folder: RunFolder,
        k: int,
        samples: dict[int, Found],
        work: Work,
        journal: Journal,
        report: Report,
    ) -> None:
        self._folder, self._k, self._samples, self._work = folder, k, samples, work
        self._journal, self._report = journal, report

    def run(self) -> None:
        """Finish it."""
        for index, found in self._samples.items():
            if isinstance(found.structure, StructureError) and index not in self._journal.done:
                self._keep([failed(found, found.structure)], 0)
        for snapshot in self._snapshots():
            try:
                keep = not self._work.one_by_one
                self._relax(self._structures(unfinished=not keep), snapshot, keep)
                break
            except Exception as error:
                _refuse_fatal(error)
        # Where something that nobody foresaw went wrong, only the structure it goes wrong with
        # suffers.
        for index, atoms in self._structures(unfinished=True):
            try:
                self._relax([(index, atoms)], None, keep=False)
            except Exception as error:
                _refuse_fatal(error)
                self._keep([failed(self._samples[index], error)], 0)

    def _snapshots(self) -> list[dict[str, Any] | None]:
        """What to try in turn: what was in flight, and to begin anew."""
        if self._work.one_by_one:
            return [None]
        snapshot = self._folder.load_state(self._k, len(self._journal.done))
        return [None] if snapshot is None else [snapshot, None]

    def _structures(self, unfinished: bool) -> list[tuple[int, Atoms]]:
        """What a relaxer is given: of a batch all, as the others there depend on who is in it."""
        return [
            (index, found.structure)
            for index, found in self._samples.items()
            if isinstance(found.structure, Atoms)
            and not (unfinished and index in self._journal.done)
        ]

    def _relax(self, structures: Structures, snapshot: dict[str, Any] | None, keep: bool) -> None:
        relaxer, saved = self._work.start(), time.monotonic()
        before: int | None = None
        n_notes = 0
        for finished in relaxer.run(structures, snapshot):
            for note in relaxer.notes[n_notes:]:
                _LOG.warning(note)
                n_notes += 1
            records = [self._record(index, result) for index, result in finished]
            steps = relaxer.structure_steps  # with those before the snapshot
            taken, before = 0 if before is None else steps - before, steps
            try:
                self._keep([r for r in records if r.index not in self._journal.done], taken)
            except OSError:
                raise
            except BaseException:  # whom it is reported to asks to stop
                if keep:
                    self._save(relaxer)
                raise
            if keep and time.monotonic() - saved > SAVE_SECONDS:
                self._save(relaxer)
                saved = time.monotonic()

    def _save(self, relaxer: Relaxer) -> None:
        self._folder.save_state(self._k, relaxer.snapshot(), len(self._journal.done))

    def _record(self, index: int, result: RelaxResult | StructureError) -> Record:
        found = self._samples[index]
        return relaxed(found, result) if isinstance(result, RelaxResult) else failed(found, result)

    def _keep(self, records: list[Record], structure_steps: int) -> None:
        for record in records:
            self._journal.add(record)
        self._report(records, structure_steps)


def _refuse_fatal(error: Exception) -> None:
    """Raise again what befell the machine and not a structure."""
    if isinstance(error, OSError | MemoryError | torch.AcceleratorError):
        raise error
