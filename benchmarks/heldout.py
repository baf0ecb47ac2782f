"""Errors of a model on materials that it was not trained on.

    python -m benchmarks.heldout structures.extxyz.gz [--model model.pt]
    python -m benchmarks.heldout other.extxyz --all

The first takes the file that the model was trained on and judges the test part alone: split and
filters are read from the model file, so that these are materials that nothing was trained on or
chosen by. The second takes every frame of another file, without energies, whose zero may differ.
Beside the model stand baselines: the reference energies of the elements alone, no force and no
stress. Also printed: medians, and the slope of predicted on true forces (below one: too soft).
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlff2d import checkpoint
from mlff2d.training.config import Config, LossConfig
from mlff2d.training.data.batches import iter_batches
from mlff2d.training.data.convert import convert_cached
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.loss import errors_of
from mlff2d.training.metrics import baselines
from mlff2d.training.setup import split_data


def open_data(file: Path, cutoff: float, material_key: str) -> Dataset:
    """The labelled frames of a file, in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path, _ = convert_cached([file], Path(folder), material_key)
        return Dataset(path, cutoff)


def test_part(data: Dataset, file: Path, training: dict[str, Any]) -> np.ndarray:
    """Frames of the materials that the training of a model kept out."""
    if data.sources[0]["sha256"] != training["data"][0]["sha256"]:
        raise SystemExit(f"{file} is not the file that the model was trained on; add --all")
    settings = training["settings"] | {"run_dir": "unused"}
    settings["data"] = settings["data"] | {"files": [file]}
    split, _ = split_data(Config.model_validate(settings), data)
    return split.test


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="file with energies, forces and stress")
    parser.add_argument("--all", action="store_true", help="every frame of a file never trained on")
    parser.add_argument("--model", default=None, help="model file; default: the shipped model")
    args = parser.parse_args()
    potential = checkpoint.load(args.model)
    training = checkpoint.read(args.model)["training"]
    data = open_data(args.data, potential.cutoff, training["settings"]["data"]["material_key"])
    ids = np.arange(len(data)) if args.all else test_part(data, args.data, training)
    batches = [ids[k : k + 64].tolist() for k in range(0, len(ids), 64)]

    energy, stress, predicted, true = [], [], [], []
    for graph, labels in iter_batches(data, batches, torch.float32, torch.device("cpu")):
        prediction = potential(graph)
        errors = errors_of(prediction, labels, graph)
        energy.append(errors.energy)
        # The mean of the four components in the plane.
        stress.append(errors.stress.abs().sum((1, 2)) / 4)
        predicted.append(prediction.forces)
        true.append(labels.forces)
    f, f0 = (1000 * torch.cat(x).double().numpy().ravel() for x in (predicted, true))
    nothing = baselines(potential, data, batches, LossConfig())
    rows = [
        ("energy, meV/atom", 1000 * torch.cat(energy).abs().numpy(), 1000 * nothing.energy, 1),
        ("forces, meV/Å", np.abs(f - f0), 1000 * nothing.forces, 1),
        ("stress, N/m", torch.cat(stress).numpy(), nothing.stress, 3),
    ]
    n_materials = len({data.material[s] for s in ids})
    print(f"{len(ids)} frames of {n_materials} materials")
    print(f"{'mean absolute error of':24s}{'model':>10s}{'baseline':>10s}{'median':>10s}")
    for name, errors_, baseline, digits in rows[1:] if args.all else rows:
        values = (errors_.mean(), baseline, np.median(errors_))
        print(f"{name:24s}" + "".join(f"{value:10.{digits}f}" for value in values))
    print(f"slope of predicted on true forces {np.polyfit(f0, f, 1)[0]:.3f}")


if __name__ == "__main__":
    main()
