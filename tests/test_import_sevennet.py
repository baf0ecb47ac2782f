"""Checkpoints of SevenNet against what sevenn itself gives for them, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlff2d import checkpoint
from mlff2d.atoms import to_graph
from mlff2d.errors import ModelFileError
from mlff2d.importers import sevennet
from mlff2d.importers.pickles import read_inert
from mlff2d.nn.irreps import parse_irreps
from mlff2d.potential import Potential
from tests.parity import reference
from tests.potentials import random_potential

VARIANTS = ("", "-old", "-parity")


def tiny(variant: str = "") -> Path:
    """A checkpoint with random weights, written by sevenn."""
    return reference.FOLDER / f"sevenn-tiny{variant}.pth"


def agrees(potential: Potential, variant: str, tolerance: float) -> bool:
    """Whether a potential, computing in float64, gives sevenn's energies and forces."""
    stored = reference.read(f"sevenn-tiny{variant}")
    potential = potential.double()
    found = [potential(to_graph(a, potential.cutoff), virial=False) for a in stored.structures]
    energies = np.array([float(prediction.energy) for prediction in found])
    forces = torch.cat([p.forces for p in found if p.forces is not None]).numpy()
    expected = np.concatenate(stored.forces)
    assert np.abs(expected).max() > 0.01, "the reference feels nothing"
    near = np.abs(energies - stored.energies).max() < tolerance
    return bool(near and np.abs(forces - expected).max() < tolerance * np.abs(expected).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_energies_and_forces_are_those_of_sevenn(variant: str) -> None:
    imported = sevennet.convert(tiny(variant))
    assert not imported.potential.training
    # The weights are float32, as in the checkpoint, but multiplied with factors.
    assert agrees(imported.potential, variant, 1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings(variant: str) -> None:
    potential = sevennet.convert(tiny(variant)).potential
    config = potential.model.config
    assert potential.elements == config.elements == reference.ELEMENTS
    assert config.cutoff == 4.0
    assert config.switch_start == (3.4 if variant == "" else 0.0)
    assert config.parity == (variant == "-parity")
    irreps = {
        "": "4x0e+3x1e+2x2e",
        "-old": "4x0e+2x1e+2x2e",
        # There are 0o too, but none from which anything leads to the energy.
        "-parity": "3x0e+3x1e+3x1o+3x2e+3x2o",
    }[variant]
    assert parse_irreps(config.hidden_irreps, config.parity) == parse_irreps(irreps, config.parity)
    references = potential.references.as_dict()
    expected = dict(zip((6, 29, 1, 42, 16), (-1.5, 0.25, -3.0, 2.0, -0.75), strict=True))
    assert references == pytest.approx(
        dict.fromkeys(references, -2.0) if variant == "-parity" else expected
    )


def test_signs_of_old_coupling_coefficients_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sevennet, "_signs", lambda *_: 1.0)
    assert not agrees(sevennet.convert(tiny("-old")).potential, "-old", 1e-4)


def test_saved_model_gives_the_same(tmp_path: Path) -> None:
    imported = sevennet.convert(tiny())
    checkpoint.save(imported.potential, tmp_path / "model.pt", imported.card)
    assert agrees(checkpoint.load(tmp_path / "model.pt"), "", 1e-6)
    card = checkpoint.read(tmp_path / "model.pt")["training"]
    assert card["source"] == "SevenNet (sevenn 0.13.0), sevenn-tiny.pth"
    assert card["licence"] == card["trained_on"] == "unknown"


def test_imported_model_can_be_trained_further() -> None:
    potential = sevennet.convert(tiny()).potential.train()
    graph = to_graph(reference.inputs()[0], potential.cutoff).to(dtype=torch.float32)
    prediction = potential(graph)
    assert prediction.forces is not None
    (prediction.forces.square().sum() + prediction.energy.sum()).backward()
    for name, parameter in potential.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_recognises(tmp_path: Path) -> None:
    assert all(sevennet.recognises(tiny(variant)) for variant in VARIANTS)
    checkpoint.save(random_potential("nequip"), tmp_path / "own.pt")
    (tmp_path / "text.pth").write_text("model_state_dict _type_map cutoff_function")
    torch.save({"model_state_dict": {}}, tmp_path / "other.pth")
    for name in ("own.pt", "text.pth", "other.pth", "missing.pth", ""):
        assert not sevennet.recognises(tmp_path / name)


def changed(path: Path, change: Callable[[dict[str, Any]], object], variant: str = "") -> Path:
    """A tiny checkpoint with something changed."""
    content = read_inert(tiny(variant))
    keep = {key: dict(content[key]) for key in ("config", "model_state_dict")}
    change(keep)
    torch.save(keep, path)
    return path


def test_a_checkpoint_needs_no_more_than_settings_and_weights(tmp_path: Path) -> None:
    path = changed(tmp_path / "model.pth", lambda content: None)
    assert agrees(sevennet.convert(path).potential, "", 1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_modality": True}, "several data sets at once"),
        ({"use_bias_in_linear": True}, "biases"),
        ({"readout_as_fcn": True}, "read by a network"),
        ({"act_radial": "ssp"}, "radial networks have another activation"),
        ({"act_scalar": {"e": "ssp", "o": "tanh"}}, "gates have other activations"),
        ({"act_gate": {"e": "silu", "o": "abs"}}, "gates have other activations"),
        ({"_normalize_sph": False}, "not of length 1"),
        ({"interaction_type": "mace"}, "not NequIP's"),
        ({"self_connection_type": ["linear", "nequip", "linear"]}, "different kinds"),
        ({"self_connection_type": "none"}, "'none'"),
        ({"radial_basis": {"radial_basis_name": "gauss"}}, "'gauss'"),
        ({"cutoff_function": {"cutoff_function_name": "cosine"}}, "'cosine'"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"irreps_manual": ["4x0e", "4x0e+3x1e+2x2e", "4x0e+4x1e+2x2e", "4x0e"]}, "differ in"),
        ({"irreps_manual": ["4x0e", "4x0e+3x1e", "4x0e+3x1e+2x2e", "4x0e"]}, "has only"),
        ({"irreps_manual": ["4x0e", "4x0e+3x1e", "4x0e+3x1e", "4x0e"]}, "size"),
        ({"weight_nn_hidden_neurons": [5, 7]}, "weights"),
        ({"num_convolution_layer": 4}, "index"),
        ({"is_parity": True}, "importable|imported"),
        ({"_type_map": {1: 0, 6: 1}}, "shape|size"),
        ({"version": "new"}, "damaged"),
    ],
)
def test_what_nequip_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = changed(tmp_path / "model.pth", lambda content: content["config"].update(changes))
    with pytest.raises(ModelFileError, match=reason) as error:
        sevennet.convert(path)
    assert "SevenNet-0 (11Jul2024) and SevenNet-l3i5 can be" in str(error.value)


def scaled_by_element(content: dict[str, Any]) -> None:
    content["model_state_dict"]["rescale_atomic_energy.scale"] = torch.arange(5.0)


def nan(content: dict[str, Any]) -> None:
    content["model_state_dict"]["0_self_interaction_1.linear.weight"] *= torch.nan


def other_couplings(content: dict[str, Any]) -> None:
    state = content["model_state_dict"]
    name = "1_convolution.convolution._compiled_main_left_right._w3j_1_1_2"
    state[name] = torch.rand_like(state[name])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("config"), "it lacks 'config'"),
        (lambda c: c["config"].pop("cutoff"), "it lacks 'cutoff'"),
        (lambda c: c["model_state_dict"].pop("1_convolution.denominator"), "1_convolution.denom"),
        (scaled_by_element, "scaled differently for each element"),
        (nan, "NaN or infinite"),
        (other_couplings, "_w3j_1_1_2 are not e3nn's"),
    ],
)
def test_damaged_checkpoints_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(ModelFileError, match=reason):
        sevennet.convert(changed(tmp_path / "model.pth", change))


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(tiny().read_bytes()[:-2000])
    assert not sevennet.recognises(path)
    with pytest.raises(ModelFileError, match=r"model\.pth"):
        sevennet.convert(path)


class Trap:
    """Leaves a file behind where it is unpickled with the means of pickle."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.path, "w")


def test_nothing_in_the_file_is_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = Trap(sprung)
    path = changed(tmp_path / "model.pth", lambda content: content["config"].update(device=trap))
    assert sevennet.recognises(path)
    assert agrees(sevennet.convert(path).potential, "", 1e-6)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(trap)).close()
    assert sprung.exists(), "the trap would have shown it"
