"""Labels of our own: energies, forces and stress of structures by DFT or by a model."""
