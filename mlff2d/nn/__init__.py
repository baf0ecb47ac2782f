"""Building blocks that the models share; they know graphs, and nothing of energies or ASE."""
