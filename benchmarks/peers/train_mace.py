"""MACE in mace-torch: its data, its loader, its loss and `mace.tools.train.take_step`.

As `mace_run_train --loss=stress --ema --clip_grad=10` does it: neighbour lists are made once, then
kept in memory.
"""

from importlib.metadata import version

import torch
from mace import data, modules
from mace.modules.blocks import o3
from mace.tools import AtomicNumberTable
from mace.tools.torch_geometric.dataloader import DataLoader
from mace.tools.train import take_step
from torch_ema import ExponentialMovingAverage
from turns import ELEMENTS, Turns, count

# Features between the layers, and whether the product basis is free of redundant products, which
# `mace_run_train` leaves in unless told (--use_reduced_cg=True, with cuequivariance installed).
MODELS = {
    "mace": ("32x0e+32x1o+32x2e", True),
    "mace-default": ("32x0e+32x1o+32x2e", False),
    "mace-192": ("192x0e+192x1o+192x2e", True),
}


def build(
    hidden_irreps: str, is_reduced: bool, cutoff: float, neighbors: float
) -> modules.ScaleShiftMACE:
    """Two layers of l up to 3 and correlation 3, as `mace_run_train` makes them, random weights."""
    residual = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=residual,
        interaction_cls_first=residual,
        num_interactions=2,
        num_elements=len(ELEMENTS),
        hidden_irreps=o3.Irreps(hidden_irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=torch.zeros(len(ELEMENTS)).numpy(),
        avg_num_neighbors=neighbors,
        atomic_numbers=list(ELEMENTS),
        correlation=3,
        use_reduced_cg=is_reduced,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


def main() -> None:
    turns = Turns()
    hidden_irreps, is_reduced = MODELS[turns.model]
    keys = data.KeySpecification.from_defaults()
    keys.update(
        info_keys={"energy": "energy", "stress": "stress"}, arrays_keys={"forces": "forces"}
    )
    _, configs = data.load_from_xyz(str(turns.file), keys)
    table = AtomicNumberTable(list(ELEMENTS))
    items = [data.AtomicData.from_config(c, z_table=table, cutoff=5.0) for c in configs]
    loader = DataLoader(items, batch_size=turns.batch_size, shuffle=False, drop_last=True)
    n_edges = sum(item.edge_index.shape[1] for item in items)
    neighbors = n_edges / sum(len(item.positions) for item in items)
    model = build(hidden_irreps, is_reduced, 5.0, neighbors)
    loss = modules.WeightedEnergyForcesStressLoss(
        energy_weight=1.0, forces_weight=100.0, stress_weight=1.0
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True)
    ema = ExponentialMovingAverage(model.parameters(), decay=0.99)
    wanted = {"forces": True, "virials": False, "stress": True}
    turns.ready(f"mace-torch {version('mace-torch')}", count(model), len(items), n_edges)
    while True:
        for batch in loader:
            value, _ = take_step(
                model, loss, batch, optimizer, ema, wanted, 10.0, torch.device("cpu")
            )
            turns.step_done(float(value))


if __name__ == "__main__":
    main()
