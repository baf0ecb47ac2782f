"""NequIP in nequip: its graphs, and its `EMALightningModule` in Lightning's trainer.

Neighbour lists are made once and kept, where nequip's own loader makes them anew for every batch.
With `nequip-compiled` the model goes through `torch.compile`, which nequip advises on GPUs.
"""

from importlib.metadata import version
from typing import Any

import lightning
import torch
from nequip.data import AtomicDataDict
from nequip.data.dataset import ASEDataset
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.train import EMALightningModule
from nequip.utils.global_state import set_global_state
from turns import SYMBOLS, Turns, count, train_in_lightning


def main() -> None:
    turns = Turns()
    set_global_state()
    transforms = [
        ChemicalSpeciesToAtomTypeMapper(SYMBOLS),
        NeighborListTransform(r_max=5.0),
    ]
    dataset = ASEDataset(str(turns.file), transforms=transforms)
    items = [dataset[k] for k in range(len(dataset))]
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        items,  # type: ignore[arg-type]
        batch_size=turns.batch_size,
        collate_fn=AtomicDataDict.batched_from_list,
    )
    n_edges = sum(item["edge_index"].shape[1] for item in items)
    module = EMALightningModule(
        ema_decay=0.99,
        model={
            "_target_": "nequip.model.NequIPGNNModel",
            "compile_mode": "compile" if turns.model == "nequip-compiled" else "eager",
            "seed": 0,
            "model_dtype": "float32",
            "type_names": SYMBOLS,
            "r_max": 5.0,
            "num_layers": 4,
            "l_max": 1,
            "parity": False,
            "num_features": 32,
            "radial_mlp_depth": 2,
            "radial_mlp_width": 64,
            "num_bessels": 8,
            "polynomial_cutoff_p": 6,
            "avg_num_neighbors": n_edges / sum(len(item["pos"]) for item in items),
        },
        loss={
            "_target_": "nequip.train.EnergyForceStressLoss",
            "coeffs": {"total_energy": 1.0, "forces": 1.0, "stress": 1.0},
        },
        optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3},
        num_datasets={"train": 1, "val": 0, "test": 0, "predict": 0},
    )
    turns.ready(f"nequip {version('nequip')}", count(module.model), len(items), n_edges)
    train_in_lightning(lightning, turns, module, loader)


if __name__ == "__main__":
    main()
