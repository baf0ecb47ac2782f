"""The structures of a list that have no label yet, labelled and written to the journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase import Atoms

from mlff2d.errors import StructureError
from mlff2d.graph import Graph
from mlff2d.interrupt import StopRequest
from mlff2d.sources import Sources

from .journal import FAILED, STEP, UNUSABLE, Entry, Journal, key_of
from .pool import Pool
from .potential import Labeller, ModelSettings, set_threads
from .progress import LabelProgress
from .settings import LabelSettings, Options
from .worker import Order, Relaxer, Task

ALIKE = 20
"""So many structures that fail first, and for one reason, end a labelling."""


def is_left(entry: Entry | None, retry: bool) -> bool:
    """Whether a structure is to be labelled."""
    return entry is None or entry.status == STEP or (retry and entry.status == FAILED)


def readable(sources: Sources) -> Iterator[tuple[str, Atoms]]:
    """Every structure that can be read, with its key; the same one comes once."""
    seen: set[str] = set()
    for found in sources.read():
        if isinstance(found.structure, StructureError):
            continue
        key = key_of(found.structure)
        if key not in seen:
            seen.add(key)
            yield key, found.structure


def by_workers(
    sources: Sources,
    journal: Journal,
    folder: Path,
    settings: LabelSettings,
    options: Options,
    relaxer: Relaxer | None,
) -> int | None:
    """Label with a calculator of ASE in processes; the signal that ended it early, if one did.

    Raises ValueError where the calculator cannot work, FailedAlike where it seems so.
    """
    calculations = folder / "calculations"
    calculations.mkdir(exist_ok=True)
    relaxation = {"optimizer": "lbfgs", **options.relaxation()}
    order = Order(settings, calculations.resolve(), relaxer if options.steps else None, relaxation)
    todo: dict[str, Atoms] = {}
    total = 0
    for key, atoms in readable(sources):
        total += 1
        if is_left(journal.entries.get(key), options.retry):
            todo[key] = atoms
    if not todo:
        return None

    def tasks() -> Iterator[Task]:
        for key, atoms in todo.items():
            if stop.signal is not None:
                return
            yield Task(key, atoms, journal.frames(key) if options.steps else [])

    sizes = {key: len(atoms) for key, atoms in todo.items()}
    doubts = _Doubts()
    with (
        StopRequest() as stop,
        LabelProgress(sizes, total) as progress,
        Pool(order, options.workers, options.threads or 1, options.timeout) as pool,
    ):
        for event in pool.run(tasks()):
            if event is not None:
                key, status, what = event
                if status == UNUSABLE:
                    raise ValueError(what["reason"])
                journal.add(key, status, **what)
                journal.sync()
                progress.update(key, status, what.get("reason", ""))
                doubts.note(status, what.get("reason", ""))
            if stop.signal is not None:
                break
            progress.tick()
    return stop.signal


class FailedAlike(ValueError):
    """The first structures all failed for one `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the first {ALIKE} structures all failed alike ({reason}); if that can be mended, "
            "add --retry to try them again, else give it again to go on with the others"
        )
        self.reason = reason


class _Doubts:
    """Whether it is the calculator that fails, and not the structures."""

    def __init__(self) -> None:
        self._reasons: list[str] = []
        self._fine = False

    def note(self, status: str, reason: str) -> None:
        """Raise FailedAlike where the first structures all failed for one reason."""
        self._fine |= status != FAILED
        self._reasons.append(reason)
        if not self._fine and len(self._reasons) == ALIKE and len(set(self._reasons)) == 1:
            raise FailedAlike(reason)


def by_model(
    sources: Sources, journal: Journal, settings: ModelSettings, options: Options
) -> int | None:
    """Label with a potential of ours in this process; the signal that ended it, if one did."""
    set_threads(options.threads)
    labeller = Labeller(settings)
    sizes, total = {}, 0
    for key, atoms in readable(sources):
        total += 1
        if is_left(journal.entries.get(key), options.retry):
            sizes[key] = len(atoms)
    if not sizes:
        return None
    with StopRequest() as stop, LabelProgress(sizes, total, power=1.0) as progress:
        for batch in _batches(sources, labeller.batch_atoms):
            if not any(key in sizes for key, _ in batch):
                continue
            for key, status, what in _labelled(labeller, batch):
                if key in sizes:
                    journal.add(key, status, **what)
                    progress.update(key, status, what.get("reason", ""))
            journal.sync()
            if stop.signal is not None:
                break
            progress.tick()
    return stop.signal


def _batches(sources: Sources, most: int) -> Iterator[list[tuple[str, Atoms]]]:
    batch: list[tuple[str, Atoms]] = []
    n = 0
    for key, atoms in readable(sources):
        if batch and n + len(atoms) > most:
            yield batch
            batch, n = [], 0
        batch.append((key, atoms))
        n += len(atoms)
    if batch:
        yield batch


def _labelled(
    labeller: Labeller, batch: list[tuple[str, Atoms]]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What comes of a batch; its structures that the model refuses first."""
    able: list[tuple[str, Atoms, Graph]] = []
    for key, atoms in batch:
        try:
            able.append((key, atoms, labeller.graph(atoms)))
        except StructureError as error:
            yield key, FAILED, {"reason": str(error)}
    if able:
        yield from labeller.label(able)
