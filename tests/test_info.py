"""`mlff2d info`."""

import json
from pathlib import Path

import pytest
import torch

from mlff2d.checkpoint import save
from mlff2d.cli import main
from tests.potentials import random_potential


def test_what_a_file_is_and_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pt"
    card = {"imported": {"licence": "MIT [really]", "cite": ""}, "versions": {"torch": "2.13"}}
    save(random_potential("m3gnet"), path, card)
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    for part in ("m3gnet", "channels: 8", "4.5 Å", "5 elements", "H C S Cu Mo", "MIT [really]"):
        assert part in shown
    assert "imported.cite" not in shown
    assert "versions" not in shown
    assert main(["info", str(path), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["training"] == card
    assert "weights" not in whole


def test_the_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert "metrics.test.forces" in capsys.readouterr().out


def test_no_such_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "univresal"]) == 2
    assert "Did you mean 'universal'?" in capsys.readouterr().err


def test_the_state_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"format": 1, "model": {}}, tmp_path / "state.pt")
    assert main(["info", str(tmp_path / "state.pt")]) == 2
    assert "give the best.pt or last.pt beside it" in capsys.readouterr().err
