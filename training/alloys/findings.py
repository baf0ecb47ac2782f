"""What a study has found so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .config import AlloyConfig
from .judge import Judged
from .method import Answers
from .system import Configuration, System

if TYPE_CHECKING:
    from .montecarlo import MonteCarlo


@dataclass
class Study:
    """What a study has found so far.

    Attributes
    ----------
    systems : by name
    compared : those with configurations enough to compare methods
    cells : by system, configurations without DFT results
    judged : every method in every system, split and size
    failures : by method and system, or "" for all, a sentence on what it could not do first
    facts : by method and system, what methods say of what they learnt
    final : by method, answers after learning from everything
    monte_carlo : what was found
    """

    config: AlloyConfig
    systems: dict[str, System]
    compared: dict[str, System]
    cells: dict[str, list[Configuration]]
    notes: list[str]
    judged: list[Judged] = field(default_factory=list)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    facts: dict[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    final: dict[str, Answers] = field(default_factory=dict)
    monte_carlo: list[MonteCarlo] = field(default_factory=list)

    @property
    def with_dft(self) -> list[Configuration]:
        """Configurations of the compared systems that DFT relaxed."""
        return [one for system in self.compared.values() for one in system.with_dft]
