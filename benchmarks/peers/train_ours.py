"""Our own training step, for `benchmarks.training_speed`: `training.setup` and `training.loop`.

The batches are those of the other programs, and everything else as in a run:
made in a thread ahead of use, gradients clipped, running mean of the weights, check for NaN.
"""

import tempfile
from pathlib import Path
from typing import Any

from turns import ELEMENTS, Turns, count

from mlff2d import __version__
from mlff2d.priors import ReferenceEnergies
from mlff2d.training.console import make_console
from mlff2d.training.data.batches import iter_batches
from mlff2d.training.loop import _step
from mlff2d.training.sections import Config
from mlff2d.training.setup import Run, prepare

MODELS: dict[str, dict[str, Any]] = {
    "m3gnet": {"name": "m3gnet", "threebody_cutoff": 4.0, "smooth": False, "depth": 3},
    "painn": {"name": "painn", "envelope": "cosine", "epsilon": 1e-8},
    "nequip": {
        "name": "nequip",
        "n_layers": 4,
        "hidden_irreps": "32x0e+32x1o",
        "l_max": 1,
        "self_connection": "embedding",
        "first_self_connection": False,
        "readout_hidden": [],
    },
    "mace": {"name": "mace", "hidden_irreps": "32x0e+32x1o+32x2e"},
    "mace-192": {"name": "mace", "hidden_irreps": "192x0e+192x1o+192x2e"},
}
MODELS |= {"nequip-compiled": MODELS["nequip"], "mace-default": MODELS["mace"]}


def config(turns: Turns, folder: Path) -> Config:
    """The run; settings not named are the defaults of the package."""
    return Config.model_validate(
        {
            "run_dir": folder / "run",
            "data": {"files": [turns.file], "in_memory": True},
            "model": MODELS[turns.model] | {"cutoff": 5.0, "elements": ELEMENTS},
            "priors": {"zbl": False},
            "train": {
                "batch_size": turns.batch_size,
                "batch_edges": 10**9,
                "device": "cpu",
                "threads": turns.threads,
            },
        }
    )


def main() -> None:
    turns, console = Turns(), make_console()
    with tempfile.TemporaryDirectory() as folder:
        run: Run = prepare(config(turns, Path(folder)))
        # All frames are trained on, also with elements that the training part of so few lacks.
        run.module.references = ReferenceEnergies(dict.fromkeys(ELEMENTS, 0.0))
        n = len(run.data)
        batches = [list(range(n))[k : k + turns.batch_size] for k in range(0, n, turns.batch_size)]
        n_edges = int(run.data.n_edges.sum())
        turns.ready(f"mlff2d {__version__}", count(run.module), n, n_edges)
        while True:
            loader = iter_batches(run.data, batches, run.module.dtype, run.device)
            for ids, loaded in zip(batches, loader, strict=True):
                loss, _ = _step(run, [(ids, loaded)], [ids], console)
                turns.step_done(loss)


if __name__ == "__main__":
    main()
