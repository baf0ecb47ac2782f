"""Molecular dynamics of slabs, many replicas in one batch."""
