"""Text output of GPAW with made-up numbers."""

from __future__ import annotations

from ase import Atoms


def gpaw_text(atoms: Atoms, free: float, extrapolated: float, tail: str = "") -> str:
    """The parts of GPAW's text output that ASE reads, of one structure."""
    rows = "".join(
        f"{k:4d} {a.symbol:<5}" + "".join(f"{x:13.6f}" for x in a.position) + "\n"
        for k, a in enumerate(atoms)
    )
    cell = "".join(
        f"  {k + 1}. axis:    {'yes' if p else 'no'} "
        + "".join(f"{x:12.6f}" for x in v)
        + "    24     0.1500\n"
        for k, (v, p) in enumerate(zip(atoms.cell, atoms.pbc, strict=True))
    )
    forces = "".join(
        f"{k:3d} {a.symbol:<3}" + "".join(f"{x:12.5f}" for x in f) + "\n"
        for k, (a, f) in enumerate(zip(atoms, atoms.get_forces(), strict=True))
    )
    stress = "".join(
        "".join(f"{x:13.6f}" for x in row) + "\n" for row in atoms.get_stress(voigt=False)
    )
    return f"""
  ___ ___ ___ _ _ _  
 |   |   |_  | | | | 
 | | | | | . | | | | 
 |__ |  _|___|_____|  22.8.0
 |___|_|             

Positions:
{rows}
Unit cell:
           periodic     x           y           z      points  spacing
{cell}
Energy contributions relative to reference atoms: (reference = -93457.127041)

Kinetic:        +12.345678
Potential:      -11.345678
External:        +0.000000
XC:             -10.345678
Entropy (-ST):   -0.123456
Local:           +0.012345
--------------------------
Free energy:   {free:+14.6f}
Extrapolated:  {extrapolated:+14.6f}

{tail}Forces in eV/Ang:
{forces}
Stress tensor:
{stress}
"""
