"""What a relaxation is told; the same for one structure and for a batch, and for `mlff2d relax`."""

from __future__ import annotations

from dataclasses import dataclass, replace

CELLS = {
    "full": "both lattice vectors in the plane",
    "isotropic": "the size of the cell: the ratio of its lattice vectors and their angle stay",
    "area": "the shape of the cell: its area stays",
    "a": "the second lattice vector in the plane; the first stays as it is",
    "b": "the first lattice vector in the plane; the second stays as it is",
    "fixed": "nothing: the atoms alone are relaxed",
}
"""Which strain of the cell is free, and what that means."""

OPTIMIZERS = {
    "fire": "FIRE, as ASE's with its defaults",
    "lbfgs": "L-BFGS, as ASE's with its defaults but a shorter memory, and downhill only",
}

FLOAT32_FMAX = 0.005
"""eV/Å, what a relaxation in float32 reaches whatever the size of the structure."""

FLOAT32_SMAX = 0.01
"""N/m, the same of the stress."""


@dataclass(frozen=True)
class RelaxSettings:
    """How slabs are relaxed.

    Attributes
    ----------
    fmax : eV/Å, the threshold on the largest force on an atom
    smax : N/m, the threshold on the largest absolute principal value of in-plane stress plus
        pressure, of the part that `cell` leaves free; 0.05 is 0.0004 of strain in MoS2 (130 N/m)
    steps : after which a relaxation gives up
    optimizer : a key of `OPTIMIZERS`
    cell : a key of `CELLS`
    pressure : N/m, in the plane; what is minimised is E + pressure * area, so that a positive one
        compresses: at rest the in-plane stress is -pressure
    symmetry : keep the layer group of the start
    polish : finish in float64 what was relaxed in float32

    Raises ValueError for what makes no sense.
    """

    fmax: float = 0.02
    smax: float = 0.05
    steps: int = 1000
    optimizer: str = "fire"
    cell: str = "full"
    pressure: float = 0.0
    symmetry: bool = False
    polish: bool = False

    def __post_init__(self) -> None:
        if not (self.fmax > 0 and self.smax > 0):
            raise ValueError(f"fmax and smax must be positive: {self.fmax}, {self.smax}")
        if self.steps < 0:
            raise ValueError(f"steps must not be negative: {self.steps}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is one of {', '.join(OPTIMIZERS)}: {self.optimizer!r}")
        if self.cell not in CELLS:
            raise ValueError(f"cell is one of {', '.join(CELLS)}: {self.cell!r}")
        if not abs(self.pressure) < float("inf"):
            raise ValueError(f"the pressure must be a finite number of N/m: {self.pressure}")
        if self.pressure and self.cell in ("area", "fixed"):
            raise ValueError(
                f"a pressure does nothing with the cell {self.cell!r}: leave one of them out"
            )

    def before_polish(self) -> RelaxSettings:
        """What is asked of float32 before float64 takes over: no more than it can resolve."""
        return replace(
            self,
            fmax=max(self.fmax, FLOAT32_FMAX),
            smax=max(self.smax, FLOAT32_SMAX),
            polish=False,
        )


DEFAULTS = RelaxSettings()
