"""Entries of frames that are called otherwise than what is read: nothing is passed over in silence.

A material key that no frame has leaves reduced formulas to the split; forces called `force` are no
label to ASE. Neither is an error, and both are seen by nobody who is not told.
"""

from __future__ import annotations

from collections import Counter

from ase import Atoms

from mlff2d.errors import nearest

from .record import Keys

_LOOKS_LIKE = {"energy": ("energy",), "forces": ("force",), "stress": ("stress", "virial")}
_WANTED = {
    "energy": "energy, in eV",
    "forces": "forces, in eV/Å",
    "stress": "stress, in eV/Å³ of the cell with tension positive",
}
_KEYS = 20  # names of entries that are kept for a hint


class Entries:
    """What the entries of the frames of one source are called, as far as a user should know."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._frames = self._without_material = 0
        self._info: set[str] = set()
        self._unread: Counter[tuple[str, str]] = Counter()

    def look_at(self, atoms: Atoms) -> None:
        """The next frame."""
        self._frames += 1
        self._without_material += self._keys.material not in atoms.info
        if len(self._info) < _KEYS:
            self._info.update(map(str, atoms.info))
        if self._keys.target is not None or not self._keys.labels:
            return
        results = {} if atoms.calc is None else atoms.calc.results
        for label in _LOOKS_LIKE:
            names = ("energy", "free_energy") if label == "energy" else (label,)
            if any(results.get(name) is not None for name in names):
                continue
            entries = atoms.arrays if label == "forces" else atoms.info
            for name in map(str, entries):
                if any(part in name.lower() for part in _LOOKS_LIKE[label]):
                    self._unread[label, name] += 1

    def notes(self) -> list[str]:
        """Sentences for the user."""
        found = []
        lacking, key = self._without_material, self._keys.material
        if lacking and (lacking < self._frames or key != Keys.material):
            hint = nearest(key, self._info) if lacking == self._frames and self._info else ""
            found.append(
                f"{lacking} of {self._frames} frames have no {key!r} in info; their material is "
                f"the reduced formula.{hint}"
            )
        for (label, name), count in sorted(self._unread.items()):
            found.append(
                f"{count} frames without {label} have an entry {name!r}, which is not read; if it "
                f"is what its name says, call it {_WANTED[label]}."
            )
        return found
