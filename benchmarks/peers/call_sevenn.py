"""The architecture of SevenNet-0 in SevenNet, for `benchmarks.inference_speed`; random weights."""

from importlib.metadata import version
from typing import Any

import sevenn._keys as KEY
import torch
from sevenn import _const
from sevenn.calculator import SevenNetCalculator
from sevenn.model_build import build_E3_equivariant_model
from sevenn.train.trainer import Trainer
from sevenn.util import chemical_species_preprocess
from turns import SYMBOLS, Calls, count

MIDDLE = "128x0e+64x1e+32x2e"
SETTINGS: dict[str, Any] = {
    "cutoff": 5.0,
    "channel": 128,
    "lmax": 2,
    "num_convolution_layer": 5,
    "irreps_manual": ["128x0e", *[MIDDLE] * 4, "128x0e"],
    "is_parity": False,
    "self_connection_type": "linear",
    "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 8},
    "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 4.5},
    "weight_nn_hidden_neurons": [64, 64],
    "conv_denominator": [35.0] * 5,
    "shift": 0.0,
    "scale": 1.0,
}


def main() -> None:
    dialogue = Calls()
    config = {
        **_const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG,
        **_const.DEFAULT_DATA_CONFIG,
        **_const.DEFAULT_TRAINING_CONFIG,
        **chemical_species_preprocess(SYMBOLS),
        "version": version("sevenn"),
        "_model_type": "E3_equivariant_model",
        KEY.IS_DDP: False,
        KEY.SCHEDULER_PARAM: {"gamma": 0.99},
        KEY.DEVICE: torch.device("cpu"),
        **SETTINGS,
    }
    model = build_E3_equivariant_model(dict(config))
    n_parameters = count(model)
    Trainer.from_config(model, config).write_checkpoint(
        str(dialogue.weights), config=config, epoch=1
    )
    calculator = SevenNetCalculator(str(dialogue.weights), device="cpu")
    dialogue.run(f"sevenn {version('sevenn')}", n_parameters, calculator)


if __name__ == "__main__":
    main()
