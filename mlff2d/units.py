"""Units: energies in eV, lengths in Å, stress in eV/Å³ (tension positive, as in ASE).

CODATA elementary charge 1.602176634e-19 C gives the factors exactly.
"""

EV_PER_ANGSTROM2_IN_N_PER_M = 16.02176634
"""1 eV/Å² in N/m: multiply an in-plane stress in eV/Å² to get N/m."""

EV_PER_ANGSTROM3_IN_GPA = 160.2176634
"""1 eV/Å³ in GPa."""
