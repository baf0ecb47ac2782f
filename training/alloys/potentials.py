"""Formation energies by potentials: as they are, trained further on DFT frames, or from scratch.

Each relaxes every configuration, the end members among them, from its start on Vegard's lattice.

Files in the folder of a task: `GROUP/run/best.pt` and `GROUP/energies/last.pt` are the potentials
after either training on a group of systems ("all", or one), `relaxed/SYSTEM.extxyz` is what the
last relaxed the configurations to. What the potentials relax as they are is the same in every split
and is kept in `zero-shot/START/` of the study's folder, its energies with the zero of the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ase.io
import numpy as np
import torch
from ase import Atoms

from mlff2d import checkpoint, slab
from mlff2d.atoms import canonical_slab
from mlff2d.devices import pick_device
from mlff2d.errors import StructureError
from mlff2d.potential import Potential

from ..config import ConfigError
from ..console import watched
from ..data.batches import pack
from ..data.convert import file_digest, open_sources
from ..data.dataset import Dataset
from ..evaluation.journal import Journal
from ..finetuning.start import fit_shift, load_start
from ..setup import refuse_elements
from .config import AlloyConfig, PotentialsConfig
from .formation import formation_energies
from .method import Answer, Answers, Method, Task
from .system import Configuration, System
from .training import CONFIG, Group, by_groups, labelled_frames, write_frames
from .tuning import final_file, two_trainings

ZERO_SHOT, FINE_TUNED, SCRATCH = "zero-shot", "fine-tuned", "scratch"
READOUT = "readout"
TRAINED = (FINE_TUNED, SCRATCH)
KINDS = (ZERO_SHOT, FINE_TUNED, SCRATCH, READOUT)
"""Methods that begin with each of `potentials.starts`."""


class Relaxed(Protocol):
    """What a relaxation reached; see `mlff2d.md.relaxation.result.RelaxResult`."""

    @property
    def atoms(self) -> Atoms:
        """The last geometry, its energy attached."""

    @property
    def status(self) -> str:
        """Converged, or what else became of it."""

    @property
    def reason(self) -> str:
        """A sentence where it is not converged."""

    @property
    def met(self) -> bool:
        """Whether forces and stress are below their thresholds."""


Relaxer = Callable[..., Iterable[tuple[int, Relaxed | StructureError]]]

relaxer: Relaxer | None = None
"""`relaxer(structures, potential, **settings of mlff2d.md.relaxation.settings.RelaxSettings)`."""


SAVE_SECONDS = 60.0
"""Between two writings of what has relaxed; a process that is killed loses no more."""


@dataclass(frozen=True)
class Trained:
    """A potential for a group of systems.

    Attributes
    ----------
    potential : its energies on the zero of `shift`
    digest : of its file
    folder : of what it relaxes
    shift : eV by atomic number, what brings its energies to the zero of DFT
    facts : of its training
    signal : of one that interrupted that
    """

    potential: Potential | None
    digest: str = ""
    folder: Path = Path()
    shift: Mapping[int, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    signal: int | None = None


def start_names(config: PotentialsConfig) -> list[str]:
    """A name for each of `potentials.starts`, none twice."""
    names: list[str] = []
    for start in config.starts:
        stem = Path(start).stem
        names.append(stem if stem not in names else f"{Path(start).parent.name}-{stem}")
    return names


def start_of(config: AlloyConfig, name: str) -> tuple[str, str]:
    """The start of a name, and that name; the first where it is "": a file or a shipped model."""
    names = start_names(config.potentials)
    name = name or names[0]
    return config.potentials.starts[names.index(name)], name


def expanded(config: AlloyConfig) -> list[str]:
    """The methods of a config, those by potentials once for each start.

    That of the first start is "fine-tuned", of another "fine-tuned:NAME".
    """
    others = start_names(config.potentials)[1:]
    return [
        name
        for method in config.methods
        for name in (method, *(f"{method}:{other}" for other in others if method in KINDS))
    ]


def method(name: str) -> Method:
    """The method "zero-shot", "fine-tuned", "scratch", or one of these with ":START"."""
    kind, _, start = name.partition(":")
    return partial(_answer, _MAKERS[kind], start)


def _answer(make: Callable[[Task, Group, str, str], Trained], start: str, task: Task) -> Answers:
    model, start = start_of(task.config, start)

    def of_group(group: Group) -> Answers:
        made = make(task, group, model, start)
        if made.potential is None:
            return Answers({}, signal=made.signal)
        found: dict[tuple[str, str], Answer] = {}
        for system in group.systems:
            own = [one for one in group.asked if one.system == system]
            relaxed = relax(made, own, task.config, made.folder / f"{system}.extxyz")
            found |= answers(own, relaxed, made.shift)
        return Answers(found, {group.facts_of: made.facts})

    return by_groups(task, of_group)


def as_it_is(task: Task, group: Group, model: str, name: str) -> Trained:
    """A start, its energies on its own zero.

    Raises ConfigError for a model that is no potential, or does not know an element.
    """
    device = pick_device(task.config.device)
    start = load_start(model, device, getattr(torch, task.config.dtype))
    potential = start.module
    if not isinstance(potential, Potential):
        raise ConfigError(f"potentials.starts: {model} is no potential.")
    present = {int(z) for one in group.asked for z in one.start.numbers}
    refuse_elements(potential.elements, tuple(sorted(present)), start)
    return Trained(potential, start.sha256, task.config.run_dir / ZERO_SHOT / name)


def _zero_shot(task: Task, group: Group, model: str, name: str) -> Trained:
    """The same, its zero moved to that of the frames to learn from."""
    made = as_it_is(task, group, model, name)
    assert made.potential is not None
    state = made.potential.model.state
    paths, _ = open_sources([_frames_file(group)], group.folder, CONFIG, state)
    data = Dataset(paths, made.potential.cutoff)
    batches = pack(np.arange(len(data)), data.n_edges, 4 * task.config.potentials.batch_size, 20000)
    shift = fit_shift(made.potential, data, batches)
    facts = {"frames": len(data), "start": name, "eV/atom before": shift.before}
    facts["eV/atom after"] = shift.after
    return replace(made, shift=shift.energies, facts=facts)


def _frames_file(group: Group) -> Path:
    path = group.folder / "frames.extxyz"
    write_frames(labelled_frames(group.train, relaxed=True), path)
    return path


def _fine_tuned(task: Task, group: Group, model: str, name: str) -> Trained:
    return _trained(task, group, model, name, scratch=False)


def _scratch(task: Task, group: Group, model: str, name: str) -> Trained:
    return _trained(task, group, model, name, scratch=True)


_MAKERS = {ZERO_SHOT: _zero_shot, FINE_TUNED: _fine_tuned, SCRATCH: _scratch}


def _trained(task: Task, group: Group, model: str, name: str, scratch: bool) -> Trained:
    found = two_trainings(task, group, model, scratch)
    if isinstance(found, int):
        return Trained(None, signal=found)
    potential = _load(found, task.config)
    parts = checkpoint.read(found)["training"]["frames"]
    facts = {"frames": parts["train"], "validation frames": parts["val"], "start": name}
    return Trained(potential, file_digest(found), task.folder / "relaxed", {}, facts)


def relax(
    by: Trained, asked: Sequence[Configuration], config: AlloyConfig, path: Path
) -> list[Atoms]:
    """What configurations become, in their order; what the file holds is not relaxed again.

    In info are status, reason, met (whether forces and stress are below their thresholds), and
    where they are the area in Å² per atom; what could not even begin has no energy, and its start
    as geometry.
    """
    settings = _settings(config)
    keys = [_key(by.digest, settings, config.dtype, one.start) for one in asked]
    there = _read(path)
    missing = {key: one for key, one in zip(keys, asked, strict=True) if key not in there}
    if missing:
        if relaxer is None:
            raise RuntimeError("mlff2d.training.alloys.potentials.relaxer is not set")
        starts = [one.start for one in missing.values()]
        places = list(missing.items())
        running = relaxer(starts, by.potential, **settings)
        written = time.monotonic()
        try:
            for k, result in watched(running, "relaxing", len(starts)):
                key, one = places[k]
                there[key] = _relaxed(one, key, result)
                if time.monotonic() - written >= SAVE_SECONDS:
                    _write(there, path)
                    written = time.monotonic()
        finally:
            if there:
                _write(there, path)
        there = _read(path)  # to the digits that it keeps, however often this is interrupted
    return [there[key] for key in keys]


def _write(there: Mapping[str, Atoms], path: Path) -> None:
    order = sorted(there, key=lambda key: (str(there[key].info[CONFIG]), key))
    write_frames([there[key] for key in order], path)


def _settings(config: AlloyConfig) -> dict[str, Any]:
    how = config.relax
    settings = {"fmax": how.fmax, "smax": how.smax, "steps": how.steps, "optimizer": "lbfgs"}
    return settings | {"polish": config.dtype == "float32"}


def _key(digest: str, settings: Mapping[str, Any], dtype: str, start: Atoms) -> str:
    geometry = [start.numbers.tolist(), start.positions.tolist(), start.cell.tolist()]
    return "k" + Journal.key(digest, dict(settings), dtype, geometry)  # never read as a number


def _read(path: Path) -> dict[str, Atoms]:
    if not path.exists():
        return {}
    return {atoms.info["key"]: atoms for atoms in ase.io.read(path, ":", format="extxyz")}


def _relaxed(one: Configuration, key: str, result: Relaxed | StructureError) -> Atoms:
    info: dict[str, Any] = {"system": one.system, CONFIG: one.name, "key": key}
    if isinstance(result, StructureError):
        atoms = one.start.copy()
        info |= {"status": "failed", "met": False, "reason": " ".join(str(result).split())}
    else:
        atoms = result.atoms
        info |= {"status": result.status, "met": bool(result.met)}
        info |= {"reason": result.reason} if result.reason else {}
        if result.met:  # another has no area to speak of, and may be no slab any more
            found = canonical_slab(atoms)
            info["area"] = slab.area(atoms.cell.array, found.pbc) / len(atoms)
    atoms.info = info
    return atoms


def answers(
    asked: Sequence[Configuration], relaxed: Sequence[Atoms], shift: Mapping[int, float]
) -> dict[tuple[str, str], Answer]:
    """Formation energies of the configurations of one system from what they relaxed to."""
    atoms_of = {one.name: atoms for one, atoms in zip(asked, relaxed, strict=True)}
    energies = {
        one.name: _energy(atoms_of[one.name], shift) / one.n_sites
        for one in asked
        if atoms_of[one.name].info["met"]
    }
    ends = {one.end_member: energies.get(one.name, np.nan) for one in asked if one.end_member}
    lost = {
        str(one.end_member): f"{one.name}: {atoms_of[one.name].info.get('reason', '')}"
        for one in asked
        if one.end_member and one.name not in energies
    }
    formation = formation_energies(asked, energies, {str(s): e for s, e in ends.items()})
    found = {}
    for one in asked:
        info = atoms_of[one.name].info
        reason = str(info.get("reason", ""))
        without = [text for species, text in lost.items() if one.shares.get(species)]
        if one.name in energies and without:
            reason = f"an end member did not relax ({'; '.join(without)})"
        found[one.system, one.name] = Answer(
            formation[one.name],
            energies.get(one.name, np.nan),
            float(info["area"]) if info["met"] else np.nan,
            str(info["status"]),
            reason,
        )
    return found


def _energy(atoms: Atoms, shift: Mapping[int, float]) -> float:
    return float(atoms.get_potential_energy()) + sum(shift.get(z, 0.0) for z in atoms.numbers)


def relaxed_structures(folder: Path, system: str) -> dict[str, Atoms]:
    """By name of the configuration what the potential of a method relaxed it to.

    `folder` is that of the method. In info see `relax`. Raises ValueError where none is there yet.
    """
    path = folder / "relaxed" / f"{system}.extxyz"
    if not path.exists():
        raise ValueError(f"{path} is not there yet; let {folder.name} finish first.")
    return {str(atoms.info[CONFIG]): atoms for atoms in _read(path).values()}


def final_potential(folder: Path, system: System, config: AlloyConfig) -> Potential | None:
    """The potential that a method trained on a system, from the method's folder; None without.

    Raises ModelFileError for a file that is none.
    """
    path = final_file(folder / ("all" if config.potentials.together else system.name))
    return _load(path, config) if path.exists() else None


def _load(path: Path, config: AlloyConfig) -> Potential:
    return checkpoint.load(path, pick_device(config.device), getattr(torch, config.dtype))
