"""Energy drift of a rattled 5x5 MoS2 monolayer at 300 K in the NVE ensemble.

    python -m benchmarks.nve [--model model.pt] [--picoseconds 5]

Prints the drift of the total energy in meV/atom/ps (slope of a straight line) and its fluctuation,
for float32 and float64.
"""

import argparse

import numpy as np
from ase import units
from ase.build import mx2
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet

from mlff2d import MLFF2DCalculator


def drift(model: str | None, dtype: str, picoseconds: float, timestep: float) -> tuple[float, ...]:
    """(slope in meV/atom/ps, standard deviation about it in meV/atom, mean temperature in K)."""
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, size=(5, 5, 1), vacuum=8.0)
    rng = np.random.default_rng(0)
    atoms.rattle(0.05, rng=rng)
    # The rattle holds as much potential energy as 385 K: together they come to rest near 300 K.
    MaxwellBoltzmannDistribution(atoms, temperature_K=215, rng=rng)
    Stationary(atoms)
    atoms.calc = MLFF2DCalculator(model, dtype=dtype)
    dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs)
    times, energies, temperatures = [], [], []

    def log() -> None:
        times.append(dynamics.get_time() / (1000 * units.fs))
        energies.append(atoms.get_total_energy() / len(atoms) * 1000)
        temperatures.append(atoms.get_temperature())

    dynamics.attach(log, interval=5)
    dynamics.run(round(picoseconds * 1000 / timestep))
    slope, offset = np.polyfit(times, energies, 1)
    scatter = np.std(np.array(energies) - slope * np.array(times) - offset)
    return slope, scatter, float(np.mean(temperatures[len(temperatures) // 4 :]))


def main() -> None:
    """Print a row for each precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="model file; default: the shipped model")
    parser.add_argument("--picoseconds", type=float, default=5.0)
    parser.add_argument("--timestep", type=float, default=1.0, help="fs (default 1)")
    args = parser.parse_args()
    print("precision   drift meV/atom/ps   scatter meV/atom   mean T / K")
    for dtype in ("float32", "float64"):
        slope, scatter, temperature = drift(args.model, dtype, args.picoseconds, args.timestep)
        print(f"{dtype}   {slope:17.5f}   {scatter:16.4f}   {temperature:10.1f}")


if __name__ == "__main__":
    main()
