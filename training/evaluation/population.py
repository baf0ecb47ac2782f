"""What is judged: structures, what they are made of, and the groups that errors are listed by.

Axes: S structures, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..data.compositions import Compositions, compositions_of
from ..data.dataset import Dataset


@dataclass(frozen=True)
class Grouping:
    """Structures by what they share.

    Attributes
    ----------
    key : for names of files
    title : what a group is
    codes : (S,) int64 group of each structure
    names : G strings
    """

    key: str
    title: str
    codes: NDArray[np.int64]
    names: list[str]


@dataclass(frozen=True)
class Population:
    """Some structures of a data set, in the order of `ids`.

    Attributes
    ----------
    ids : (S,) their places in `data`
    """

    data: Dataset
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def n_atoms(self) -> NDArray[np.int64]:
        """(S,)"""
        return self.data.n_atoms[self.ids].astype(np.int64)

    @cached_property
    def compositions(self) -> Compositions:
        """Reduced formulas, and which of them each structure has."""
        return compositions_of(self.data, self.ids)

    @cached_property
    def materials(self) -> Grouping:
        """By material, which a split keeps together."""
        coded = self.data.material
        used, codes = np.unique(coded.codes[self.ids], return_inverse=True)
        return Grouping("material", "material", codes, [coded.names[c] for c in used])

    def groupings(self) -> list[Grouping]:
        """Those that have a table of their own."""
        composition = self.compositions
        groups, of_group = np.unique(self.data.layer_group[self.ids], return_inverse=True)
        group_names = [str(g) if g else "none found" for g in groups.tolist()]
        sizes, of_size = np.unique(self.n_atoms, return_inverse=True)
        sources, of_source = np.unique(self.data.source[self.ids], return_inverse=True)
        return [
            Grouping("composition", "composition", composition.of, composition.formulas),
            Grouping("layer_group", "layer group", of_group, group_names),
            Grouping("n_atoms", "number of atoms", of_size, [str(n) for n in sizes.tolist()]),
            Grouping("file", "file", of_source, [self.data.sources[s]["name"] for s in sources]),
        ]

    def subset(self, chosen: NDArray[np.integer]) -> Population:
        """Only the structures at these places."""
        return Population(self.data, self.ids[chosen])
