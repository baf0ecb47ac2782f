"""What `mlff2d md --help` teaches beside the arguments."""

from __future__ import annotations

DESCRIPTION = """\
Molecular dynamics of monolayers: one structure or many, each with as many replicas as are wanted,
all in one batch. The vacuum never moves. A replica that runs away, breaks or leaves what the model
knows is stopped and says why; the others go on. Killed at any moment, the same command goes on, and
all files end up the same to the byte; more --steps lengthen a run.
"""

EPILOG = """\
ensembles:
{ensembles}

what may move of the cell in npt, for --cell:
{cells}

guards, each of which stops a replica and can be switched off with --no-guard:
{guards}

written, for -o OUT.extxyz (or OUT.traj, a trajectory of ASE):
  OUT.extxyz          a frame every --write-every steps from step 0 on, with energy, forces, stress
                      and momenta; in info replica, structure, step, time_fs, temperature and
                      stress_2d (N/m). Of several replicas each has its file: OUT-0.extxyz, ...
  OUT.csv             a line every --log-every steps for each replica, for all replicas together:
    replica, structure
                      numbers from 0; the replicas of the first structure come first
    step, time_fs       negative in the equilibration
    potential_per_atom, kinetic_per_atom, conserved_per_atom
                      eV/atom; conserved is what the equations of motion keep: its drift tells
                      whether the timestep is short enough
    temperature, target
                      K
    stress_xx, stress_yy, stress_xy
                      in-plane stress with the motion of the atoms, N/m, tension positive
    area_per_atom     Å²
    thickness         between the outermost nuclei, Å
    corrugation       root mean square height of the middle surface, Å, of waves from 6 Å on; 0
                      where the cell is too small for one
  OUT-last.extxyz     the last --last steps one by one, up to the one that stopped the replica where
                      a guard did
  OUT-summary.csv     a row for each replica: means over the steps from 0 on with their errors,
                      drift of the conserved quantity, and why it ended
  OUT.png             the log, drawn
  OUT.state           what the same command needs to go on

examples:
  mlff2d md relaxed.extxyz --supercell 8 8 --temperature 300 --steps 50000
  mlff2d md MoS2.cif --supercell 6 6 --ensemble npt --temperature 100:1500 --steps 200000
      warms up evenly over the run; `mlff2d analyse` draws the area against the temperature
  mlff2d md relaxed.extxyz --ensemble nve --equilibrate 5000 --steps 20000 --replicas 8
      eight runs at constant energy from different velocities, after 5000 steps with a thermostat
  mlff2d md OUT.extxyz --index -1 --velocities keep --ensemble nve -o longer.extxyz
      goes on from the last frame of another run with other settings
  mlff2d md polymer.extxyz --timestep 0.5 --dtype float64
      half a femtosecond for hydrogen, and double precision where energy must not drift
"""
