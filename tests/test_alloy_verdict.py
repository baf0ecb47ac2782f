"""What a comparison of methods means, in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlff2d.training.alloys.judge import Judged
from mlff2d.training.alloys.verdict import verdict


def judged(method: str, maes: list[float], cv: float = np.nan) -> list[Judged]:
    """Splits with two held-out configurations; where an error is not finite one has no answer."""
    found = []
    for k, mae in enumerate(maes):
        rest = {"spearman": 1.0, "hull_mae": 0.0, "found": 1, "missed": 0, "false": 0}
        rest |= {"energy_mae": np.nan, "area_mae": np.nan, "failed": 0, "sites_per_atom": 1 / 3}
        rest |= {"cv": cv, "errors": {"a": mae, "b": -mae}}
        found.append(Judged("MoWS2", method, k, None, 10, 2, mae, mae, **rest))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("expansion", "potential", "said"),
    [
        ([2.0, 2.2], [2.5, 2.4], "enough here: ce-ardr and fine-tuned differ by 0.35"),
        ([2.0, 2.2], [7.5, 6.4], "does not reach a cluster expansion"),
        ([6.0, 7.2], [2.5, 2.4], "better than a cluster expansion in every split"),
        ([6.0, 2.2], [2.5, 2.4], ", but not in every split: ce-ardr and fine-tuned"),
    ],
)
def test_the_verdict_says_when_a_cluster_expansion_is_enough(expansion, potential, said) -> None:
    found = [*judged("ce-ardr", expansion), *judged("fine-tuned", potential)]
    assert any(said in line for line in verdict(found, "MoWS2"))


def test_a_readout_is_compared_for_itself() -> None:
    found = [*judged("ce-ardr", [6.0, 7.2]), *judged("zero-shot", [9.0, 9.0])]
    lines = verdict([*found, *judged("readout", [2.5, 2.4])], "MoWS2")
    assert "for a fit to its features (readout) 2.45 meV/site" in lines[0]
    assert lines[1].startswith("zero-shot does not reach a cluster expansion")
    assert lines[2].startswith("A fit to its features is better than a cluster expansion in every")


def test_only_configurations_that_both_answer_are_compared() -> None:
    easy = [replace(one, errors={"a": 0.1, "b": np.nan}) for one in judged("fine-tuned", [0.1])]
    both = [replace(one, errors={"a": 0.1, "b": 50.0}) for one in judged("ce-ols", [25.0])]
    assert any("differ by 0.00" in line for line in verdict([*both, *easy], "MoWS2"))
    none = [replace(one, errors={"a": np.nan, "b": np.nan}) for one in easy]
    lines = verdict([*both, *none], "MoWS2")
    assert any("no configuration in common" in line for line in lines)
    assert "better" not in " ".join(lines)


def test_a_cluster_expansion_is_chosen_by_its_cross_validation() -> None:
    found = [*judged("ce-ardr", [1.0], cv=3.0), *judged("ce-ols", [9.0], cv=2.0)]
    lines = verdict([*found, *judged("fine-tuned", [5.0])], "MoWS2")
    assert "(ce-ols) 9.00" in lines[0]


def test_a_method_without_an_answer_has_no_error() -> None:
    lines = verdict([*judged("ce-ols", [2.0]), *judged("zero-shot", [np.nan])], "MoWS2")
    assert "(zero-shot) unknown." in lines[0]


def test_what_knows_the_answers_wins_nothing() -> None:
    found = [*judged("ce-all", [0.0, 0.0]), *judged("ce-ols", [3.0, 3.0])]
    found += [*judged("fine-tuned", [1.0, 1.0]), *judged("ideal", [1.2, 1.3])]
    lines = verdict(found, "MoWS2")
    assert "ce-all" not in " ".join(lines)
    assert "no method is better than composition alone" in lines[-1]
