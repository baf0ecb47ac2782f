"""From settings to integrators."""

from __future__ import annotations

from collections.abc import Callable

from .bussi import Bussi
from .langevin import Langevin
from .nose_hoover import NoseHoover
from .npt import NPT
from .nve import NVE
from .settings import MDSettings
from .state import Integrator


def integrator(settings: MDSettings) -> Integrator:
    """What moves the atoms of a run; steps are counted from the first of the equilibration."""
    timestep, seed, coupling = settings.timestep, settings.seed, settings.coupling
    target = _target(settings)
    if settings.ensemble == "nve":
        return NVE(timestep)
    if settings.ensemble == "langevin":
        return Langevin(timestep, target, friction=1000 / coupling, seed=seed)
    if settings.ensemble == "nose-hoover":
        return NoseHoover(timestep, target, relaxation=coupling)
    if settings.ensemble == "bussi":
        return Bussi(timestep, target, relaxation=coupling, seed=seed)
    return NPT(
        timestep,
        target,
        pressure=settings.pressure,
        cell=settings.cell,
        friction=1000 / coupling,
        cell_time=settings.barostat_time,
        seed=seed,
    )


def equilibrator(settings: MDSettings) -> Integrator:
    """What moves them before step 0: the same, unless that knows no temperature."""
    if settings.ensemble != "nve":
        return integrator(settings)
    return Langevin(
        settings.timestep,
        settings.temperature,
        friction=1000 / settings.coupling,
        seed=settings.seed,
    )


def _target(settings: MDSettings) -> Callable[[int], float]:
    """The target in K by the number of steps done, those of the equilibration among them."""
    ramp, first = settings.ramp, settings.equilibrate
    return lambda step: ramp(step - first)
