"""What a Monte Carlo run is told."""

from __future__ import annotations

from dataclasses import dataclass

from ..dynamics.noise import require_seed
from ..relaxation.settings import RelaxSettings


@dataclass(frozen=True)
class SwapSettings:
    """How atoms change places.

    Attributes
    ----------
    temperatures : K, all different; each has walkers of its own, all of which move at a time
    sweeps : as many trials for each shared site
    equilibration : of these sweeps, those that are not kept
    replicas : walkers at each temperature of each structure, each from its own random arrangement
    exchange : after every sweep, let walkers at neighbouring temperatures change places
    relax : how every trial is relaxed, from the lattice given; None leaves the atoms on it
    seed : of all that is drawn

    Raises ValueError for what makes no sense.
    """

    temperatures: tuple[float, ...]
    sweeps: int = 200
    equilibration: int = 60
    replicas: int = 1
    exchange: bool = True
    relax: RelaxSettings | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperatures or not all(0 < t < float("inf") for t in self.temperatures):
            raise ValueError(f"temperatures must be positive: {list(self.temperatures)}")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(
                f"give each temperature once and take more replicas: {list(self.temperatures)}"
            )
        if not 0 <= self.equilibration < self.sweeps:
            raise ValueError(
                f"of {self.sweeps} sweeps {self.equilibration} cannot be equilibration: some must "
                "be left"
            )
        if self.replicas < 1:
            raise ValueError(f"there must be at least one replica: {self.replicas}")
        require_seed(self.seed)
