"""Energies and forces of the `alignn` package's model for forces, without DGL.

In an environment of its own, with Python 3.11:

    python -m venv env-alignn
    env-alignn/bin/pip install torch==2.13.0
    env-alignn/bin/pip install alignn==2026.8.11
    env-alignn/bin/python tests/parity/make_alignn.py

The package's fixed range of Gaussians, 0 to 8 Å, is the cutoff; atoms begin as one of five. Its
repulsion and its penalty for short bonds, which are added to the network, are left out.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import reference
import torch
from alignn.models.alignn_atomwise_pure import ALIGNNAtomWisePure, ALIGNNAtomWisePureConfig
from alignn.torch_graph_builder import torch_neighbor_list
from ase import Atoms

CUTOFF = 8.0
COMMON = {
    "edge_input_features": 12,
    "triplet_input_features": 9,
    "embedding_features": 5,
    "hidden_features": 6,
}
VARIANTS = {
    "alignn-atomwise": {"alignn_layers": 2, "gcn_layers": 2, "three_body_cutoff": 3.5},
    "alignn-atomwise-three-layers": {"alignn_layers": 3, "gcn_layers": 1, "three_body_cutoff": 4.5},
}


def random_model(settings: dict[str, Any]) -> ALIGNNAtomWisePure:
    """A float64 model all of whose parameters are random."""
    config = ALIGNNAtomWisePureConfig(
        name="alignn_atomwise_pure",
        atom_input_features=len(reference.ELEMENTS),
        use_penalty=False,
        use_zbl=False,
        **settings,
    )
    model = ALIGNNAtomWisePure(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def evaluate(model: ALIGNNAtomWisePure, atoms: Atoms) -> tuple[float, np.ndarray]:
    """Total energy and forces."""
    positions = torch.tensor(atoms.positions, requires_grad=True)
    cell = torch.tensor(atoms.cell.array)
    src, dst, shift, _ = torch_neighbor_list(positions.detach(), cell, CUTOFF)
    one_of = torch.tensor(np.equal.outer(atoms.numbers, reference.ELEMENTS)).double()
    found = model.forward_tensors(positions, cell, one_of, src, dst, shift)
    return float(found["energy"].detach()), found["forces"].detach().numpy()


def main() -> None:
    """Write the references."""
    # Before the models are made: their constants are rounded otherwise.
    torch.set_default_dtype(torch.float64)
    for name, variant in VARIANTS.items():
        torch.manual_seed(0)
        settings = COMMON | variant
        model = random_model(settings)
        structures = reference.inputs()
        energies, forces = zip(*(evaluate(model, atoms) for atoms in structures), strict=True)
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        del weights["_species_table"]
        peer = f"alignn {version('alignn')}"
        reference.write(name, peer, settings, weights, structures, energies, forces)


if __name__ == "__main__":
    main()
