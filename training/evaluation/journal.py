"""Finished relaxations in a file of JSON lines, so that a killed evaluation goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONVERGED, FAILED = "converged", "failed"
"""Of the statuses of a relaxation, the usual one and that where none could begin."""


@dataclass(frozen=True)
class Relaxed:
    """One finished relaxation; NaN where it did not come to anything.

    Attributes
    ----------
    status, reason, steps : see `mlff2d.md.relaxation.result`; "failed" where it could not
        begin
    met : whether forces and stress came below their thresholds, which is what counts here: such a
        structure may be another layer than before ("rebuilt")
    energy_start, energy : eV/atom before and after
    area : |a × b| / N in Å²/atom
    a, b : lengths of the lattice vectors in the plane, Å
    thickness : extent of the nuclei along the normal, Å
    seconds : since the one before was done, so that their sum is the time that all took
    """

    status: str
    met: bool
    reason: str = ""
    steps: int = 0
    energy_start: float = float("nan")
    energy: float = float("nan")
    area: float = float("nan")
    a: float = float("nan")
    b: float = float("nan")
    thickness: float = float("nan")
    seconds: float = 0.0


class Journal:
    """Relaxations by what they depend on; a line is written as soon as one is finished."""

    def __init__(self, path: Path) -> None:
        """A line that was cut off by a kill is passed over, and that relaxation done anew."""
        self.path = path
        self._rows: dict[str, Relaxed] = {}
        self._cut = False
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            self._cut = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    row = json.loads(line)
                    self._rows[row.pop("key")] = Relaxed(**row.pop("result"))
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue

    @staticmethod
    def key(*parts: Any) -> str:
        """A digest of all that a relaxation depends on."""
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Relaxed:
        """A relaxation that is finished."""
        return self._rows[key]

    def add(self, key: str, model: str, structure: str, result: Relaxed) -> None:
        """Keep a finished relaxation; model and structure are for people who read the file."""
        row = {"key": key, "model": model, "structure": structure, "result": asdict(result)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._cut + json.dumps(row) + "\n")
        self._cut = False
        self._rows[key] = result
