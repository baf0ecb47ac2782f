"""vasprun.xml and OUTCAR as VASP 6 writes them, as far as a reader of steps meets them.

Units and signs are VASP's: kbar, compression positive; free energy below the energy(sigma->0).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from ase import Atoms
from ase.units import GPa

NELM = 60
ENTROPY = 0.0123
"""eV. By how much the free energy lies below the energy without entropy."""


def kbar(atoms: Atoms) -> np.ndarray:
    """(3, 3) stress as VASP writes it, of a structure that carries one in eV/Å³."""
    return -10 / GPa * atoms.get_stress(voigt=False)


def vasprun(
    steps: Sequence[Atoms],
    electronic: Sequence[int] | None = None,
    nelm: int = NELM,
    pstress: float = 0.0,
) -> str:
    """A complete file; `electronic` is the number of electronic steps of each ionic one."""
    first = steps[0]
    counts = electronic or [5] * len(steps)
    atoms = "".join(
        f"    <rc><c>{symbol:<2}</c><c>{kind:4d}</c></rc>\n"
        for kind, group in enumerate(_species(first), 1)
        for symbol in [group[0]] * group[1]
    )
    head = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator>
  <i name="program" type="string">vasp </i>
  <i name="version" type="string">6.3.0  </i>
 </generator>
 <incar>
  <i type="int" name="ISMEAR">     0</i>
 </incar>
 <kpoints>
  <generation param="Gamma">
   <v type="int" name="divisions">       1        1        1 </v>
  </generation>
  <varray name="kpointlist" >
   <v>       0.00000000       0.00000000       0.00000000 </v>
  </varray>
  <varray name="weights" >
   <v>       1.00000000 </v>
  </varray>
 </kpoints>
 <parameters>
  <separator name="electronic" >
   <i name="ENMAX">    520.00000000</i>
   <separator name="electronic convergence" >
    <i type="int" name="NELM">{nelm:6d}</i>
    <i type="int" name="NELMDL">    -5</i>
   </separator>
  </separator>
  <separator name="ionic" >
   <i type="int" name="ISIF">     3</i>
   <i name="PSTRESS">{pstress:16.8f}</i>
  </separator>
  <separator name="response functions" >
   <i type="int" name="NELM">     1</i>
  </separator>
 </parameters>
 <atominfo>
  <atoms>{len(first):8d} </atoms>
  <types>{len(_species(first)):8d} </types>
  <array name="atoms" >
   <dimension dim="1">ion</dimension>
   <field type="string">element</field>
   <field type="int">atomtype</field>
   <set>
{atoms}   </set>
  </array>
 </atominfo>
 <structure name="initialpos" >
{_structure(first)} </structure>
"""
    body = "".join(_calculation(a, n) for a, n in zip(steps, counts, strict=True))
    tail = f' <structure name="finalpos" >\n{_structure(steps[-1])} </structure>\n</modeling>\n'
    return head + body + tail


def _calculation(atoms: Atoms, n_electronic: int) -> str:
    energy = f"""   <energy>
    <i name="e_fr_energy">{atoms.get_potential_energy():18.8f} </i>
    <i name="e_wo_entrp">{atoms.get_potential_energy() + ENTROPY:18.8f} </i>
    <i name="e_0_energy">{atoms.get_potential_energy() + ENTROPY / 2:18.8f} </i>
   </energy>
"""
    electronic = f'  <scstep>\n   <time name="dav">    1.41    1.42</time>\n{energy}  </scstep>\n'
    return (
        f" <calculation>\n{electronic * n_electronic}  <structure>\n{_structure(atoms)}"
        f'  </structure>\n  <varray name="forces" >\n{_vectors(atoms.get_forces())}  </varray>\n'
        f'  <varray name="stress" >\n{_vectors(kbar(atoms))}  </varray>\n{energy}'
        '  <time name="totalsc">   12.41   12.42</time>\n  <eigenvalues>\n   <array>\n    <set>\n'
        '     <set comment="spin 1">\n      <set comment="kpoint 1">\n'
        "       <r>   -9.9948    1.0000 </r>\n      </set>\n     </set>\n    </set>\n"
        "   </array>\n  </eigenvalues>\n </calculation>\n"
    )


def _structure(atoms: Atoms) -> str:
    fractions = atoms.get_scaled_positions(wrap=False)
    return (
        f'   <crystal>\n    <varray name="basis" >\n{_vectors(atoms.cell.array)}    </varray>\n'
        f'    <i name="volume">{atoms.get_volume():16.8f} </i>\n   </crystal>\n'
        f'   <varray name="positions" >\n{_vectors(fractions)}   </varray>\n'
    )


def _vectors(rows: np.ndarray) -> str:
    return "".join("    <v> " + " ".join(f"{x:16.8f}" for x in row) + " </v>\n" for row in rows)


def _species(atoms: Atoms) -> list[tuple[str, int]]:
    """Symbols in the order of the file, each with how many atoms follow each other."""
    return [(symbol, len(list(group))) for symbol, group in groupby(atoms.symbols)]


def outcar(
    steps: Sequence[Atoms], electronic: Sequence[int] | None = None, nelm: int = NELM
) -> str:
    """A complete file; `electronic` is the number of electronic steps of each ionic one."""
    counts = electronic or [5] * len(steps)
    species = _species(steps[0])
    potentials = "".join(
        f" POTCAR:    PAW_PBE {s} 08Apr2002                   \n" for s, _ in species
    )
    head = f""" vasp.6.3.0 20Jan22 (build Feb 10 2022 15:15:41) complex

 INCAR:
{potentials}
{potentials}   VRHFIN =C: s2p2
 Dimension of arrays:
   k-points           NKPTS =      1   k-points in BZ   NKDIM =      1   number of bands  NBANDS=  9
   number of dos      NEDOS =    301   number of ions     NIONS ={len(steps[0]):7d}
   ions per type =            {"".join(f"{n:4d}" for _, n in species)}
   ISPIN  =      1    spin polarized calculation?
   NELM   = {nelm:6d};   NELMIN=  2; NELMDL= -5     # of ELM steps
   PSTRESS=    0.0 pullay stress
 k-points in reciprocal lattice and weights: Automatic mesh
   0.00000000  0.00000000  0.00000000       1.000
      direct lattice vectors                 reciprocal lattice vectors
{_lattice(steps[0])}
"""
    body = "".join(
        _ionic_step(number, atoms, n)
        for number, (atoms, n) in enumerate(zip(steps, counts, strict=True), 1)
    )
    return head + body + "\n General timing and accounting informations for this job:\n"


def _ionic_step(number: int, atoms: Atoms, n_electronic: int) -> str:
    iterations = "".join(
        f"--------------------------------------- Iteration {number:6d}({k:4d})  "
        "---------------------------------------\n\n"
        "    POTLOK:  cpu time    0.0200: real time    0.0200\n"
        "  Free energy of the ion-electron system (eV)\n"
        f"  free energy    TOTEN  = {atoms.get_potential_energy():18.8f} eV\n"
        for k in range(1, n_electronic + 1)
    )
    xx, yy, zz, yz, zx, xy = kbar(atoms).reshape(9)[[0, 4, 8, 5, 2, 1]]
    stress = "".join(f"{x:12.5f}" for x in (xx, yy, zz, xy, yz, zx))
    rows = "".join(
        " ".join(f"{x:12.5f}" for x in p) + "    " + " ".join(f"{x:13.6f}" for x in f) + "\n"
        for p, f in zip(atoms.positions, atoms.get_forces(), strict=True)
    )
    energy = atoms.get_potential_energy()
    return f"""{iterations}
------------------------ aborting loop because EDIFF is reached -----------------------------

  FORCE on cell =-STRESS in cart. coord.  units (eV):
  Direction    XX          YY          ZZ          XY          YZ          ZX
  in kB {stress}
  external pressure = {np.trace(kbar(atoms)) / 3:11.2f} kB  Pullay stress =        0.00 kB

 VOLUME and BASIS-vectors are now :
 -----------------------------------------------------------------------------
  volume of cell : {atoms.get_volume():11.2f}
      direct lattice vectors                 reciprocal lattice vectors
{_lattice(atoms)}

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
{rows} -----------------------------------------------------------------------------------
    total drift:                               -0.000030      0.000004     -0.000046

  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  = {energy:18.8f} eV

  energy  without entropy={energy + ENTROPY:18.8f}  energy(sigma->0) ={energy + ENTROPY / 2:18.8f}

--------------------------------------------------------------------------------------------------------
"""


def _lattice(atoms: Atoms) -> str:
    pairs = zip(atoms.cell.array, atoms.cell.reciprocal().array, strict=True)
    return "\n".join(" " + "".join(f"{x:13.9f}" for x in (*a, *b)) for a, b in pairs)
