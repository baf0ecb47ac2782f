"""Measurements of speed, of memory, and of what models are worth; no part of the package."""
