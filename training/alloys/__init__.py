"""Alloys of a layer: formation energies by potentials, cluster expansions and compositions."""
