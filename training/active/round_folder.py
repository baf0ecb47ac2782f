"""What a round leaves behind, file by file; a file that is there says that its step is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RoundFolder:
    """The files of a round.

    Round 0 is what there is before the first: it has models and a report, and no frames.
    """

    run_dir: Path
    number: int

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.run_dir / f"round-{self.number:02d}"

    @property
    def exploring(self) -> Path:
        """What an exploration goes on from; removed when it is done."""
        return self.path / "exploring"

    @property
    def explored(self) -> Path:
        """All frames that were seen, without labels."""
        return self.path / "explored.extxyz"

    @property
    def exploration(self) -> Path:
        """How many frames of which kind, and what went wrong."""
        return self.path / "explored.json"

    @property
    def picked(self) -> Path:
        """Those that are to be labelled, the first choice first."""
        return self.path / "picked.extxyz"

    @property
    def choice(self) -> Path:
        """How they were picked, and how many were left out for which reason."""
        return self.path / "picked.json"

    @property
    def labelled(self) -> Path:
        """Those of them whose labelling did not fail."""
        return self.path / "labelled.h5"

    def member(self, number: int) -> Path:
        """The training of a member of the committee."""
        return self.path / "models" / f"member-{number}"

    @property
    def report(self) -> Path:
        """The figures of the round, written last."""
        return self.path / "report.json"
