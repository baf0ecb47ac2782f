"""Our own calculator with the weights of a peer, for `benchmarks.inference_speed`.

Ways: `compiled`, as users get it; `eager`, without compiled code.
"""

import numpy as np
import torch
from turns import Calls, count

from mlff2d import MLFF2DCalculator, __version__
from mlff2d.checkpoint import load
from mlff2d.importers.recognise import import_model
from mlff2d.models import build_model
from mlff2d.models.base import EnergyModel
from mlff2d.models.painn import PaiNN
from mlff2d.potential import Potential
from tests.parity.nequip_weights import peer_model
from tests.parity.reference import ELEMENTS, Reference
from tests.parity.schnetpack_names import painn_weights


def painn(theirs: Reference) -> EnergyModel:
    """With the sizes and the weights of `train_schnetpack.painn`."""
    settings = {"cutoff": 6.0, "radial": "bessel", "envelope": "cosine", "epsilon": 1e-8}
    model = build_model("painn", {"elements": ELEMENTS, "n_radial": 20, **settings}).double()
    assert isinstance(model, PaiNN)
    model.load_state_dict(painn_weights(theirs, model), strict=True)
    return model


MODELS = {"painn": painn, "nequip": peer_model}


def potential_of(dialogue: Calls) -> Potential:
    """The peer's model as ours, or the universal model, which has no peer."""
    if dialogue.case == "universal":
        return load()
    if dialogue.case not in MODELS:
        return import_model(dialogue.weights).potential
    content = torch.load(dialogue.weights)
    weights = {key: value.numpy() for key, value in content["weights"].items()}
    theirs = Reference("", content["settings"], weights, [], np.empty(0), [])
    return Potential(MODELS[dialogue.case](theirs), dict.fromkeys(ELEMENTS, 0.0), zbl=False)


def main() -> None:
    dialogue = Calls()
    potential = potential_of(dialogue)
    n_parameters = count(potential)
    calculator = MLFF2DCalculator(
        potential, device="cpu", compile="no" if dialogue.way == "eager" else "auto"
    )
    dialogue.run(f"mlff2d {__version__}", n_parameters, calculator)


if __name__ == "__main__":
    main()
