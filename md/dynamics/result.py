"""What a run of molecular dynamics reached."""

from __future__ import annotations

from dataclasses import dataclass

from ase import Atoms

from .log import Array

FINISHED, STOPPED, INTERRUPTED, FAILED = "finished", "stopped", "interrupted", "failed"

STATUSES = {
    FINISHED: "all steps were taken",
    STOPPED: "a guard stopped it",
    INTERRUPTED: "the run was interrupted; the same command goes on",
    FAILED: "it could not begin",
}
"""What becomes of a replica."""


@dataclass(frozen=True)
class ReplicaResult:
    """What became of a replica.

    Attributes
    ----------
    replica, structure : numbers from 0 among all replicas, and of its structure in the input
    formula : "" where the structure could not be read
    status : a key of `STATUSES`
    reason : a sentence where it was stopped or failed, else ""
    steps : taken since step 0, negative where it ended in the equilibration
    atoms : the last good geometry, with velocities, energy, forces and stress; None where there is
        none
    """

    replica: int
    structure: int
    formula: str
    status: str
    reason: str
    steps: int
    atoms: Atoms | None


@dataclass(frozen=True)
class MDResult:
    """What a run reached.

    Attributes
    ----------
    replicas : one entry each, in order
    log : columns by the names of `mlff2d.md.dynamics.log.LogRow`, one line for a replica and step
    ns_per_day : of each replica, all that move together counted as one; NaN where no step was taken
    signal : number of the signal that interrupted the run, else None
    """

    replicas: list[ReplicaResult]
    log: dict[str, Array]
    ns_per_day: float
    signal: int | None
