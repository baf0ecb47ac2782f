"""Layers of models in C: written for their irreps, compiled where a compiler is."""
