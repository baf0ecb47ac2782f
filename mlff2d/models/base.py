"""What every energy model is, and the checks that their settings share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mlff2d.errors import nearest
from mlff2d.graph import Graph
from mlff2d.nn.kernels.compiler import CompilerError
from mlff2d.nn.kernels.sums import CompiledSums


class EnergyModel(nn.Module, ABC):
    """A model of the energies of atoms; a subclass a file, its settings a frozen dataclass.

    A subclass sets `config`, `cutoff`, `n_features` and `readout` when it is made, and defines
    `features`. Its energies are of dimension one; units, forces, stress, reference energies and
    slabs are `Potential`'s business.

    Attributes
    ----------
    Config
        Class of the settings; it refuses values that make no model, with a ValueError.
    config
        The settings.
    cutoff
        Edges within it are felt, in Å.
    n_features
        F, the invariant features of an atom that the energy is read from.
    state
        Entries of `atoms.info` that the model takes in as the graph's state.
    is_local
        Whether an atom feels only what is near. Only then the energy of two parts far from each
        other is the sum of theirs.
    n_hops
        Edges on the way from an atom to the farthest that it feels; None where it may feel all.
    allows_bf16
        Whether `features` has been seen to learn as well in bfloat16.
    autocast
        Where set, the precision of the matrix products in `features`; the weights keep theirs.
    compiled
        Where set, compiled code that `features` may use; see `compile_sums`.
    """

    Config: ClassVar[type[Any]]
    is_local: ClassVar[bool] = True
    allows_bf16: ClassVar[bool] = False

    config: Any
    cutoff: float
    n_features: int
    n_hops: int | None = None
    state: tuple[str, ...] = ()
    readout: nn.Module
    autocast: torch.dtype | None = None
    compiled: CompiledSums | None = None

    def compile_sums(self) -> None:
        """Have sums over neighbours done by compiled code, where the numbers are the same.

        From then on, as long as the weights stay what they are and are not trained. Raises
        CompilerError where nothing can be compiled, or there is nothing to compile.
        """
        raise CompilerError(f"a {type(self).__name__} has no sums that are compiled")

    @abstractmethod
    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Invariant features of the atoms: (E, 3) edge vectors in Å -> (N, F)."""

    def forward(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """Energies of the atoms.

        Parameters
        ----------
        graph
            Of atoms that are among the config's elements; edges longer than the cutoff count for
            nothing.
        edge_vec : (E, 3)
            Vectors from receiver to neighbour in Å, none of length zero.

        Returns
        -------
        (N,)
        """
        return self.readout(self.mixed_features(graph, edge_vec)).squeeze(-1)

    def mixed_features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """`features` under `autocast`, given in the precision of `edge_vec`."""
        if self.autocast is None:
            return self.features(graph, edge_vec)
        with torch.autocast(edge_vec.device.type, self.autocast):
            features = self.features(graph, edge_vec)
        return features.to(edge_vec.dtype)


MOST = 10_000
"""Greatest count, and greatest size of a layer, that is taken for meant."""

MAX_CUTOFF = 20.0
"""Å."""

_SMALLEST, _GREATEST = 1e-15, 1e9


def check_counts(config: object, least: int, *names: str, most: int = MOST) -> None:
    """Raise ValueError unless these settings are whole numbers from `least` to `most`."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if value > most:
            raise ValueError(f"{name} must be at most {most}, not {value!r}")


def check_positive(config: object, **usual: str) -> None:
    """Raise ValueError unless these settings are positive numbers whose powers are finite too.

    For each a word about what is usual, for the message: `cutoff="in Å, such as 5.0"`.
    """
    for name, example in usual.items():
        value = getattr(config, name)
        if not _is_number(value) or not _SMALLEST <= value <= _GREATEST:
            raise ValueError(f"{name} must be a positive number {example}, not {value!r}")
        if name.endswith("cutoff") and value > MAX_CUTOFF:
            raise ValueError(
                f"{name} must be at most {MAX_CUTOFF:g} Å, within which an atom has thousands of "
                f"neighbours, not {value!r}; use a length {example}"
            )


def check_between(config: object, low: float, high: float, *names: str) -> None:
    """Raise ValueError unless these settings are numbers from `low` to `high`."""
    for name in names:
        value = getattr(config, name)
        if not _is_number(value) or not low <= value <= high:
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}")


def check_flags(config: object, *names: str) -> None:
    """Raise ValueError unless these settings are true or false."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, not {value!r}")


def check_choice(config: object, name: str, choices: Iterable[str]) -> None:
    """Raise ValueError unless a setting is one of some words; the nearest is named."""
    value, choices = getattr(config, name), list(choices)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, which is no choice.{nearest(str(value), choices)}")


def check_sizes(config: object, *names: str) -> None:
    """Make these settings tuples; raise ValueError unless they hold whole numbers from 1 on."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, list | tuple) or not all(
            isinstance(n, int) and not isinstance(n, bool) and 0 < n <= MOST for n in value
        ):
            raise ValueError(f"{name} must be positive sizes such as (64, 64), not {value!r}")
        object.__setattr__(config, name, tuple(value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
