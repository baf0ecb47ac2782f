"""The state that molecular dynamics moves: replicas of slabs in one batch, float64.

Units are ASE's: Å, eV, amu, and for the time Å sqrt(amu/eV), of which a femtosecond is
`ase.units.fs`; so velocities are in Å sqrt(eV/amu)/Å, as `Atoms.get_velocities` has them. Settings
give times in fs.

An integrator is a frozen dataclass of settings with two pure functions (see `Integrator`):

    state = integrator.init(slabs, velocities, evaluate)
    state = integrator.step(state, evaluate)

Axes: S structures (replicas), N atoms of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from ase import units
from ase.data import atomic_masses
from torch import Tensor

from mlff2d.errors import StructureError
from mlff2d.nn.scatter import segment_sum
from mlff2d.slab import batched_area
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

from ..relaxation.cell import plane_axes
from ..slabs import Slabs
from .plane import project

if TYPE_CHECKING:
    from ..evaluator import Evaluation

Evaluate = Callable[[Slabs], "Evaluation"]
"""Energies, forces and virials of slabs, an `Evaluator`."""

Temperature = float | Callable[[int], float]
"""K, or a function from the number of steps done to K: a ramp."""


@dataclass(frozen=True)
class MDState:
    """Replicas at the end of a step.

    Attributes
    ----------
    slabs : geometries; positions are never wrapped, so that paths of atoms are without jumps
    masses : (N,) amu
    velocities : (N, 3) in ASE's unit, zero for atoms that are held
    forces : (N, 3) eV/Å as they move atoms: zero for atoms that are held, and where none is held
        without the net force of rounding, so that the centre of mass keeps its velocity
    energy : (S,) potential energy in eV
    virial : (S, 3, 3) dE/dstrain in eV of the potential energy
    step : steps done
    bath : what a thermostat and a barostat carry along, by name, first axis S
    conserved : (S,) eV, the quantity that the exact dynamics would keep
    troubles : a sentence by key of each replica whose model failed; its numbers are NaN
    """

    slabs: Slabs
    masses: Tensor
    velocities: Tensor
    forces: Tensor
    energy: Tensor
    virial: Tensor
    step: int
    conserved: Tensor
    bath: dict[str, Tensor] = field(default_factory=dict)
    troubles: dict[int, str] = field(default_factory=dict)

    def select(self, kept: Tensor) -> MDState:
        """The replicas that a mask (S,) keeps, in their order."""
        rows = kept[self.slabs.batch]
        keys = set(self.slabs.key[kept].tolist())
        return MDState(
            slabs=self.slabs.select(kept),
            masses=self.masses[rows],
            velocities=self.velocities[rows],
            forces=self.forces[rows],
            energy=self.energy[kept],
            virial=self.virial[kept],
            step=self.step,
            conserved=self.conserved[kept],
            bath={name: value[kept] for name, value in self.bath.items()},
            troubles={key: text for key, text in self.troubles.items() if key in keys},
        )

    def to(self, device: torch.device | str) -> MDState:
        """The same on a device."""
        return MDState.from_dict(self.as_dict(), device)

    def as_dict(self) -> dict[str, Any]:
        """Tensors and primitives alone, from which `from_dict` makes the same state bit for bit."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["slabs"] = {f.name: getattr(self.slabs, f.name) for f in fields(self.slabs)}
        return plain

    @staticmethod
    def from_dict(plain: dict[str, Any], device: torch.device | str = "cpu") -> MDState:
        """The state that `as_dict` took apart, on a device."""

        def there(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        parts = {name: there(value) for name, value in plain.items()}
        parts["slabs"] = Slabs(**{name: there(value) for name, value in plain["slabs"].items()})
        parts["bath"] = {name: there(value) for name, value in plain["bath"].items()}
        return MDState(**parts)


class Integrator(Protocol):
    """What every ensemble has.

    `init` raises StructureError for a replica that cannot move: without a free degree of freedom,
    or at rest where the thermostat only scales velocities. The tensors of a state are never
    changed in place, so that an older state stays as it was.
    """

    @property
    def timestep(self) -> float:
        """fs."""

    def init(
        self,
        slabs: Slabs,
        velocities: Tensor,
        evaluate: Evaluate,
        masses: Tensor | None = None,
    ) -> MDState:
        """The state at step 0; `masses` (N,) are by default those of the elements."""

    def step(self, state: MDState, evaluate: Evaluate) -> MDState:
        """One step of `timestep` further; evaluates once."""


def kelvin(temperature: Temperature, step: int) -> float:
    """The target temperature in K of the step after `step` steps."""
    return float(temperature(step)) if callable(temperature) else float(temperature)


def element_masses(slabs: Slabs) -> Tensor:
    """(N,) amu, the standard atomic masses."""
    return torch.from_numpy(atomic_masses).to(slabs.pos)[slabs.z]


def degrees_of_freedom(slabs: Slabs) -> Tensor:
    """(S,) float64: three for each free atom, less three where none is held (momentum)."""
    free = segment_sum((~slabs.held).double(), slabs.batch, slabs.n_structures)
    return 3 * (free - floats(slabs).double())


def floats(slabs: Slabs) -> Tensor:
    """(S,) bool, where no atom is held, so that the momentum is conserved."""
    return segment_sum(slabs.held.double(), slabs.batch, slabs.n_structures) == 0


def kinetic_energy(state: MDState) -> Tensor:
    """(S,) eV."""
    each = (state.velocities**2).sum(1) * state.masses / 2
    return segment_sum(each, state.slabs.batch, state.slabs.n_structures)


def temperature(state: MDState) -> Tensor:
    """(S,) K, twice the kinetic energy over k and the `degrees_of_freedom`."""
    return 2 * kinetic_energy(state) / (units.kB * degrees_of_freedom(state.slabs))


def kinetic_tensor(velocities: Tensor, masses: Tensor, slabs: Slabs) -> Tensor:
    """(S, 3, 3) the sums of m v v in eV."""
    outer = (velocities * masses[:, None]).unsqueeze(2) * velocities.unsqueeze(1)
    return segment_sum(outer, slabs.batch, slabs.n_structures)


def stress(state: MDState) -> Tensor:
    """(S, 2, 2) in-plane stress in N/m in the axes of `plane_axes`, tension positive.

    With the motion of the atoms: (dE/dstrain - sum of m v v) / area. At a pressure p its mean is
    -p to within kT / area, which is what a centre of mass at rest lacks of motion.
    """
    slabs = state.slabs
    motion = kinetic_tensor(state.velocities, state.masses, slabs)
    both = project(state.virial - motion, plane_axes(slabs.cell, slabs.pbc))
    area = batched_area(slabs.cell, slabs.pbc)[:, None, None]
    return both / area * EV_PER_ANGSTROM2_IN_N_PER_M


def begin(
    slabs: Slabs, velocities: Tensor, evaluate: Evaluate, masses: Tensor | None = None
) -> MDState:
    """The state at step 0 without a bath; see `Integrator.init`.

    Where no atom is held, the velocity of the centre of mass is taken out.
    """
    frozen = degrees_of_freedom(slabs) == 0
    if frozen.any():
        which = ", ".join(str(key) for key in slabs.key[frozen].tolist())
        raise StructureError(
            f"nothing can move in structure {which}: a lone atom, or all atoms held; "
            "repeat the cell, or free some atoms"
        )
    masses = element_masses(slabs) if masses is None else masses.to(slabs.pos)
    velocities = velocities.to(slabs.pos)
    if velocities.shape != slabs.pos.shape or masses.shape != slabs.z.shape:
        raise ValueError(
            f"{len(slabs.pos)} atoms, velocities of shape {tuple(velocities.shape)}, masses of "
            f"shape {tuple(masses.shape)}"
        )
    if not (velocities.isfinite().all() and (masses > 0).all()):
        raise ValueError("velocities must be finite and masses positive")
    momenta = without_net(velocities * masses[:, None], slabs, masses)
    empty = slabs.pos.new_zeros(slabs.n_structures)
    state = MDState(
        slabs=slabs,
        masses=masses,
        velocities=momenta / masses[:, None],
        forces=torch.zeros_like(slabs.pos),
        energy=empty,
        virial=empty[:, None, None].expand(-1, 3, 3),
        step=0,
        conserved=empty,
    )
    state = evaluated(state, slabs, evaluate)
    return replace(state, conserved=state.energy + kinetic_energy(state))


def require_motion(state: MDState) -> None:
    """Raise StructureError where every atom is at rest."""
    still = kinetic_energy(state) == 0
    if still.any():
        which = ", ".join(str(key) for key in state.slabs.key[still].tolist())
        raise StructureError(
            f"every atom of structure {which} is at rest, and this thermostat only scales "
            "velocities; draw them at a temperature above zero"
        )


def evaluated(state: MDState, slabs: Slabs, evaluate: Evaluate) -> MDState:
    """The state with its atoms moved to where `slabs` has them, and what acts on them there."""
    found = evaluate(slabs)
    return replace(
        state,
        slabs=slabs,
        forces=without_net(found.forces, slabs, state.masses),
        energy=found.energy,
        virial=found.virial,
        troubles=found.troubles,
    )


def without_net(forces: Tensor, slabs: Slabs, masses: Tensor) -> Tensor:
    """(N, 3) forces or momenta, zero on held atoms, without what would move a centre of mass.

    The latter only in structures that hold no atom: there the momentum is conserved.
    """
    batch, n = slabs.batch, slabs.n_structures
    share = segment_sum(forces, batch, n) / segment_sum(masses, batch, n)[:, None]
    share = share * floats(slabs)[:, None]
    return (forces - masses[:, None] * share[batch]).masked_fill(slabs.held[:, None], 0.0)


def kicked(state: MDState, dt: float) -> MDState:
    """Velocities after `dt` (ASE's unit) of the forces."""
    change = state.forces * (dt / state.masses)[:, None]
    return replace(state, velocities=state.velocities + change)


def positive(**values: float) -> None:
    """Raise ValueError unless every value is a finite number above zero."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a positive number: {value}")
