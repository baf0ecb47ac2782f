"""Sections on the data: where they are, which are taken, and how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import Count, Fraction, NotNegative, Places, Positive, Section


class DataConfig(Section):
    """Where the calculations are. They are converted once, into an HDF5 file beside `run_dir`.

    Attributes
    ----------
    files : HDF5 files of `mlff2d data build`, and whatever that command reads: anything that
        `ase.io` reads with energies, forces or stresses, folders of VASP runs, JSON trajectories of
        the Alexandria database; for a property also folders of CIF files with an `id_prop.csv`
    material_key : entry of `atoms.info` that the split keeps together; without it the reduced
        formula
    in_memory : hold structures and edges in memory (true), or read them from the HDF5 file and find
        edges anew for every batch (false); null: in memory below 2 GB and without workers
    workers : processes that make batches; 0 for a thread
    """

    files: Annotated[tuple[Path, ...], Field(min_length=1)]
    material_key: str = "material"
    in_memory: bool | None = None
    workers: Annotated[int, Field(ge=0)] = 0

    @field_validator("files", mode="before")
    @classmethod
    def _one_file_is_a_list_too(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class SelectionConfig(Section):
    """Frames to take along a trajectory; with neither setting every one.

    Attributes
    ----------
    e_cut : eV/atom; step i is taken where |E_i - E_(i+1)| / N is above it, and of a trajectory that
        has none the `steps`
    steps : places along a trajectory, 0 the first step and 1 the last: [0, 0.5, 1] are the steps 0,
        N/2 and N
    """

    e_cut: NotNegative | None = None
    steps: Places | None = None

    @model_validator(mode="after")
    def _has_a_fallback(self) -> SelectionConfig:
        if self.e_cut is not None and self.steps is None:
            object.__setattr__(self, "steps", (0.0, 0.5, 1.0))
        return self


class FilterConfig(Section):
    """Frames to leave out, as in section 4.1 of the thesis; a rule that is null is off.

    Attributes
    ----------
    require : labels that a frame must have; the stress is that in the plane of a slab
    max_atoms : atoms in a structure
    min_energy, max_energy : eV/atom
    max_force : largest absolute force component, eV/Å
    max_stress : largest absolute in-plane component, N/m
    max_stress_kbar : the same as the cell as given has it, vacuum and all (the rule of the thesis)
    isolated_atoms : what to do with a structure in which an atom has no neighbour in the cutoff
    duplicates : what to do with a structure that is in the data already, to 1e-4 Å
    """

    require: tuple[Literal["energy", "forces", "stress"], ...] = ()
    max_atoms: Count | None = None
    min_energy: float | None = None
    max_energy: float | None = None
    max_force: Positive | None = None
    max_stress: Positive | None = None
    max_stress_kbar: Positive | None = None
    isolated_atoms: Literal["keep", "remove"] = "remove"
    duplicates: Literal["keep", "remove"] = "remove"


class SplitConfig(Section):
    """Shares for validation and test; the rest is trained on.

    Attributes
    ----------
    by : what is never split: a material; a chemistry (all compounds of the same elements); a
        composition (the same reduced formula); a prototype (the same anonymous formula and layer
        group of a material's first frame); or, "frame", nothing
    val, test : probabilities with which each is drawn
    seed : of the draw, which depends on it and on the name of what is drawn, and on nothing else
    train_frames : most frames to train on, as for a learning curve; null for all. They are taken in
        an order drawn with the run's seed, a frame of each material in turn, so that of two
        numbers the smaller takes a part of what the larger does; frames that bring an element come
        first
    """

    by: Literal["material", "chemistry", "composition", "prototype", "frame"] = "material"
    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Fraction = 0.1
    seed: int = 0
    train_frames: Count | None = None

    @model_validator(mode="after")
    def _leaves_training(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise ValueError("val and test together leave nothing to train on")
        return self
