"""What an atom is before it feels anything: by its place in the periodic table, or learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlff2d.nn.element_data import ELEMENT_DATA
from mlff2d.nn.elements import ElementIndex

ATOM_EMBEDDINGS = ("cgcnn92", "learnt")
"""The kinds of `AtomEmbedding`."""

N_ATOM_FEATURES = 92

_PERIOD_ENDS = (2, 10, 18, 36, 54, 86, 118)
_F_BLOCK = (*range(57, 71), *range(89, 103))


def check_features_known(kind: str, elements: Sequence[int]) -> None:
    """Raise ValueError where the 92 features are asked for an element that has none."""
    last = len(ELEMENT_DATA)
    if kind == "cgcnn92" and max(elements) > last:
        raise ValueError(
            f"atom_features 'cgcnn92' knows the elements up to {last}, not {max(elements)}; use "
            "'learnt'"
        )


def group(z: int) -> int:
    """Group of an element in the periodic table, 1 to 18, or 0 for those of the f block."""
    if z in _F_BLOCK:
        return 0
    if z == 2:
        return 18
    place = z - max((end for end in _PERIOD_ENDS if end < z), default=0)
    if place <= 2:
        return place
    # Counted from the noble gas at the end of the row.
    return 18 - (min(end for end in _PERIOD_ENDS if end >= z) - z)


def period(z: int) -> int:
    """Row of an element in the periodic table, 1 to 7."""
    return 1 + sum(end < z for end in _PERIOD_ENDS)


def block(z: int) -> str:
    """Block of an element in the periodic table: s, p, d or f."""
    if z in _F_BLOCK:
        return "f"
    if z == 2 or group(z) <= 2:
        return "s"
    return "d" if group(z) <= 12 else "p"


def valence_electrons(z: int) -> int:
    """s and p electrons of the outer shell, with the d electrons where that shell fills; 1..12."""
    if z == 2 or z in _F_BLOCK:
        return 2
    return group(z) if group(z) <= 12 else group(z) - 10


def atom_features(z: int) -> list[int]:
    """The 92 features of an element, 0 or 1 each, that CGCNN begins with.

    Nine properties, of each the class that the element falls into: group (18, and one more for
    the f block), period (7), Pauling's electronegativity (10 classes from 0.5 to 4), covalent
    radius (10 from 25 to 250 pm), valence electrons (12), first ionisation energy (10, its
    logarithm from 1.3 to 3.3 in eV), electron affinity (10 from -3 to 3.7 eV), block (4), molar
    volume (10, its logarithm from 1.5 to 4.3 in cm^3/mol). Xie and Grossman, Phys. Rev. Lett. 120,
    145301 (2018), supplement, table S2, with groups and periods as their program has them: 92
    numbers rather than the table's 93. A property that is not known makes zeros.

    Raises IndexError for an element without data.
    """
    _, electronegativity, radius, ionisation, affinity, volume = ELEMENT_DATA[z - 1]
    return [
        *_one_of(19, group(z)),
        *_one_of(7, period(z) - 1),
        *_one_of(10, _class(electronegativity, 0.5, 4.0)),
        *_one_of(10, _class(radius, 25.0, 250.0)),
        *_one_of(12, valence_electrons(z) - 1),
        *_one_of(10, _class(ionisation and math.log(ionisation), 1.3, 3.3)),
        *_one_of(10, _class(affinity, -3.0, 3.7)),
        *_one_of(4, "spdf".index(block(z))),
        *_one_of(10, _class(volume and math.log(volume), 1.5, 4.3)),
    ]


def _class(value: float | None, low: float, high: float) -> int | None:
    if value is None:
        return None
    # In this order 1.9, the electronegativity of Si and Cu, is rounded into the class that CGCNN's
    # program has it in.
    return min(max(math.floor((value - low) / (high - low) * 10), 0), 9)


def _one_of(n: int, chosen: int | None) -> list[int]:
    return [int(k == chosen) for k in range(n)]


class AtomEmbedding(nn.Module):
    """C channels for each element.

    Parameters
    ----------
    kind
        "learnt": C free numbers an element; "cgcnn92": a linear map of `atom_features`.
    elements
        Atomic numbers known, ascending.
    channels
        C.
    """

    table: Tensor

    def __init__(self, kind: str, elements: Sequence[int], channels: int) -> None:
        super().__init__()
        self.element_index = ElementIndex(elements)
        self.map: nn.Linear | nn.Embedding
        if kind == "cgcnn92":
            check_features_known(kind, elements)
            # Noughts and ones, exact in every dtype.
            table = torch.Tensor([atom_features(z) for z in elements])
            self.register_buffer("table", table, persistent=False)
            self.map = nn.Linear(N_ATOM_FEATURES, channels)
        else:
            self.register_buffer("table", torch.arange(len(elements)), persistent=False)
            self.map = nn.Embedding(len(elements), channels)

    def forward(self, z: Tensor) -> Tensor:
        """(N,) int64 atomic numbers -> (N, C)."""
        return self.map(self.table).index_select(0, self.element_index(z))
