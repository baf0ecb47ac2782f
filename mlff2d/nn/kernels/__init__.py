"""Sums over neighbours in C: written for a tensor product, compiled where a compiler is."""
