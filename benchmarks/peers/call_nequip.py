"""NequIP in nequip: its calculator, for `benchmarks.inference_speed`.

Ways: `eager`; `compiled` by AOTInductor, as `nequip-compile --mode aotinductor --target ase` does,
which takes many minutes and is kept in the environment: that it is of these weights, the comparison
of numbers shows.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from e3nn.math import normalize2mom
from nequip.data import from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model import NequIPGNNModel
from nequip.nn.compile import DictInputOutputWrapper
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import set_global_state
from turns import Calls, count, slab

SYMBOLS = ["H", "C", "S", "Cu", "Mo"]
SETTINGS: dict[str, Any] = {
    "type_names": SYMBOLS,
    "r_max": 6.0,
    "num_layers": 4,
    "l_max": 2,
    "parity": False,
    "num_features": 64,
    "radial_mlp_depth": 2,
    "radial_mlp_width": 64,
    "num_bessels": 8,
    "polynomial_cutoff_p": 6,
    "avg_num_neighbors": 40.0,
}


def main() -> None:
    dialogue = Calls()
    set_global_state()
    model = NequIPGNNModel(seed=0, model_dtype="float32", **SETTINGS).eval()
    n_parameters = count(model)
    gains = {
        "silu_gain": normalize2mom(torch.nn.functional.silu).cst,
        "tanh_gain": normalize2mom(torch.tanh).cst,
    }
    weights = {key.removeprefix("model.func."): p for key, p in model.named_parameters()}
    dialogue.write_weights({**SETTINGS, **gains}, weights)
    transforms = [
        ChemicalSpeciesToAtomTypeMapper(SYMBOLS),
        NeighborListTransform(r_max=SETTINGS["r_max"]),
    ]
    if dialogue.way == "compiled":
        model = compiled(model, transforms, Path(sys.prefix) / "benchmark.nequip.pt2")
    calculator = NequIPCalculator(model, "cpu", transforms=transforms)
    dialogue.run(f"nequip {version('nequip')}", n_parameters, calculator)


def compiled(model: torch.nn.Module, transforms: list[Any], path: Path) -> torch.nn.Module:
    """The model by AOTInductor, number of atoms and edges free."""
    target = COMPILE_TARGET_DICT["ase"]
    if not path.exists():
        data = from_ase(slab(12))
        for transform in transforms:
            data = transform(data)
        bounds = {key: torch.export.Dim(f"num_{key}s", min=2) for key in ("frame", "node", "edge")}
        sizes = {"graph": bounds["frame"], "node": bounds["node"], "edge": bounds["edge"]}
        aot_export_model(
            model=model,
            device="cpu",
            input_fields=target["input"],
            output_fields=target["output"],
            data=target["data_settings"](data),
            batch_map=target["batch_map_settings"](sizes),
            output_path=str(path),
        )
    package = torch._inductor.aoti_load_package(str(path))
    return DictInputOutputWrapper(package, target["input"], target["output"]).eval()


if __name__ == "__main__":
    main()
