"""Relaxation of slabs: one with ASE, many in one batch."""
