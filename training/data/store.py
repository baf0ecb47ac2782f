"""The HDF5 file of labelled structures: made, extended, and what stands at its head.

Its layout is that of `mlff2d.dataset_file`. Chunks are not compressed, so that HDF5 reads the rows
of one structure out of a chunk and not all of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mlff2d.dataset_file import (
    FORMAT,
    KIND,
    NAMES,
    PER_ATOM,
    PER_STRUCTURE,
    SCALARS,
    opened,
)
from mlff2d.files import naming

from .columns import Columns
from .record import Keys, Rejected

_ROWS = 2048  # in an HDF5 chunk; the speed of reading hardly depends on it
_SPARE = 2_000_000  # bytes; what chunks that are not full and the head take


@dataclass
class ConversionSummary:
    """How many frames were read and taken, how many refused of each kind, and one of each.

    `notes` are sentences that a user should read, `checks` what checks found, good and bad.
    """

    n_frames: int = 0
    n_taken: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)

    def refuse(self, path: Path, rejected: Rejected) -> None:
        """Count a refused frame under its kind, keeping the first as an example."""
        self.refused[rejected.kind] = self.refused.get(rejected.kind, 0) + 1
        self.examples.setdefault(rejected.kind, f"{path.name}, {rejected.where}: {rejected.reason}")

    def add(self, other: ConversionSummary) -> None:
        """Count in what another summary holds."""
        self.n_frames += other.n_frames
        self.n_taken += other.n_taken
        for kind, count in other.refused.items():
            self.refused[kind] = self.refused.get(kind, 0) + count
        self.examples = other.examples | self.examples
        self.notes += [note for note in other.notes if note not in self.notes]
        self.checks += [check for check in other.checks if check not in self.checks]

    def worst(self) -> str:
        """An example of what was refused most often."""
        if not self.refused:
            return "it holds none"
        return self.examples[max(self.refused, key=lambda kind: self.refused[kind])]


class StoreWriter:
    """Columns appended to a new HDF5 file, and what stands at its head written last.

    Strings are coded as they come. `content` is a digest of all that was appended.
    """

    def __init__(self, file: h5py.File, n_state: int) -> None:
        self._file = file
        self._codes: dict[str, dict[tuple[int, str], int]] = {name: {} for name in NAMES}
        self._digests: dict[str, Any] = {}
        state = ("state", (n_state,), "f8")
        coded = [(name, (), "i4") for name in NAMES]
        for name, shape, dtype in (*PER_ATOM, *PER_STRUCTURE, state, *SCALARS, *coded):
            # What has no numbers cannot be cut into chunks of a size of ours.
            rows = (_ROWS, *shape) if 0 not in shape else True
            file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=rows)
        file.create_dataset("offset", data=np.zeros(1, "i8"), maxshape=(None,), chunks=(_ROWS,))

    def append(self, columns: Columns) -> None:
        """Add structures: the columns of `columns_of`."""
        columns = {"level": np.full(len(columns["n_atoms"]), "")} | columns  # an older piece
        ends = self._file["offset"][-1] + np.cumsum(columns.pop("n_atoms"))
        for name in sorted(columns):
            values = columns[name]
            if name in NAMES:
                values = self._coded(name, values, columns["source"])
            values = np.ascontiguousarray(values, dtype=self._file[name].dtype)
            self._digests.setdefault(name, hashlib.blake2b(digest_size=16)).update(values.tobytes())
            self._extend(name, values)
        self._extend("offset", ends)

    def _coded(
        self, name: str, texts: NDArray[np.str_], sources: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Codes in order of appearance. A trajectory belongs to its source, a material to all."""
        codes = self._codes[name]
        whose = sources.tolist() if name == "trajectory" else [0] * len(texts)
        pairs = zip(whose, texts.tolist(), strict=True)
        return np.array([codes.setdefault(pair, len(codes)) for pair in pairs], dtype=np.int32)

    def _content(self) -> str:
        # Where no level is known the digest is that of files that have none.
        without = {"level"} if {text for _, text in self._codes["level"]} <= {""} else set()
        digests = [
            f"{name} {d.hexdigest()}"
            for name, d in sorted(self._digests.items())
            if name not in without
        ]
        lengths = hashlib.blake2b(self._file["offset"][:].tobytes(), digest_size=16).hexdigest()
        return hashlib.blake2b("\n".join([*digests, lengths]).encode(), digest_size=16).hexdigest()

    def finish(self, keys: Keys, sources: list[dict[str, str]], summary: ConversionSummary) -> None:
        """Write the tables of names and the head of the file."""
        for name, codes in self._codes.items():
            text = h5py.string_dtype()
            names = [name_ for _, name_ in codes]
            self._file.create_dataset(f"{name}_names", data=names, dtype=text)
        head = {
            "kind": KIND,
            "format": FORMAT,
            "keys": json.dumps(asdict(keys)),
            "sources": json.dumps(sources),
            "summary": json.dumps(asdict(summary)),
            "content": self._content(),
        }
        for key, value in head.items():
            self._file.attrs[key] = value

    def _extend(self, name: str, values: NDArray[Any]) -> None:
        data = self._file[name]
        before = len(data)
        data.resize(before + len(values), axis=0)
        data[before:] = values


@contextmanager
def writing(path: Path, n_state: int, folder: Path, size: int = 0) -> Iterator[StoreWriter]:
    """A new file, which gets its name when it is complete; until then it lies in a folder.

    `size` is about how many bytes it will have. Raises OSError (one sentence) where it cannot be
    written.
    """
    unfinished = folder / f"{path.name}.tmp"
    try:
        with naming(path):
            _refuse_little_room(unfinished, size + _SPARE)
            with h5py.File(unfinished, "w") as file:
                yield StoreWriter(file, n_state)
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _refuse_little_room(path: Path, size: int) -> None:
    """Raise OSError where a file of this size would not fit.

    HDF5 that runs out of room while it writes cannot close its file and takes the process with it.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(0)


@dataclass(frozen=True)
class Head:
    """What a file says of itself: the keys it was built with, its sources, what was refused."""

    keys: Keys
    sources: list[dict[str, str]]
    summary: ConversionSummary
    content: str
    n_frames: int


def read_head(path: Path) -> Head:
    """The head of a file; raises StructureError as `opened` does."""
    with opened(path) as file:
        keys = json.loads(file.attrs["keys"])
        return Head(
            keys=Keys(**keys | {"state": tuple(keys["state"])}),
            sources=json.loads(file.attrs["sources"]),
            summary=ConversionSummary(**json.loads(file.attrs["summary"])),
            content=file.attrs["content"],
            n_frames=len(file["offset"]) - 1,
        )
