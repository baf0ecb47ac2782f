"""Checkpoints of nequix: tiny ones against its own numbers, damaged ones, and the public ones."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from mlff2d.atoms import to_graph
from mlff2d.errors import ModelFileError
from mlff2d.importers import nequix
from mlff2d.models.nequip import NequIP
from tests.imported import (
    CHECKPOINTS,
    same_from_a_file,
    same_lattice_constant,
    same_on_shared_structures,
)
from tests.parity import reference
from tests.shared import needs_data

PUBLIC = ("nequix-oam-1-pft", "nequix-omat-1")


def content(settings: dict[str, Any], arrays: list[np.ndarray]) -> bytes:
    """The bytes of a .nqx file."""
    file = io.BytesIO()
    file.write(json.dumps(settings).encode() + b"\n")
    for array in arrays:
        np.save(file, array)
    return file.getvalue()


def tiny(name: str = "nequix-norm") -> tuple[dict[str, Any], list[np.ndarray]]:
    """Settings and arrays of a tiny file."""
    peer = reference.read(name)
    return peer.settings, [peer.weights[key] for key in sorted(peer.weights)]


@pytest.mark.parametrize("name", ["nequix-norm", "nequix-no-norm"])
def test_equals_nequix(name: str, tmp_path: Path) -> None:
    peer = reference.read(name)
    path = tmp_path / "tiny.nqx"
    path.write_bytes(content(*tiny(name)))
    assert nequix.recognises(path)
    potential = nequix.convert(path).potential
    reference.compare(potential.model, peer, potential.scale, potential.references.as_dict())


def test_lone_atoms_have_their_energies(tmp_path: Path) -> None:
    settings, arrays = tiny()
    arrays[-1] = 0.0 * arrays[-1]
    (tmp_path / "tiny.nqx").write_bytes(content(settings, arrays))
    potential = nequix.convert(tmp_path / "tiny.nqx").potential
    assert potential.elements == (1, 6, 16, 29, 42)
    found = potential(to_graph(Atoms("SMo", [(0, 0, 0), (20, 0, 0)]), potential.cutoff))
    energies = [settings["atom_energies"][z] + settings["shift"] for z in ("16", "42")]
    assert found.energies.tolist() == pytest.approx(energies, abs=1e-12)


def damaged() -> list[tuple[bytes, str]]:
    settings, arrays = tiny()
    whole = content(settings, arrays)
    few = {k: v for k, v in settings.items() if k != "cutoff"}
    infinite = [*arrays[:-1], arrays[-1] * np.inf]
    objects = [*arrays[:-1], np.array([{}], dtype=object)]
    other = [arrays[0] + 1.0, *arrays[1:]]
    return [
        (whole[: len(whole) // 2], "cannot be read"),
        (whole[:-8], "array 36 cannot be read"),
        (content(settings, arrays[:-1]), "fewer arrays"),
        (content(settings, [*arrays, arrays[-1]]), "more arrays"),
        (content(settings, [*arrays[:-1], arrays[-1][:-1]]), "do not fit"),
        (content(settings, infinite), "NaN or infinite"),
        (content(settings, objects), "cannot be read"),
        (content(settings, [*arrays[:-1], arrays[-1].astype(int)]), "holds no numbers"),
        (content(settings, other), "energies of single atoms"),
        (content(few, arrays), "settings lack 'cutoff'"),
        (content(settings | {"n_layers": "three"}, arrays), "n_layers must be a whole number"),
        (content(settings | {"index_weights": True}, arrays), "differ by element"),
        (content(settings | {"atomic_numbers": [6, 1, 16, 29, 42]}, arrays), "ascending"),
        (content(settings | {"radial_polynomial_p": 2.5}, arrays), "no whole number"),
        (content(settings | {"hidden_irreps": "4x0e+3x1e"}, arrays), "lead|not 0e"),
        (content(settings | {"hidden_irreps": "4x0e+3x1o+2x1o"}, arrays), "not 0e"),
        (whole[1:], "does not begin with its settings"),
        (b"{" + whole, "not JSON"),
        (b"{}\n", "settings lack"),
        (b"", "does not begin with its settings"),
        (content(settings, [])[:-1] + b"\nPK\x03\x04", "import the .nqx file"),
    ]


@pytest.mark.parametrize("k", range(21))
def test_damaged_files_are_refused_in_one_sentence(k: int, tmp_path: Path) -> None:
    what, reason = damaged()[k]
    path = tmp_path / "tiny.nqx"
    path.write_bytes(what)
    assert nequix.recognises(path)
    with pytest.raises(ModelFileError, match=reason) as caught:
        nequix.convert(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_recognised(tmp_path: Path) -> None:
    other = tmp_path / "renamed"
    other.write_bytes(content(*tiny()))
    assert nequix.recognises(other)
    other.write_bytes(b'{"a": 1}\n')
    assert not nequix.recognises(other)
    other.write_bytes(b"\x80\x02")
    assert not nequix.recognises(other)
    assert not nequix.recognises(tmp_path)
    assert not nequix.recognises(tmp_path / "missing.nqx")
    with pytest.raises(ModelFileError, match="cannot be read"):
        nequix.convert(tmp_path / "missing.nqx")


@needs_data
@pytest.mark.parametrize("name", PUBLIC)
def test_public_checkpoints(name: str, tmp_path: Path) -> None:
    imported = nequix.convert(CHECKPOINTS / f"{name}.nqx")
    assert isinstance(imported.potential.model, NequIP)
    assert len(imported.potential.elements) == 89
    same_from_a_file(imported.potential, tmp_path)
    same_on_shared_structures(imported.potential, name)


@pytest.mark.parametrize(("name", "licence"), [("nequix-mp-1", "MIT"), ("mine", "unknown")])
def test_only_published_files_have_their_licence(name: str, licence: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.nqx"
    path.write_bytes(content(*tiny()))
    card = nequix.convert(path).card
    assert card["licence"] == licence
    assert card["origin"].endswith("nequix" if licence == "MIT" else "unknown")


@needs_data
def test_cards() -> None:
    cards = [nequix.convert(CHECKPOINTS / f"{name}.nqx").card for name in PUBLIC]
    assert [card["licence"] for card in cards] == ["MIT", "MIT"]
    assert cards[0]["trained_on"].startswith("OMat24, sAlex, MPtrj, MDR Phonon")
    assert cards[1]["trained_on"].startswith("OMat24 (")


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_lattice_constant_of_mos2(name: str) -> None:
    same_lattice_constant(nequix.convert(CHECKPOINTS / f"{name}.nqx").potential, name)
