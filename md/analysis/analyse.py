"""All that is found out about some trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlff2d.errors import StructureError

from .averages import SAME_TEMPERATURE, Averages, Expansion, averages, expansions
from .msd import Diffusion, diffusion
from .rdf import RDF, rdf
from .ripples import Ripples, ripples
from .tracks import Track


@dataclass(frozen=True)
class Settings:
    """What is analysed, and how.

    Attributes
    ----------
    skip : share of each trajectory at its beginning that is left out
    parts : that each trajectory is cut into for the averages, such as along a ramp of temperature
    r_max : Å, of the radial distribution
    q_range : 1/Å, of the waves that the bending rigidity is fitted to
    temperature : K, where frames do not say it
    """

    skip: float
    parts: int
    r_max: float
    q_range: tuple[float, float]
    temperature: float | None


@dataclass(frozen=True)
class Group:
    """Replicas of the same atoms at the same temperature, and what they show together.

    Attributes
    ----------
    diffusion : by element; empty where times are not known
    ripples : None where the cell is too small for a wave
    """

    name: str
    rdf: RDF
    diffusion: dict[str, Diffusion]
    ripples: Ripples | None


@dataclass(frozen=True)
class Analysis:
    """Attributes
    ----------
    averages : of each track, part by part
    expansions : of each compound at several temperatures
    groups : of tracks
    notes : what could not be found out, and why
    """

    averages: list[Averages]
    expansions: list[Expansion]
    groups: list[Group]
    notes: list[str]


def analyse(tracks: Sequence[Track], settings: Settings, notes: Sequence[str] = ()) -> Analysis:
    """Everything that the tracks allow. Raises StructureError where too few frames are left."""
    kept = [track.cut(int(settings.skip * len(track))) for track in tracks]
    found = list(notes)
    for track in kept:
        if len(track) < settings.parts:
            raise StructureError(
                f"{track.name} has {len(track)} frames behind its beginning, fewer than the "
                f"{settings.parts} parts asked for; give a longer trajectory or lower --parts"
            )
    rows = []
    for track in kept:
        bounds = np.linspace(0, len(track), settings.parts + 1).astype(int).tolist()
        rows += [averages(track.cut(*ends)) for ends in pairwise(bounds)]
    groups = [_group(own, settings, found) for own in groups_of(kept)]
    return Analysis(rows, expansions(rows), groups, found)


def groups_of(tracks: Sequence[Track]) -> list[list[Track]]:
    """Tracks of the same structure and atoms at the same temperature, in order."""
    groups: list[list[Track]] = []
    for track in tracks:
        for group in groups:
            if _alike(group[0], track):
                group.append(track)
                break
        else:
            groups.append([track])
    return groups


def _alike(first: Track, other: Track) -> bool:
    if first.structure != other.structure or not np.array_equal(first.numbers, other.numbers):
        return False
    t, other_t = first.temperature.mean(), other.temperature.mean()
    if np.isnan(t) or np.isnan(other_t):
        return bool(np.isnan(t) and np.isnan(other_t))
    return bool(abs(other_t - t) <= SAME_TEMPERATURE * max(t, other_t))


def _group(tracks: list[Track], settings: Settings, notes: list[str]) -> Group:
    name = tracks[0].name if len(tracks) == 1 else f"{tracks[0].name} and {len(tracks) - 1} more"
    moved: dict[str, Diffusion] = {}
    try:
        moved = diffusion(tracks)
    except ValueError as error:
        notes.append(f"no displacements: {error}")
    waves = ripples(tracks, settings.temperature, settings.q_range)
    if waves is None:
        notes.append(f"no ripples: the cell of {name} is too small for a wave; take a larger one")
    elif not np.isfinite(waves.rigidity):
        reason = (
            "its frames have no temperature; give --temperature"
            if np.isnan(waves.temperature)
            else f"its longest wave has {waves.q.min():.2f} 1/Å, and those between "
            f"{settings.q_range[0]:g} and {settings.q_range[1]:g} are fitted; change --q-range or "
            "take a larger cell"
        )
        notes.append(f"no bending rigidity of {name}: {reason}")
    return Group(name, rdf(tracks, settings.r_max), moved, waves)
