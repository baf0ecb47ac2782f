"""PaiNN in schnetpack: its calculator, for `benchmarks.inference_speed`."""

from importlib.metadata import version

import torch
from train_schnetpack import MatScipyNeighborList, NeuralNetworkPotential, painn
from turns import Calls, count

from schnetpack.interfaces import SpkCalculator  # isort: skip (behind what the other file mends)


class WithModel(SpkCalculator):
    """The calculator, which else reads a file that newer versions of torch refuse."""

    def _load_model(self, model_file: NeuralNetworkPotential) -> NeuralNetworkPotential:
        return model_file.eval()


def main() -> None:
    dialogue = Calls()
    model = painn(6.0)
    weights = {
        key.replace("output_modules.0.", "readout."): value
        for key, value in model.state_dict().items()
    }
    dialogue.write_weights({}, weights)
    neighbors = MatScipyNeighborList(cutoff=6.0)
    calculator = WithModel(
        model, neighbors, stress_key="stress", energy_unit="eV", dtype=torch.float32
    )
    dialogue.run(f"schnetpack {version('schnetpack')}", count(model), calculator)


if __name__ == "__main__":
    main()
