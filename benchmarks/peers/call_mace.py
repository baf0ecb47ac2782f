"""MACE in mace-torch: its calculator, for `benchmarks.inference_speed`.

Ways: `eager`; `compiled` by torch.compile, as the calculator offers it; `cueq` by cuequivariance.
"""

from importlib.metadata import version
from typing import Any

import torch
from mace.calculators import MACECalculator
from train_mace import build
from turns import Calls, count

IRREPS = {"mace": "128x0e", "mace-vectors": "128x0e+128x1o"}
WAYS: dict[str, dict[str, Any]] = {
    "eager": {},
    "compiled": {"compile_mode": "default"},
    "cueq": {"enable_cueq": True},
}


def main() -> None:
    dialogue = Calls()
    # cuequivariance has the smaller product basis alone.
    model = build(IRREPS[dialogue.case], True, 6.0, 40.0).eval()
    n_parameters = count(model)
    torch.save(model, dialogue.weights)
    calculator = MACECalculator(
        models=model, device="cpu", default_dtype="float32", **WAYS[dialogue.way]
    )
    dialogue.run(f"mace-torch {version('mace-torch')}", n_parameters, calculator)


if __name__ == "__main__":
    main()
