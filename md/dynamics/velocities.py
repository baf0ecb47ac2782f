"""Velocities to start from."""

from __future__ import annotations

import torch
from ase import units
from torch import Tensor

from mlff2d.nn.scatter import segment_sum

from ..slabs import Slabs
from .noise import VELOCITIES, normal, require_seed
from .state import degrees_of_freedom, element_masses, without_net


def maxwell_boltzmann(
    slabs: Slabs,
    temperature: float,
    seed: int = 0,
    masses: Tensor | None = None,
    exact: bool = False,
) -> Tensor:
    """(N, 3) velocities in ASE's unit, drawn at a temperature in K.

    Held atoms have none. Where no atom is held, the centre of mass is at rest, to rounding: what is
    drawn is the distribution at that momentum. The slabs are periodic, so that there is no
    rotation to take out. `exact` scales each replica to the very temperature; else its kinetic
    energy has the chi-square distribution of its `degrees_of_freedom`.

    Raises ValueError for a temperature that is negative or no number.
    """
    require_seed(seed)
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"the temperature must not be negative: {temperature} K")
    masses = element_masses(slabs) if masses is None else masses.to(slabs.pos)
    thermal = (masses * units.kB * temperature).sqrt()[:, None]
    momenta = without_net(normal(slabs, seed, 0, VELOCITIES) * thermal, slabs, masses)
    velocities = momenta / masses[:, None]
    if not exact:
        return velocities
    twice = segment_sum((momenta * velocities).sum(1), slabs.batch, slabs.n_structures)
    wanted = degrees_of_freedom(slabs) * units.kB * temperature
    scale = torch.where(twice > 0, wanted / twice, torch.zeros_like(twice)).sqrt()
    return velocities * scale[slabs.batch, None]
