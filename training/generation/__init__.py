"""Structures to label: prototypes, substitutions, alloys, perturbed frames, random crystals."""
