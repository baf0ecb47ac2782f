"""What predicts formation energies: what it is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .config import AlloyConfig
from .system import Configuration, System


@dataclass(frozen=True)
class Task:
    """Configurations to learn from, and others to answer for.

    Attributes
    ----------
    config : settings of the study
    systems : by name; of their configurations only `train` may be looked at for DFT results
    train : with DFT results, the end members of every system among them
    asked : what to answer for, those of `train` among them
    folder : for what the method keeps; what is finished there is not computed again
    seed : of all that is drawn
    """

    config: AlloyConfig
    systems: Mapping[str, System]
    train: Sequence[Configuration]
    asked: Sequence[Configuration]
    folder: Path
    seed: int

    def of(self, system: str) -> tuple[list[Configuration], list[Configuration]]:
        """What there is to learn from and to answer for in one system."""
        return (
            [one for one in self.train if one.system == system],
            [one for one in self.asked if one.system == system],
        )


@dataclass(frozen=True)
class Answer:
    """What a method says of one configuration.

    Attributes
    ----------
    formation : formation energy in eV per shared site, against end members by the same method;
        NaN where it has none
    energy : eV per shared site on the zero of DFT; NaN for methods without energies
    area : Å² per atom once relaxed; NaN for methods without structures
    status : of a relaxation, see `mlff2d.md.relaxation.result.STATUSES`; "" without
    reason : a sentence where the status is not "converged"
    """

    formation: float
    energy: float = np.nan
    area: float = np.nan
    status: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Answers:
    """What a method says, by system and name of the configuration, and what it wants to be known.

    Attributes
    ----------
    of : (system, configuration) to answer
    facts : figures of the fit by system or "", such as the cutoffs that were chosen
    failed : whether some could not be learnt, for a reason that may pass; they are tried again
    signal : number of a signal that ended it before it was done, else None
    """

    of: Mapping[tuple[str, str], Answer]
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: bool = False
    signal: int | None = None


Method = Callable[[Task], Answers]
"""Raises ValueError, one sentence, where it cannot learn from what it is given."""
