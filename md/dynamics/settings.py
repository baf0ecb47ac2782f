"""What molecular dynamics is told; the same in Python and for `mlff2d md`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlff2d.errors import nearest

from .ramp import Ramp

ENSEMBLES = {
    "nve": "constant energy and cell",
    "langevin": "constant temperature and cell, by friction and noise on every atom",
    "nose-hoover": "constant temperature and cell, by a chain of Nosé-Hoover thermostats",
    "bussi": "constant temperature and cell, by rescaling all velocities at random",
    "npt": "constant temperature and stress in the plane; the vacuum never moves",
}
"""Which ensemble is sampled, and how."""

CELLS = {
    "isotropic": "the size of the cell: the ratio of its lattice vectors and their angle stay",
    "full": "both lattice vectors in the plane",
}
"""What of the cell moves in the ensemble npt."""

GUARDS = {
    "temperature": "the temperature has run away",
    "close": "two atoms have fallen onto each other",
    "layer": "the layer has broken, or a fragment has left",
    "cell": "the stress or the area has left all bounds",
    "domain": "an atom has surroundings far from all that the model was trained on",
}
"""What stops a replica, beside numbers that are no numbers."""

VELOCITIES = {
    "draw": "from the distribution of Maxwell and Boltzmann at the (first) temperature",
    "keep": "as the structures have them",
}
"""Where the velocities of the start come from."""


@dataclass(frozen=True)
class MDSettings:
    """How the atoms of slabs move.

    Attributes
    ----------
    ensemble : a key of `ENSEMBLES`
    steps : of the run, without those of `equilibrate`
    timestep : fs
    temperature : K, of the thermostat; of "nve" that of the velocities drawn
    temperature_end : K; where given, the target moves evenly to it over the run
    equilibrate : steps before step 0 that enter no mean: by "langevin" where the ensemble is "nve",
        by the ensemble itself else
    thermostat_time : fs, in which a thermostat renews the velocities: of "langevin" and "npt" one
        over the friction, by default 500; of the others the relaxation time, by default 100
    pressure : N/m, of "npt" only: on average the in-plane stress is -pressure
    cell : a key of `CELLS`, of "npt" only
    barostat_time : fs, of "npt" only: the mass of the cell, see `NPT`
    velocities : a key of `VELOCITIES`
    replicas : of every structure, each with velocities and noise of its own
    seed : of all that is drawn
    log_every, write_every : steps from one line of the log, and from one frame, to the next
    last : frames of the latest steps that are kept, to be written when something stops a replica
    max_temperature : K, of the guard; by default three times the highest target (300 K at least),
        and more where few atoms make it fluctuate
    unguarded : keys of `GUARDS` that are switched off

    Raises ValueError for what makes no sense.
    """

    ensemble: str = "langevin"
    steps: int = 10_000
    timestep: float = 1.0
    temperature: float = 300.0
    temperature_end: float | None = None
    equilibrate: int = 0
    thermostat_time: float | None = None
    pressure: float = 0.0
    cell: str = "full"
    barostat_time: float = 1000.0
    velocities: str = "draw"
    replicas: int = 1
    seed: int = 0
    log_every: int = 10
    write_every: int = 100
    last: int = 50
    max_temperature: float | None = None
    unguarded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _choice("ensemble", self.ensemble, ENSEMBLES)
        _choice("cell", self.cell, CELLS)
        _choice("velocities", self.velocities, VELOCITIES)
        for name in self.unguarded:
            _choice("guard", name, GUARDS)
        for name in ("timestep", "thermostat_time", "barostat_time"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number of fs: {value}")
        for name, least in (("steps", 0), ("equilibrate", 0), ("last", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}: {getattr(self, name)}")
        for name in ("replicas", "log_every", "write_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")
        for name in ("temperature", "temperature_end", "max_temperature"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of K, not below zero: {value}")
        if not abs(self.pressure) < math.inf:
            raise ValueError(f"the pressure must be a finite number of N/m: {self.pressure}")
        self._refuse_what_does_nothing()

    def _refuse_what_does_nothing(self) -> None:
        if self.pressure and self.ensemble != "npt":
            raise ValueError(
                f"a pressure does nothing in the ensemble {self.ensemble!r}: take npt, or leave "
                "it out"
            )
        if self.ensemble != "npt":
            for name, text in (("cell", "--cell"), ("barostat_time", "--barostat-time")):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(
                        f"{name} ({text}) does nothing in the ensemble {self.ensemble!r}, whose "
                        "cell never moves: take npt, or leave it out"
                    )
        if self.ensemble == "nve" and self.thermostat_time is not None and not self.equilibrate:
            raise ValueError(
                "thermostat_time (--thermostat-time) does nothing in nve without an equilibration: "
                "give that steps, or leave it out"
            )
        if self.ensemble == "nve" and not self.ramp.is_flat:
            raise ValueError(
                "a ramp of the temperature needs a thermostat, and nve has none: take langevin, "
                "nose-hoover, bussi or npt"
            )
        if self.ensemble != "nve" and not (self.temperature and self.ramp.end):
            raise ValueError("a thermostat needs temperatures above 0 K, such as 1 K")

    @property
    def ramp(self) -> Ramp:
        """The target temperature by the step."""
        end = self.temperature if self.temperature_end is None else self.temperature_end
        return Ramp(self.temperature, end, self.steps)

    @property
    def coupling(self) -> float:
        """The `thermostat_time` in fs, or its default."""
        if self.thermostat_time is not None:
            return self.thermostat_time
        return 500.0 if self.ensemble in ("langevin", "npt") else 100.0


def _choice(what: str, name: str, choices: dict[str, str]) -> None:
    if name not in choices:
        raise ValueError(f"there is no {what} {name!r}.{nearest(name, choices)}")
