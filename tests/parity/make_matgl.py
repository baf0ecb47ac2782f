"""Tiny random M3GNet and MEGNet models of matgl, with energies and forces.

    python -m venv env
    env/bin/pip install torch==2.13.0
    env/bin/pip install matgl==4.1.2
    env/bin/python tests/parity/make_matgl.py

Versions before 3 sent the messages of M3GNet to the far end of the edge; "far-end" is 4.1.2 with
that restored. MEGNet gives a property of a structure; stored is it times the number of atoms.
"""

from typing import Any

import matgl
import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from matgl.apps.pes import Potential
from matgl.ext.ase import Atoms2Graph
from matgl.layers import _basis, _graph_convolution
from matgl.models import M3GNet, MEGNet
from matgl.utils import maths
from matgl.utils.maths import scatter_add
from reference import ELEMENTS, inputs, write

SYMBOLS = tuple(chemical_symbols[z] for z in ELEMENTS)

M3GNETS: dict[str, dict[str, Any]] = {
    "m3gnet": {"use_smooth": False, "units": 6},
    "m3gnet-smooth": {"use_smooth": True, "units": 7, "max_n": 2, "max_l": 4},
    "m3gnet-far-end": {"use_smooth": True, "units": 6, "far_end": True},
}
SMALL_M3GNET = {
    "dim_node_embedding": 6,
    "dim_edge_embedding": 6,
    "nblocks": 2,
    "cutoff": 4.5,
    "threebody_cutoff": 3.6,
}
MEGNETS: dict[str, dict[str, Any]] = {
    "megnet": {"state": [0.7, -0.4], "nblocks": 3},
    "megnet-no-state": {"state": [0.0, 0.0], "nblocks": 1, "nlayers_set2set": 2},
}
SMALL_MEGNET = {
    "dim_node_embedding": 5,
    "dim_edge_embedding": 9,
    "hidden_layer_sizes_input": (6, 5),
    "hidden_layer_sizes_conv": (6, 7, 5),
    "hidden_layer_sizes_output": (6, 4),
    "niters_set2set": 3,
    "cutoff": 4.5,
}

nearest_end = _graph_convolution.M3GNetGraphConv.node_update_


def far_end(
    self: torch.nn.Module,
    edge_index: torch.Tensor,
    edge_feat: torch.Tensor,
    node_feat: torch.Tensor,
    rbf: torch.Tensor,
    u_per_edge: None,
    num_nodes: int,
) -> torch.Tensor:
    """The update of the atoms in matgl 1: a message goes where its edge points to."""
    src, dst = edge_index
    both = torch.hstack([node_feat[src], node_feat[dst], edge_feat])
    message = self.node_update_func(both) * self.node_weight_func(rbf)
    return scatter_add(message, dst, dim_size=num_nodes, dim=0)


def random_weights(model: torch.nn.Module) -> None:
    """Random numbers everywhere, also where the peer starts from zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                width = 1.0 if "embedding.weight" in name else 1.5 / p.shape[-1] ** 0.5
                p.copy_(width * torch.randn(p.shape, generator=generator))


def evaluate(model: torch.nn.Module, atoms: Atoms, state: list[float]) -> tuple[float, np.ndarray]:
    """Energy and forces."""
    graph, lattice, _ = Atoms2Graph(SYMBOLS, float(model.cutoff)).get_graph(atoms)
    lattice = lattice.reshape(1, 3, 3)
    if isinstance(model, M3GNet):
        energy, forces, *_ = Potential(model, calc_stresses=False)(graph, lattice)
        return float(energy.detach()), forces.detach().numpy()
    graph.pbc_offshift = graph.pbc_offset @ lattice[0]
    graph.pos = (graph.frac_coords @ lattice[0]).requires_grad_(True)
    total = model(g=graph, state_attr=torch.tensor([state])) * len(atoms)
    (gradient,) = torch.autograd.grad(total, graph.pos)
    return float(total.detach()), -gradient.numpy()


def main() -> None:
    """Write a reference for each model."""
    matgl.set_default_dtype("float", 64)
    exact = np.load(f"{maths.__file__.rsplit('/', 1)[0]}/sb_roots.npy")
    _basis.SPHERICAL_BESSEL_ROOTS = torch.tensor(exact)  # was rounded to float32
    for name, settings in (M3GNETS | MEGNETS).items():
        torch.manual_seed(0)
        if name in M3GNETS:
            settings = SMALL_M3GNET | settings
            end = far_end if settings.get("far_end") else nearest_end
            _graph_convolution.M3GNetGraphConv.node_update_ = end
            own = {k: v for k, v in settings.items() if k != "far_end"}
            model = M3GNet(element_types=SYMBOLS, is_intensive=False, **own)
        else:
            settings = SMALL_MEGNET | settings
            own = {k: v for k, v in settings.items() if k != "state"}
            model = MEGNet(element_types=SYMBOLS, **own)
        model = model.double().eval()
        random_weights(model)
        results = [evaluate(model, atoms, settings.get("state", [])) for atoms in inputs()]
        energies, forces = zip(*results, strict=True)
        weights = {k: v.numpy() for k, v in model.state_dict().items()}
        peer = f"matgl {matgl.__version__}"
        write(f"matgl-{name}", peer, settings, weights, inputs(), energies, forces)
        print(name, energies, np.abs(np.concatenate(forces)).max())


if __name__ == "__main__":
    main()
