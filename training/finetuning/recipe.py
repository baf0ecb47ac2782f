"""Settings to fine-tune with where only a start and files are given.

They were chosen on PBE frames of TMD monolayers and alloys, starting from `universal` and from an
imported nequix: all weights at one small rate for some hundred steps. Figures are in
docs/finetuning.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlff2d.dataset_file import is_hdf5

from ..config import ConfigError
from ..console import watched
from ..data.frames import Frames as Stored
from ..data.readers import iter_frames
from ..data.record import label_fault, material_of
from ..data.splits import part_of
from ..data.store import read_head

LR = 5e-4
STEPS = 600
BATCH_SIZE = 4
FEWEST_EPOCHS = 10

KEYS = ("config", "configuration", "config_id", "structure", "material", "trajectory", "run")
"""Entries of `atoms.info` that may tell groups of frames apart, the finest first."""

_FEWEST_GROUPS = 5
_FEWEST_FOR_ALL = 4
_FEWEST_FRAMES = 10
_SEEDS = 500
_MANY_GROUPS = 200


@dataclass
class Frames:
    """What files hold, as far as a split depends on it.

    Attributes
    ----------
    groups : by entry of info, and by None for the reduced formula, the group of each frame
    elements : of each frame
    """

    n: int = 0
    groups: dict[str | None, list[str]] = field(default_factory=dict)
    elements: list[frozenset[int]] = field(default_factory=list)


def default_settings(
    start: str, files: Sequence[Path], run_dir: Path
) -> tuple[dict[str, Any], list[str]]:
    """A config's settings for fine-tuning a model on files, and sentences on the choices.

    Raises StructureError for files that cannot be read, ConfigError for too few frames.
    """
    frames = look_into(files)
    split, key, notes = choose_split(frames)
    n_train = round(frames.n * (1 - split["val"] - split["test"]))
    settings = {
        "run_dir": str(run_dir),
        "data": {"files": [str(path) for path in files], "material_key": key},
        "split": split,
        "model": {"from": start},
        "loss": {"kind": "mae", "energy": 4.0, "forces": 1.0, "stress": 0.1},
        "train": {
            "epochs": epochs_for(n_train),
            "batch_size": BATCH_SIZE,
            "lr": LR,
            "warmup_epochs": 1.0,
            "ema": 0.98,
            "threads": 1,
        },
        "finetune": {},
    }
    return settings, notes


def epochs_for(n_train: int) -> int:
    """Passes over so many frames that make about `STEPS` steps, and not too few of them."""
    return max(FEWEST_EPOCHS, math.ceil(STEPS / math.ceil(max(n_train, 1) / BATCH_SIZE)))


def look_into(files: Sequence[Path]) -> Frames:
    """Read all frames of some files for what tells groups of them apart.

    Raises ConfigError for HDF5 files that were built with different material keys.
    """
    found = Frames()
    infos: list[dict[str | None, str]] = []
    built = {read_head(path).keys.material for path in files if is_hdf5(path)}
    if len(built) > 1:
        raise ConfigError(
            f"the HDF5 files were built with different material keys ({', '.join(sorted(built))}); "
            "build them anew with one."
        )
    for path in files:
        if is_hdf5(path):
            rows = Stored([path])
            names, codes = rows.names("material")[0], rows.column("material")
            infos += [{read_head(path).keys.material: names[code]} for code in codes]
            atoms_of = np.split(rows.column("z"), rows.offset[1:-1])
            found.elements += [frozenset(z.tolist()) for z in atoms_of]
            continue
        for _, atoms in watched(iter_frames(path), f"looking into {path.name}"):
            if isinstance(atoms, Atoms) and label_fault(atoms) is None:
                own: dict[str | None, str] = {None: material_of(atoms, "")}
                own |= {key: str(atoms.info[key]) for key in KEYS if key in atoms.info}
                own |= {key: material_of(atoms, key) for key in built}
                infos.append(own)
                found.elements.append(frozenset(atoms.numbers.tolist()))
    found.n = len(infos)
    for key in sorted(built) or (*KEYS, None):
        if infos and all(key in info for info in infos):
            found.groups[key] = [info[key] for info in infos]
    return found


def choose_split(frames: Frames) -> tuple[dict[str, Any], str, list[str]]:
    """The section `split`, the material key, and sentences on them.

    Raises ConfigError where there is nothing to split.
    """
    if frames.n < _FEWEST_FOR_ALL:
        raise ConfigError(
            f"the files hold {frames.n} usable frames; fine-tuning needs at least "
            f"{_FEWEST_FOR_ALL}."
        )
    shares = (0.15, 0.2) if frames.n >= _FEWEST_FRAMES else (0.25, 0.0)
    for name, groups in frames.groups.items():
        if len(set(groups)) >= _FEWEST_GROUPS:
            what = "reduced formula" if name is None else f"info entry {name!r}"
            seed = _best_seed(groups, frames.elements, *shares)
            note = (
                f"Split by {what} ({len(set(groups))} groups of {frames.n} frames): of one group "
                "all frames are in the same part."
            )
            return _split("material", shares, seed), name or "material", [note, *_few(frames.n)]
    built = next(iter(frames.groups), None)
    note = (
        f"Split by frame, as the {frames.n} frames are no {_FEWEST_GROUPS} groups by formula or by "
        f"an entry of info ({', '.join(KEYS)}): frames of one configuration may be in several "
        "parts, and errors then look too good. Name an entry of info that tells them apart with "
        "--set data.material_key=... --set split.by=material."
    )
    return _split("frame", shares, 0), built or "material", [note, *_few(frames.n)]


def _split(by: str, shares: tuple[float, float], seed: int) -> dict[str, Any]:
    return {"by": by, "val": shares[0], "test": shares[1], "seed": seed}


def _few(n: int) -> list[str]:
    if n >= _FEWEST_FRAMES:
        return []
    return ["With so few frames there is no test part; errors are those of the validation part."]


def _best_seed(groups: list[str], elements: list[frozenset[int]], val: float, test: float) -> int:
    """The first seed with which the parts are nearest to their shares, judged by sizes alone.

    Names are drawn one by one, so that of few groups a part may be empty by chance, or lose frames
    with an element that training lacks.
    """
    if len(set(groups)) > _MANY_GROUPS:
        return 0
    best, least = 0, math.inf
    for seed in range(_SEEDS):
        part = {name: part_of(name, seed, val, test) for name in set(groups)}
        pairs = list(zip(groups, elements, strict=True))
        known = frozenset().union(*(e for name, e in pairs if part[name] == "train"))
        counts = Counter(part[name] for name, e in pairs if e <= known)
        lost = len(groups) - counts.total()
        wanted = {"val": val * len(groups), "test": test * len(groups)}
        distance = lost + sum(abs(counts[name] - n) for name, n in wanted.items())
        if counts["val"] and distance < least:
            best, least = seed, distance
    return best
