"""Constant temperature and stress in the plane; nothing moves the cell along the normal."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import units
from torch import Tensor

from mlff2d.slab import batched_area
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

from ..relaxation.cell import plane_axes
from ..slabs import Slabs
from . import plane
from .langevin import shaken
from .noise import BATH, generators, require_seed
from .settings import CELLS
from .state import (
    Evaluate,
    MDState,
    Temperature,
    begin,
    evaluated,
    floats,
    kelvin,
    kicked,
    kinetic_energy,
    kinetic_tensor,
    positive,
)

_REFERENCE = 300.0  # K, in the mass of a cell, which a ramp must not change
_HALF = 0.5**0.5


@dataclass(frozen=True)
class NPT:
    r"""Isothermal and isobaric dynamics in the plane, with Langevin noise on atoms and cell.

    The equations of motion are those of Martyna, Tobias and Klein (J. Chem. Phys. 101, 4177 (1994))
    with a symmetric rate of strain v (2x2, or a multiple of the identity) in the plane, p being the
    pressure, A the area, W the mass of the cell, u the velocities against the deforming cell:

        ẋ = u + x v,   ḣ = h v,   u̇ = F/m - u v,
        W v̇ = Σ m u u - dE/dstrain - (p A - n kT) 1.

    The term n kT gives the ensemble its right measure (as in Bussi, Zykova-Timan, Parrinello,
    J. Chem. Phys. 130, 074101 (2009)), so that a gas without interaction has
    P(A) ~ A^N exp(-p A/kT): n is 2 where the centre of mass is at rest, 1 where atoms are held.
    Noise and friction, in place of chains, because a crystal is nearly harmonic and its cell a
    single oscillator: chains sample neither reliably. The splitting is that of `Langevin`, each
    part solved exactly.

    The lattice vector along the vacuum stays bit for bit, and the cell does not turn: the
    deformation since the start is kept symmetric. Atoms that are held keep their place in the
    deforming cell.

    Attributes
    ----------
    timestep : fs
    temperature : K, or a function from the number of steps done to K
    pressure : N/m; the mean in-plane stress is -pressure
    cell : one of `CELLS`
    friction : 1/ps, by which velocities of the atoms are forgotten
    cell_time : fs; the mass of the cell is 3 N k (300 K) cell_time², its friction 10/cell_time. At
        1000 fs the cells of graphene and MoS2 oscillate with periods of 0.2 to 0.4 ps
    seed : of the noise; replicas differ by their keys
    """

    timestep: float = 1.0
    temperature: Temperature = 300.0
    pressure: float = 0.0
    cell: str = "full"
    friction: float = 2.0
    cell_time: float = 1000.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive(timestep=self.timestep, friction=self.friction, cell_time=self.cell_time)
        require_seed(self.seed)
        if self.cell not in CELLS:
            raise ValueError(f"cell is one of {', '.join(CELLS)}: {self.cell!r}")
        if not abs(self.pressure) < float("inf"):
            raise ValueError(f"the pressure must be a finite number of N/m: {self.pressure}")

    def init(
        self, slabs: Slabs, velocities: Tensor, evaluate: Evaluate, masses: Tensor | None = None
    ) -> MDState:
        """See `Integrator`."""
        state = begin(slabs, velocities, evaluate, masses)
        axes = plane_axes(slabs.cell, slabs.pbc)
        mass = 3 * units.kB * _REFERENCE * slabs.n_atoms * (self.cell_time * units.fs) ** 2
        zero = torch.zeros_like(state.energy)
        bath = {
            "axes": axes,
            "start": plane.lattice(slabs.cell, slabs.pbc, axes),
            "mass": mass,  # of the cell in eV times ASE's unit of time squared
            "measure": 1 + floats(slabs).double(),  # n
            "rate": plane.times_identity(zero),  # v
            "heat": zero,
        }
        return self._measured(replace(state, bath=bath))

    def step(self, state: MDState, evaluate: Evaluate) -> MDState:
        """See `Integrator`; conserved is the enthalpy E + K + W v:v/2 + p A less the heat."""
        half = self.timestep * units.fs / 2
        kt = units.kB * kelvin(self.temperature, state.step)
        kept = math.exp(-self.friction / 1000 * self.timestep)
        state = self._pushed(kicked(state, half), kt, half)
        state = self._drifted(state, kt, half)
        state = self._cell_shaken(shaken(state, kept, kt, self.seed), kt)
        state = self._drifted(state, kt, half)
        if self.cell == "full":
            state = _turned_back(state)
        state = evaluated(state, state.slabs, evaluate)
        state = self._pushed(kicked(state, half), kt, half)
        return self._measured(replace(state, step=state.step + 1))

    @property
    def _tension(self) -> float:
        """The pressure in eV/Å²."""
        return self.pressure / EV_PER_ANGSTROM2_IN_N_PER_M

    def _measured(self, state: MDState) -> MDState:
        """With the conserved quantity."""
        cell = (state.bath["rate"] ** 2).sum((1, 2)) * state.bath["mass"] / 2
        enthalpy = state.energy + kinetic_energy(state) + cell + self._tension * _area(state.slabs)
        return replace(state, conserved=enthalpy - state.bath["heat"])

    def _pushed(self, state: MDState, kt: float, dt: float) -> MDState:
        """The rate of strain after `dt` of the potential energy, the pressure and the measure."""
        work = self._tension * _area(state.slabs) - state.bath["measure"] * kt
        virial = plane.project(state.virial, state.bath["axes"])
        rate = self._accelerated(state.bath, -virial - plane.times_identity(work), dt)
        return replace(state, bath={**state.bath, "rate": rate})

    def _drifted(self, state: MDState, kt: float, dt: float) -> MDState:
        """Atoms and cell after `dt` of their motion, which pulls at the cell as well.

        Of a strain of dt/2, a path of dt and again a strain of dt/2, the strains of the path
        cancel.
        """
        bath, slabs, velocities = state.bath, state.slabs, state.velocities
        rate = self._pulled(bath, velocities, state, dt / 2)
        grown, shrunk = plane.exponential(torch.cat([rate, -rate]) * dt).chunk(2)
        heat = bath["heat"] + bath["measure"] * kt * dt * (rate[:, 0, 0] + rate[:, 1, 1])
        slabs = _mapped(slabs, plane.in_space(grown, bath["axes"]))
        slabs = slabs.moved(slabs.pos + dt * velocities)
        shrunk = plane.in_space(shrunk, bath["axes"])
        velocities = plane.rows_times(velocities, shrunk[slabs.batch])
        rate = self._pulled({**bath, "rate": rate}, velocities, state, dt / 2)
        bath = {**bath, "rate": rate, "heat": heat}
        return replace(state, slabs=slabs, velocities=velocities, bath=bath)

    def _pulled(
        self, bath: dict[str, Tensor], velocities: Tensor, state: MDState, dt: float
    ) -> Tensor:
        """(S, 2, 2) the rate of strain after `dt` of the motion of the atoms."""
        motion = kinetic_tensor(velocities, state.masses, state.slabs)
        return self._accelerated(bath, plane.project(motion, bath["axes"]), dt)

    def _accelerated(self, bath: dict[str, Tensor], force: Tensor, dt: float) -> Tensor:
        """(S, 2, 2) the rate of strain after `dt` of a force (S, 2, 2) in eV."""
        if self.cell == "isotropic":
            force = plane.times_identity((force[:, 0, 0] + force[:, 1, 1]) / 2)
        else:
            force = (force + force.transpose(1, 2)) / 2
        return bath["rate"] + force * (dt / bath["mass"])[:, None, None]

    def _cell_shaken(self, state: MDState, kt: float) -> MDState:
        """Friction and noise of the whole step on the rate of strain; their heat in the bath."""
        keys, mass, before = state.slabs.key, state.bath["mass"], state.bath["rate"]
        kept = math.exp(-10 * self.timestep / self.cell_time)
        drawn = [g.standard_normal(3) for g in generators(keys, self.seed, state.step, BATH)]
        # Orthonormal matrices: two on the diagonal and the shear, or the identity alone.
        first, second, across = torch.from_numpy(np.array(drawn)).to(mass).unbind(1)
        if self.cell == "isotropic":
            noise = plane.times_identity(first * _HALF)
        else:
            across = across * _HALF
            noise = torch.stack([first, across, across, second], 1).view(-1, 2, 2)
        after = kept * before + ((1 - kept**2) * kt / mass).sqrt()[:, None, None] * noise
        heat = state.bath["heat"] + (after**2 - before**2).sum((1, 2)) * mass / 2
        return replace(state, bath={**state.bath, "rate": after, "heat": heat})


def _turned_back(state: MDState) -> MDState:
    """Rotated in the plane until the deformation since the start is symmetric."""
    bath, slabs = state.bath, state.slabs
    now = plane.lattice(slabs.cell, slabs.pbc, bath["axes"])
    turn = plane.turning(bath["start"], now)
    matrix = plane.in_space(turn, bath["axes"])
    return replace(
        state,
        slabs=_mapped(slabs, matrix),
        velocities=plane.rows_times(state.velocities, matrix[slabs.batch]),
        bath={**bath, "rate": plane.turned(bath["rate"], turn)},
    )


def _mapped(slabs: Slabs, matrix: Tensor) -> Slabs:
    """Atoms and periodic lattice vectors times (S, 3, 3); the third vector stays bit for bit."""
    cell = plane.rows_times(slabs.cell, matrix.unsqueeze(1))
    cell = torch.where(slabs.pbc.unsqueeze(2), cell, slabs.cell)
    return slabs.moved(plane.rows_times(slabs.pos, matrix[slabs.batch]), cell)


def _area(slabs: Slabs) -> Tensor:
    return batched_area(slabs.cell, slabs.pbc)
