"""Our potentials as models of torch-sim: relaxation and dynamics of many structures at once.

Needs the extra: pip install "mlff2d[torch-sim]".
Axes: N atoms, S systems.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from mlff2d.atoms import canonical_slab, graph_from_edges, not_finite
from mlff2d.checkpoint import load
from mlff2d.compiled import use_compiled_code
from mlff2d.devices import pick_device
from mlff2d.errors import ModelFileError, StructureError
from mlff2d.graph import Graph, collate
from mlff2d.neighbors import SkinList
from mlff2d.potential import Potential

try:
    import torch_sim
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise ImportError('mlff2d.torchsim needs torch-sim: pip install "mlff2d[torch-sim]"') from error

_FLAT = 1e-6  # Å³


class MLFF2DModel(ModelInterface):
    """Energies, forces and stress of a batch, the same as those of `MLFF2DCalculator`.

    torch-sim 0.3 knows no periodicity by axis: ASE's pbc (True, True, False) becomes False there,
    which would make a cluster of a layer, and is refused. Give layers pbc True and a vacuum of 4.5
    Å or more: which axis is the vacuum is found as everywhere in mlff2d, and the stress has no
    component along it, so that cell optimisers leave it as it is.

    Parameters
    ----------
    model : path of a model file, name of a shipped model, a `Potential`, or None for the shipped
        universal model
    device : None takes that of a `Potential`, else a GPU where there is one
    dtype : of the model and of torch-sim's states; None that of a `Potential`, else float32

    Raises ModelFileError for a file that is no model, or a model that takes in a state such as a
    temperature, which torch-sim does not know; when computing, StructureError as the calculator.
    """

    def __init__(
        self,
        model: str | Path | Potential | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, Potential):
            known = next(model.parameters())
            device, dtype = device or known.device, dtype or known.dtype
            potential = deepcopy(model)
        else:
            name = None if device is None else str(device)
            device, dtype = pick_device(name), dtype or torch.float32
            potential = load(model, device, dtype)
        if potential.model.state:
            raise ModelFileError(
                f"the model takes in {', '.join(potential.model.state)}, which torch-sim does not "
                "know; use MLFF2DCalculator"
            )
        self._device, self._dtype = torch.device(device), dtype
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = "n_atoms"  # beside a vacuum a density says nothing
        self.potential = potential.to(device=device, dtype=dtype).eval().requires_grad_(False)
        use_compiled_code(self.potential)
        # A list is right for any atoms at its places, so that systems may come and go.
        self._skin_lists: list[SkinList] = []

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """energy (S,) eV, forces (N, 3) eV/Å and stress (S, 3, 3) eV/Å³, tension positive.

        The stress is NaN where the cell has no volume.
        """
        if isinstance(state, dict):
            masses = torch.ones_like(state["positions"][:, 0])
            state = torch_sim.SimState(**{"masses": masses} | state)
        structures = list(_structures(state))
        graph = collate([self._graph(k, atoms) for k, atoms in enumerate(structures)])
        prediction = self.potential(graph.to(self.device, self.dtype), create_graph=False)
        finite = prediction.energy.isfinite()
        if not bool(finite.all()):
            raise StructureError(not_finite(structures[int((~finite).nonzero()[0])].numbers))
        volume = torch.linalg.det(graph.cell).abs().to(self.device)
        volume = torch.where(volume > _FLAT, volume, torch.nan)
        stress = prediction.virial / volume[:, None, None]
        return {
            "energy": prediction.energy.to(self.dtype),
            "forces": prediction.forces.to(self.dtype),
            "stress": stress.to(self.dtype),
        }

    def _graph(self, place: int, atoms: Atoms) -> Graph:
        self.potential.check_elements(atoms.numbers)
        canonical = canonical_slab(atoms)
        while len(self._skin_lists) <= place:
            self._skin_lists.append(SkinList(self.potential.cutoff))
        edges = self._skin_lists[place].get(canonical.pos, atoms.cell.array, canonical.pbc)
        return graph_from_edges(atoms, canonical, edges)


def _structures(state: Any) -> Any:
    """The systems of a state, one by one. Raises StructureError for a lost periodicity."""
    pos = state.positions.detach().double().cpu().numpy()
    cells = state.row_vector_cell.detach().double().cpu().numpy()
    numbers = state.atomic_numbers.cpu().numpy()
    owner = state.system_idx.cpu().numpy()
    ends = np.searchsorted(owner, np.arange(len(cells) + 1))
    pbc: NDArray[np.bool_] = np.broadcast_to(torch.as_tensor(state.pbc).cpu().numpy(), 3)
    for cell, first, last in zip(cells, ends[:-1], ends[1:], strict=True):
        atoms = Atoms(numbers[first:last], pos[first:last], cell=cell, pbc=pbc)
        if not pbc.any() and np.abs(cell).max() > 0:
            raise StructureError(
                f"{atoms.get_chemical_formula()} has a cell but no periodicity in torch-sim, which "
                "makes pbc (True, True, False) False; give pbc True and a vacuum, or, of a "
                "molecule, a cell of zeros"
            )
        yield atoms
