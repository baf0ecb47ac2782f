"""M3GNet in matgl: its graphs and collation, and its `PotentialLightningModule` in the trainer.

As matgl's data sets, graphs with the edges are made once and kept in memory; the three-body lists
are made in every step. matgl keeps no running mean of the weights.
"""

from functools import partial
from importlib.metadata import version
from typing import Any

import lightning
import torch
from matgl.ext.ase import Atoms2Graph
from matgl.graph.data import collate_fn_pes
from matgl.models import M3GNet
from matgl.utils.training import PotentialLightningModule
from turns import SYMBOLS, Turns, count, read_frames, train_in_lightning

GPA = 160.21766


def main() -> None:
    turns = Turns()
    converter = Atoms2Graph(tuple(SYMBOLS), 5.0)
    items = []
    for atoms in read_frames(turns):
        graph, lattice, state = converter.get_graph(atoms)
        labels = {
            "energies": atoms.get_potential_energy(),
            "forces": torch.tensor(atoms.get_forces(), dtype=torch.float32),
            "stresses": torch.tensor(GPA * atoms.get_stress(voigt=False), dtype=torch.float32),
        }
        items.append((graph, lattice, torch.tensor(state), labels))
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        items,  # type: ignore[arg-type]
        batch_size=turns.batch_size,
        collate_fn=partial(collate_fn_pes, include_stress=True),
    )
    n_edges = sum(item[0].edge_index.shape[1] for item in items)
    model = M3GNet(element_types=tuple(SYMBOLS), is_intensive=False)
    module = PotentialLightningModule(model, stress_weight=0.1, lr=1e-3)
    turns.ready(f"matgl {version('matgl')}", count(model), len(items), n_edges)
    train_in_lightning(lightning, turns, module, loader)


if __name__ == "__main__":
    main()
