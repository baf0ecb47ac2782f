"""Absurd labels: named, and not fitted to."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest

from mlff2d.training.data.convert import open_sources
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.suspects import trusted_frames
from mlff2d.training.setup import prepare
from tests.training_helpers import monolayers, small_config

pytestmark = pytest.mark.usefixtures("pairnet")


def dataset(frames, folder: Path) -> Dataset:
    ase.io.write(folder / "frames.extxyz", frames)
    paths, _ = open_sources([folder / "frames.extxyz"], folder, "material")
    return Dataset(paths, 4.0)


def test_usual_labels_are_trusted(tmp_path):
    data = dataset(monolayers(), tmp_path)
    ids, sentences = trusted_frames(data, np.arange(len(data)))
    assert len(ids) == len(data)
    assert sentences == ()


@pytest.mark.parametrize(
    ("label", "factor", "words"),
    [
        ("energy", 1e9, ["energy", "eV/atom", "filters.max_energy"]),
        ("forces", 1e6, ["a force", "eV/Å", "filters.max_force"]),
        ("stress", 1e6, ["stress", "N/m", "filters.max_stress"]),
    ],
)
def test_an_absurd_label_is_named(tmp_path, label, factor, words):
    frames = monolayers()
    frames[5].calc.results[label] = frames[5].calc.results[label] * factor + factor
    data = dataset(frames, tmp_path)
    ids, sentences = trusted_frames(data, np.arange(3, len(data)))
    assert ids.tolist() == [3, 4, *range(6, len(data))]
    (sentence,) = sentences
    for word in ["frames.extxyz frame 5", "1 frames", *words]:
        assert word in sentence


def test_reference_energies_and_scale_do_not_follow_it(tmp_path):
    frames = monolayers(n_each=6)
    plain, spoilt = tmp_path / "plain.extxyz", tmp_path / "spoilt.extxyz"
    ase.io.write(plain, frames)
    for k in range(0, len(frames), 40):
        frames[k].calc.results["energy"] = 1e9
        frames[k].calc.results["forces"] = np.full((2, 3), 1e6)
    ase.io.write(spoilt, frames)
    before, after = (prepare(small_config(tmp_path / "run", path)) for path in (plain, spoilt))
    assert before.doubts == ()
    assert len(after.doubts) == 2
    assert after.module.scale == pytest.approx(before.module.scale, rel=0.1)
    energies = after.module.references.as_dict()
    for z, energy in before.module.references.as_dict().items():
        assert energies[z] == pytest.approx(energy, abs=0.1)
