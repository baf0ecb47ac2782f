"""PaiNN in schnetpack: its transforms and loader, and its `AtomisticTask` in Lightning's trainer.

The transforms, neighbour lists among them, are applied once and the results kept in memory. The
running mean of the weights is left out: schnetpack's needs a checkpoint callback.
"""

import typing
from importlib.metadata import version

import numpy as np
import pytorch_lightning
import torch
import torch.utils.data.dataloader
from ase import Atoms
from turns import Turns, count, read_frames, train_in_lightning

# schnetpack 2.0.4 imports this type variable, which newer versions of torch have no more.
torch.utils.data.dataloader.T_co = typing.TypeVar("T_co", covariant=True)  # type: ignore[attr-defined]

from schnetpack import properties  # noqa: E402
from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances, Strain  # noqa: E402
from schnetpack.data.loader import AtomsLoader  # noqa: E402
from schnetpack.model import NeuralNetworkPotential  # noqa: E402
from schnetpack.nn import BesselRBF, CosineCutoff  # noqa: E402
from schnetpack.representation import PaiNN  # noqa: E402
from schnetpack.task import AtomisticTask, ModelOutput  # noqa: E402
from schnetpack.transform import CastTo32, MatScipyNeighborList  # noqa: E402


def item_of(atoms: Atoms) -> dict[str, torch.Tensor]:
    """A frame as schnetpack's data sets give it, transforms applied."""
    item = {
        properties.n_atoms: torch.tensor([len(atoms)]),
        properties.Z: torch.from_numpy(atoms.numbers.astype(np.int64)),
        properties.R: torch.from_numpy(atoms.positions),
        properties.cell: torch.from_numpy(atoms.cell.array)[None],
        properties.pbc: torch.from_numpy(atoms.pbc),
        "energy": torch.tensor([atoms.get_potential_energy()], dtype=torch.float64),
        "forces": torch.from_numpy(atoms.get_forces()),
        "stress": torch.from_numpy(atoms.get_stress(voigt=False))[None],
    }
    for transform in (MatScipyNeighborList(cutoff=5.0), CastTo32()):
        item = transform(item)
    return item


def painn(cutoff: float) -> NeuralNetworkPotential:
    """The PaiNN of its paper, with random weights."""
    return NeuralNetworkPotential(
        representation=PaiNN(
            n_atom_basis=128,
            n_interactions=3,
            radial_basis=BesselRBF(n_rbf=20, cutoff=cutoff),
            cutoff_fn=CosineCutoff(cutoff),
            max_z=95,
        ),
        input_modules=[Strain(), PairwiseDistances()],
        output_modules=[
            Atomwise(n_in=128, output_key="energy"),
            Forces(calc_forces=True, calc_stress=True),
        ],
    )


def main() -> None:
    turns = Turns()
    items = [item_of(atoms) for atoms in read_frames(turns)]
    loader = AtomsLoader(items, batch_size=turns.batch_size)
    n_edges = sum(len(item[properties.idx_i]) for item in items)
    model = painn(5.0)
    outputs = [
        ModelOutput(name=name, loss_fn=torch.nn.MSELoss(), loss_weight=weight, metrics={})
        for name, weight in (("energy", 0.01), ("forces", 0.99), ("stress", 1.0))
    ]
    task = AtomisticTask(model, outputs, torch.optim.AdamW, {"lr": 1e-3})
    task.setup = lambda stage=None: None  # it would ask a data module for statistics
    turns.ready(f"schnetpack {version('schnetpack')}", count(model), len(items), n_edges)
    train_in_lightning(pytorch_lightning, turns, task, loader)


if __name__ == "__main__":
    main()
