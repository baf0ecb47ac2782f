"""Model files of mace-torch give mace-torch's energies and forces, and run nothing."""

import gzip
import io
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlff2d import checkpoint
from mlff2d.atoms import to_graph
from mlff2d.errors import ModelFileError
from mlff2d.importers import mace
from mlff2d.importers.mace import convert, recognises
from mlff2d.importers.pickles import Inert, lookup, read_inert
from mlff2d.potential import Potential
from tests.parity import reference
from tests.potentials import random_potential


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.model"
    path.write_bytes(gzip.decompress((reference.FOLDER / "mace-tiny.model.gz").read_bytes()))
    return path


def deviations(potential: Potential, ref: reference.Reference) -> tuple[float, float]:
    """Greatest deviations of energies and forces from the reference."""
    energies, forces = [], []
    for atoms, energy, expected in zip(ref.structures, ref.energies, ref.forces, strict=True):
        found = potential(to_graph(atoms, potential.cutoff).to(dtype=potential.dtype))
        energies.append(abs(float(found.energy) - energy))
        forces.append(np.abs(found.forces.numpy() - expected).max())
    return max(energies), max(forces)


def test_energies_and_forces_are_those_of_mace_torch(model_file: Path) -> None:
    ref = reference.read("mace-file")
    imported = convert(model_file)
    assert imported.potential.dtype == torch.float32
    assert not imported.potential.training
    energy, force = deviations(imported.potential, ref)
    assert energy < 1e-4
    assert force < 1e-4
    # In float64 what remains is that the file's constants are rounded to float32.
    energy, force = deviations(imported.potential.double(), ref)
    assert energy < 1e-6
    assert force < 1e-6


def test_card_says_what_is_known(model_file: Path) -> None:
    card = convert(model_file).card
    assert card["source"] == "mace-torch, ScaleShiftMACE"
    assert card["file"] == "tiny.model"
    assert card["origin"] == card["licence"] == card["trained_on"] == "unknown"


@pytest.mark.parametrize(
    ("name", "licence", "data"),
    [
        ("2023-12-10-mace-128-L0_energy_epoch-249.model", "MIT", "MPtrj"),
        ("20231203mace128L1_epoch199model", "MIT", "MPtrj"),  # as mace-torch keeps it
        ("mace-medium-density-agnesi-stress.model", "MIT", "MPtrj"),
        ("mace-mpa-0-medium.model", "MIT", "sAlex"),
        ("mace-omat-0-medium.model", "Academic Software License", "OMat24"),
        ("MACE-matpes-pbe-omat-ft.model", "Academic Software License", r"MatPES \(PBE\)"),
        ("MACE-OFF23_small.model", "Academic Software License", "SPICE"),
    ],
)
def test_published_files_are_known_by_name(
    model_file: Path, name: str, licence: str, data: str
) -> None:
    card = convert(model_file.rename(model_file.with_name(name))).card
    assert card["origin"] == "https://github.com/ACEsuit/mace-foundations"
    assert card["licence"].startswith(licence)
    assert re.search(data, card["trained_on"])


def test_saved_and_loaded_it_is_the_same(model_file: Path, tmp_path: Path) -> None:
    imported = convert(model_file)
    checkpoint.save(imported.potential, tmp_path / "model.pt")
    again = checkpoint.load(tmp_path / "model.pt")
    graph = to_graph(reference.inputs()[0], again.cutoff).to(dtype=torch.float32)
    assert torch.equal(again(graph).energy, imported.potential(graph).energy)


def test_recognises_only_files_of_mace_torch(model_file: Path, tmp_path: Path) -> None:
    assert recognises(model_file)
    checkpoint.save(random_potential("mace"), tmp_path / "ours.pt")
    assert not recognises(tmp_path / "ours.pt")
    assert not recognises(tmp_path / "missing.model")
    assert not recognises(tmp_path)
    (tmp_path / "text.model").write_text("mace")
    assert not recognises(tmp_path / "text.model")


class Runs:
    """Pickles as a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"mace.modules.models": Runs(tmp_path / "ran")}, tmp_path / "evil.model")
    assert recognises(tmp_path / "evil.model")
    with pytest.raises(ModelFileError, match="no mace-torch model"):
        convert(tmp_path / "evil.model")
    assert not (tmp_path / "ran").exists()


def test_legacy_file_is_recognised_too(tmp_path: Path) -> None:
    path = tmp_path / "old.model"
    torch.save("mace.modules.models", path, _use_new_zipfile_serialization=False)
    assert recognises(path)


def module_of(parent: Inert, name: str) -> Inert:
    for part in name.split("."):
        parent = parent.state["_modules"][part]
    return parent


def other_class(name: str, qualified_name: str) -> Callable[[Inert], None]:
    """Turns a module into one of another class."""

    def change(model: Inert) -> None:
        parent, _, last = name.rpartition(".")
        place = module_of(model, parent) if parent else model
        new: Any = type("Other", (Inert,), {"qualified_name": qualified_name})()
        new.__setstate__(module_of(place, last).raw_state)
        place.state["_modules"][last] = new

    return change


def with_buffer(name: str, value: Tensor) -> Callable[[Inert], None]:
    """Sets a buffer of a submodule."""

    def change(model: Inert) -> None:
        parent, _, last = name.rpartition(".")
        place = module_of(model, parent) if parent else model
        group = "_buffers" if last in place.state["_buffers"] else "_parameters"
        place.state[group][last] = value

    return change


def with_setting(name: str, value: Any, parent: str = "") -> Callable[[Inert], None]:
    """Sets an attribute."""

    def change(model: Inert) -> None:
        (module_of(model, parent) if parent else model).state[name] = value

    return change


def with_nan(model: Inert) -> None:
    """As after a training that went wrong."""
    lookup(model, "node_embedding.linear.weight")[0] = torch.nan


def without(name: str) -> Callable[[Inert], None]:
    """Takes a submodule away."""

    def change(model: Inert) -> None:
        del model.state["_modules"][name]

    return change


def with_part(name: str) -> Callable[[Inert], None]:
    """Adds a submodule that mace-torch's energies do not have."""

    def change(model: Inert) -> None:
        model.state["_modules"][name] = Inert()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            other_class("interactions.1", "mace.modules.blocks.SomeNewBlock"),
            "its interaction is a SomeNewBlock, which mlff2d does not have",
        ),
        (
            other_class("radial_embedding.bessel_fn", "mace.modules.radial.ChebychevBasis"),
            "ChebychevBasis",
        ),
        (
            other_class("radial_embedding.distance_transform", "mace.modules.SoftTransform"),
            "SoftTransform",
        ),
        (
            other_class("readouts.1", "mace.modules.blocks.NonLinearBiasReadoutBlock"),
            "NonLinearBiasReadoutBlock",
        ),
        (with_part("joint_embedding"), "joint_embedding"),
        (with_setting("use_so3", True), "use_so3 = True"),
        (with_setting("apply_cutoff", False, "radial_embedding"), "apply_cutoff"),
        (with_setting("heads", ["pbe", "r2scan"]), "heads, pbe, r2scan; say which"),
        (with_setting("avg_num_neighbors", 3.0, "interactions.1"), "avg_num_neighbors"),
        (with_setting("edge_irreps", "2x0e", "interactions.1"), "edge_irreps"),
        (
            with_buffer("radial_embedding.bessel_fn.bessel_weights", torch.ones(4)),
            "bessel_weights were trained",
        ),
        (
            with_buffer("radial_embedding.distance_transform.q", torch.tensor(0.8)),
            r"distance_transform\.q were trained",
        ),
        (with_buffer("node_embedding.linear.weight", torch.ones(4)), "no model as mace-torch"),
        (with_buffer("atomic_numbers", torch.tensor([6, 1, 16, 29, 42])), "must be ascending"),
        (with_nan, "weights that are NaN or infinite"),
        (without("scale_shift"), None),
        (without("readouts"), "it lacks 'readouts"),
        (without("node_embedding"), "it lacks 'node_embedding"),
    ],
)
def test_variants_are_understood_or_named(
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Inert], None],
    reason: str | None,
) -> None:
    model = read_inert(model_file)
    change(model)
    monkeypatch.setattr(mace, "read_inert", lambda _: model)
    if reason is None:
        assert convert(model_file).potential.scale == 1.0
        return
    with pytest.raises(ModelFileError, match=reason):
        convert(model_file)


def test_another_class_of_model_is_named(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = type("M", (Inert,), {"qualified_name": "mace.modules.models.AtomicDipolesMACE"})()
    model.__setstate__(read_inert(model_file).raw_state)
    monkeypatch.setattr(mace, "read_inert", lambda _: model)
    with pytest.raises(ModelFileError, match="AtomicDipolesMACE"):
        convert(model_file)


def test_unknown_head_is_named(model_file: Path) -> None:
    with pytest.raises(ModelFileError, match="no head 'pbe'; it has only"):
        convert(model_file, head="pbe")
    assert convert(model_file, head="only").potential.elements == reference.ELEMENTS


def test_damaged_file_is_an_error(model_file: Path) -> None:
    content = io.BytesIO(model_file.read_bytes())
    with zipfile.ZipFile(content) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(model_file, "w") as archive:
        for name, part in parts.items():
            if not name.endswith("data/0"):
                archive.writestr(name, part)
    with pytest.raises(ModelFileError, match="damaged"):
        convert(model_file)
