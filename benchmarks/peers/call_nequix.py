"""A public checkpoint in nequix: its calculator, for `benchmarks.inference_speed`.

Ways: `eager`, in PyTorch; `jax`, which it compiles for every number of atoms and edges anew.
"""

import shutil
from importlib.metadata import version

from nequix.calculator import NequixCalculator
from turns import Calls, count


def main() -> None:
    dialogue = Calls()
    if dialogue.checkpoints is None:
        raise SystemExit("nequix needs --checkpoints with nequix-oam-1-pft.nqx")
    # It writes a copy for PyTorch beside the file.
    shutil.copy(dialogue.checkpoints / "nequix-oam-1-pft.nqx", dialogue.weights)
    backend = "jax" if dialogue.way == "jax" else "torch"
    calculator = NequixCalculator(
        "nequix-oam-1-pft", model_path=dialogue.weights, backend=backend, use_kernel=False
    )
    n_parameters = 0 if backend == "jax" else count(calculator.model)
    dialogue.run(f"nequix {version('nequix')}", n_parameters, calculator)


if __name__ == "__main__":
    main()
