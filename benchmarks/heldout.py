"""Errors of a model on the materials that its own training kept out.

    python benchmarks/heldout.py structures.extxyz.gz [--model model.pt]

The file is the one the model was trained on; split and filters are read from the model file, so
that these are the test materials, none of which was trained on or chosen by. Beside the model
stand two baselines: the reference energies of the elements alone, and no force and no stress at
all. Also printed: medians, and the slope of predicted on true forces (below one: too soft).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from mlff2d import checkpoint
from mlff2d.training.batches import iter_batches
from mlff2d.training.config import Config
from mlff2d.training.convert import convert_cached
from mlff2d.training.dataset import Dataset
from mlff2d.training.loss import errors_of
from mlff2d.training.metrics import baselines
from mlff2d.training.setup import split_data


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the file that the model was trained on")
    parser.add_argument("--model", default=None, help="model file; default: the shipped model")
    args = parser.parse_args()
    potential = checkpoint.load(args.model)
    training = checkpoint.read(args.model)["training"]
    with tempfile.TemporaryDirectory() as folder:
        settings = training["settings"] | {"run_dir": folder}
        settings["data"] = settings["data"] | {"files": [args.data]}
        config = Config.model_validate(settings)
        path, _ = convert_cached(config.data.files, Path(folder), config.data.material_key)
        data = Dataset(path, potential.cutoff)
    if data.sources[0]["sha256"] != training["data"][0]["sha256"]:
        print(f"note: {args.data} is not the very file that the model was trained on")
    split, _ = split_data(config, data)
    batches = [split.test[k : k + 64].tolist() for k in range(0, len(split.test), 64)]

    energy, stress, predicted, true = [], [], [], []
    for graph, labels in iter_batches(data, batches, torch.float32, torch.device("cpu")):
        prediction = potential(graph)
        errors = errors_of(prediction, labels, graph)
        energy.append(errors.energy)
        # Norm over the plane's four components, so that it does not depend on the axes.
        stress.append(errors.stress.abs().sum((1, 2)) / 4)
        predicted.append(prediction.forces)
        true.append(labels.forces)
    de = 1000 * torch.cat(energy).abs().numpy()
    ds = torch.cat(stress).numpy()
    f, f0 = (1000 * torch.cat(x).double().numpy().ravel() for x in (predicted, true))
    nothing = baselines(potential, data, batches)

    materials = len({data.material[s] for s in split.test})
    print(f"{len(split.test)} frames of {materials} held-out materials")
    df = np.abs(f - f0)
    rows = (
        ("energy, meV/atom", de, 1000 * nothing.energy, 1),
        ("forces, meV/Å", df, 1000 * nothing.forces, 1),
        ("stress, N/m", ds, nothing.stress, 3),
    )
    print(f"{'mean absolute error of':24s}{'model':>10s}{'baseline':>10s}{'median':>10s}")
    for name, errors_, baseline, digits in rows:
        values = (errors_.mean(), baseline, np.median(errors_))
        print(f"{name:24s}" + "".join(f"{value:10.{digits}f}" for value in values))
    print(f"slope of predicted on true forces {np.polyfit(f0, f, 1)[0]:.3f}")


if __name__ == "__main__":
    main()
