"""What molecular dynamics keeps and what it samples, beside theory.

    python -m benchmarks.dynamics [nve] [nvt] [npt] [--model model.pt] [--steps 5000]

nve  Drift of the total energy (slope of a straight line) and its scatter about it, of MoS2 at
     300 K: the shipped model in both precisions, and every architecture with random weights.
nvt  Mean temperature of MoS2 at 300 K and its fluctuation over sqrt(2/N_f) T, for every thermostat.
npt  Graphene and MoS2 at 300 K without pressure, both lattice vectors free: area, thickness and
     stress, the fluctuation of the area over that of an elastic sheet, sqrt(kT A/K) with its own
     modulus K at 0 K, and how far the vector along the vacuum moved.

Everything starts at rest at 0 K with velocities of twice the temperature; a quarter as many
steps go before those that are averaged. An error is one standard error from blocks.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms, units
from ase.build import graphene, mx2
from torch import Tensor

from mlff2d import MLFF2DCalculator
from mlff2d.md.blocks import block_error
from mlff2d.md.dynamics.bussi import Bussi
from mlff2d.md.dynamics.langevin import Langevin
from mlff2d.md.dynamics.nose_hoover import NoseHoover
from mlff2d.md.dynamics.npt import NPT
from mlff2d.md.dynamics.nve import NVE
from mlff2d.md.dynamics.state import (
    Integrator,
    MDState,
    degrees_of_freedom,
    stress,
    temperature,
)
from mlff2d.md.dynamics.velocities import maxwell_boltzmann
from mlff2d.md.evaluator import Evaluator
from mlff2d.md.memory import edge_budget
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.md.slabs import join, one_slab
from mlff2d.models import REGISTRY, build_model
from mlff2d.potential import Potential
from mlff2d.slab import batched_area
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

KELVIN = 300.0
TIGHT = RelaxSettings(fmax=0.002, smax=0.005)


@dataclass(frozen=True)
class Run:
    """Series (T, S) of what was measured at every step after the equilibration."""

    state: MDState
    n_steps: int
    timestep: float
    series: dict[str, np.ndarray]

    def mean(self, name: str) -> tuple[float, float]:
        """Mean over steps and replicas, and its error."""
        values = self.series[name]
        errors = [block_error(one) for one in values.T]
        return float(values.mean()), math.hypot(*errors) / len(errors)

    def drift(self) -> tuple[float, float]:
        """Slope of what is conserved in meV/atom/ps, and the scatter about it in meV/atom."""
        n_atoms = self.state.slabs.n_atoms.numpy(force=True)
        values = 1000 * self.series["conserved"] / n_atoms
        time = np.arange(len(values)) * self.timestep / 1000
        slope, offset = np.polyfit(time, values, 1)
        scatter = values - slope * time[:, None] - offset
        return float(np.abs(slope).max()), float(scatter.std())


def molybdenum_disulfide() -> Atoms:
    """A primitive cell."""
    return mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=8.0)


def moving(
    atoms: Atoms,
    potential: Potential,
    integrator: Integrator,
    steps: int,
    replicas: int,
    measured: Callable[[MDState], dict[str, Tensor]] = lambda state: {},
) -> Run:
    """Replicas of a structure at rest, after a run; beside `measured`, T and what is conserved."""
    slabs = join([one_slab(atoms, k, potential.model.state) for k in range(replicas)])
    slabs = slabs.to(next(potential.parameters()).device)
    evaluator = Evaluator(potential, edge_budget(potential))
    velocities = maxwell_boltzmann(slabs, 2 * KELVIN, exact=True)
    state = integrator.init(slabs, velocities, evaluator)
    found: dict[str, list[np.ndarray]] = {}
    for k in range(steps + steps // 4):
        state = integrator.step(state, evaluator)
        if state.troubles:
            raise SystemExit(f"{atoms.get_chemical_formula()}: {state.troubles}")
        if k < steps // 4:
            continue
        now = {"conserved": state.conserved, "temperature": temperature(state)}
        for name, values in (now | measured(state)).items():
            found.setdefault(name, []).append(values.numpy(force=True))
    series = {name: np.array(values) for name, values in found.items()}
    return Run(state, steps, integrator.timestep, series)


def nve(args: argparse.Namespace) -> None:
    """The table of drifts."""
    print("\n| model | precision | mean T / K | drift meV/atom/ps | scatter meV/atom |")
    print("| --- | --- | --- | --- | --- |")
    shipped = MLFF2DCalculator(args.model, dtype="float64")
    for dtype in ("float32", "float64"):
        calculator = MLFF2DCalculator(args.model, dtype=dtype)
        atoms = relax(molybdenum_disulfide(), shipped, TIGHT).atoms * (3, 3, 1)
        run = moving(atoms, calculator.potential, NVE(args.timestep), args.steps, args.replicas)
        tell_drift(args.model or "shipped", dtype, run)
    for name in args.fresh:
        potential = fresh(name)
        atoms = molybdenum_disulfide() * (3, 3, 1)
        run = moving(atoms, potential, NVE(args.timestep), args.steps, 1)
        tell_drift(f"`{name}`, random", "float64", run)


def fresh(name: str) -> Potential:
    """A model at its default settings, with random weights and the repulsion of nuclei."""
    torch.manual_seed(0)
    model = build_model(name, {})
    references = dict.fromkeys(model.config.elements, 0.0)
    return Potential(model, references, zbl=True).double()


def tell_drift(name: str, dtype: str, run: Run) -> None:
    """A row."""
    slope, scatter = run.drift()
    kelvin = run.series["temperature"].mean()
    print(f"| {name} | {dtype} | {kelvin:.0f} | {slope:.5f} | {scatter:.4f} |", flush=True)


def nvt(args: argparse.Namespace) -> None:
    """The table of thermostats."""
    print("\n| thermostat | mean T / K | fluctuation / theory | drift meV/atom/ps |")
    print("| --- | --- | --- | --- |")
    calculator = MLFF2DCalculator(args.model)
    atoms = relax(molybdenum_disulfide(), calculator, TIGHT).atoms * (3, 3, 1)
    thermostats: list[Langevin | NoseHoover | Bussi] = [
        Langevin(args.timestep, KELVIN, friction=10.0),
        NoseHoover(args.timestep, KELVIN),
        Bussi(args.timestep, KELVIN),
    ]
    for thermostat in thermostats:
        run = moving(atoms, calculator.potential, thermostat, args.steps, args.replicas)
        mean, error = run.mean("temperature")
        n_free = float(degrees_of_freedom(run.state.slabs)[0])
        theory = math.sqrt(2 / n_free) * KELVIN
        # About 300 K, so that a wrong mean does not hide in a right fluctuation.
        fluctuation = math.sqrt(((run.series["temperature"] - KELVIN) ** 2).mean()) / theory
        print(
            f"| {type(thermostat).__name__} | {mean:.1f} ± {error:.1f} | {fluctuation:.3f} "
            f"| {run.drift()[0]:.4f} |",
            flush=True,
        )


def npt(args: argparse.Namespace) -> None:
    """The table of monolayers whose cells move."""
    print(
        "\n| monolayer | T / K | area at 0 K, Å²/atom | mean area | fluctuation / theory "
        "| thickness / Å | stress xx, yy, xy / N/m | drift meV/atom/ps | change of c / Å |"
    )
    print("| --- |" + " --- |" * 8)
    calculator = MLFF2DCalculator(args.model)
    cells = {"graphene": graphene(a=2.47, vacuum=8.0), "MoS2": molybdenum_disulfide()}
    for name, cell in cells.items():
        cell.pbc = (True, True, False)
        at_rest = relax(cell, calculator, TIGHT).atoms
        n = 4 if name == "graphene" else 3
        atoms = at_rest * (n, n, 1)
        barostat = NPT(args.timestep, KELVIN, friction=10.0)
        run = moving(
            atoms, calculator.potential, barostat, args.steps, args.replicas, cells_and_stress
        )
        tell_cells(name, run, at_rest, modulus(at_rest, calculator))


def cells_and_stress(state: MDState) -> dict[str, Tensor]:
    """Area and thickness (S,), stress in N/m, and how far the vector of the vacuum is (S,)."""
    slabs = state.slabs
    heights = [slabs.pos[slabs.atoms_of(s), 2] for s in range(slabs.n_structures)]
    tension = stress(state)
    return {
        "area": batched_area(slabs.cell, slabs.pbc),
        "thickness": torch.stack([h.max() - h.min() for h in heights]),
        "xx": tension[:, 0, 0],
        "yy": tension[:, 1, 1],
        "xy": tension[:, 0, 1],
        "c": slabs.cell[:, 2],
    }


def modulus(at_rest: Atoms, calculator: MLFF2DCalculator, strain: float = 0.005) -> float:
    """K = A dσ/dA in N/m of the mean in-plane stress, the atoms relaxed at each area."""
    tension = []
    for sign in (1, -1):
        atoms = at_rest.copy()
        scale = math.sqrt(1 + sign * strain)
        atoms.set_cell(atoms.cell.array * [[scale], [scale], [1]], scale_atoms=True)
        result = relax(atoms, calculator, replace(TIGHT, cell="fixed"))
        tension.append(result.stress_2d[:2].mean())
    return float(tension[0] - tension[1]) / (2 * strain)


def tell_cells(name: str, run: Run, at_rest: Atoms, modulus: float) -> None:
    """A row."""
    n_atoms = int(run.state.slabs.n_atoms[0])
    area, error = run.mean("area")
    stiffness = modulus / EV_PER_ANGSTROM2_IN_N_PER_M
    theory = math.sqrt(units.kB * KELVIN * area / stiffness) if stiffness > 0 else math.nan
    tension = ", ".join("{:.3f} ± {:.3f}".format(*run.mean(xy)) for xy in ("xx", "yy", "xy"))
    kelvin, kelvin_error = run.mean("temperature")
    moved = np.abs(run.series["c"] - at_rest.cell.array[2]).max()
    print(
        f"| {name}, {n_atoms} atoms | {kelvin:.1f} ± {kelvin_error:.1f} "
        f"| {at_rest.cell.areas()[2] / len(at_rest):.4f} | {area / n_atoms:.4f} ± "
        f"{error / n_atoms:.4f} | {run.series['area'].std() / theory:.2f} "
        "| {:.3f} ± {:.3f} ".format(*run.mean("thickness"))
        + f"| {tension} | {run.drift()[0]:.4f} | {moved} |",
        flush=True,
    )


SECTIONS = {"nve": nve, "nvt": nvt, "npt": npt}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--model", default=None, help="model file; default: the shipped model")
    parser.add_argument(
        "--steps", type=int, default=5000, help="after the equilibration (default 5000)"
    )
    parser.add_argument("--timestep", type=float, default=1.0, help="fs (default 1)")
    parser.add_argument("--replicas", type=int, default=1, help="of each structure, in a batch")
    parser.add_argument(
        "--fresh", nargs="*", default=sorted(REGISTRY), help="architectures in nve (default: all)"
    )
    args = parser.parse_args(arguments)
    for name in args.sections or SECTIONS:
        if name not in SECTIONS:
            parser.error(f"there is no section {name!r}; there are {', '.join(SECTIONS)}")
        SECTIONS[name](args)


if __name__ == "__main__":
    main()
