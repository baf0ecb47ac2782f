"""The method of each name; what predicts is loaded when it is called."""

from __future__ import annotations

from .method import Method


def load_method(name: str) -> Method:
    """The method that `config.METHODS` names."""
    if name.startswith("ce-"):
        from . import expansion

        return expansion.method(name.removeprefix("ce-"))
    if name in ("fractions", "roost", "ideal"):
        from . import stoichiometry

        return stoichiometry.METHODS[name]
    if name.startswith("readout"):
        from . import readout

        return readout.method(name)
    if name.startswith("energy-only"):
        from . import energy_only

        return energy_only.METHODS[name]
    from . import potentials

    return potentials.method(name)
