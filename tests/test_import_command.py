"""`mlff2d import`, on checkpoints that the peers wrote of random models."""

import errno
import gzip
import struct
import sys
import zipfile
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import torch

from mlff2d import MLFF2DCalculator
from mlff2d.checkpoint import read, save
from mlff2d.cli import main
from tests.parity.reference import FOLDER, inputs
from tests.potentials import random_potential

Capture = pytest.CaptureFixture[str]
FILES = {"sevenn-tiny.pth": "nequip", "mace-tiny.model": "mace"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "sevenn-tiny.pth").write_bytes((FOLDER / "sevenn-tiny.pth").read_bytes())
    with gzip.open(FOLDER / "mace-tiny.model.gz") as file:
        (folder / "mace-tiny.model").write_bytes(file.read())
    return folder


@pytest.mark.parametrize(("name", "model"), FILES.items())
def test_a_checkpoint_becomes_a_model_file(
    name: str,
    model: str,
    checkpoints: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import", str(checkpoints / name)]) == 0
    shown = capsys.readouterr().out
    assert "imported.licence" in shown
    written = Path(name).with_suffix(".pt")
    assert f"Written: {written}" in shown
    content = read(written)
    assert content["model"] == model
    assert {"source", "origin", "licence", "trained_on", "cite"} <= content["training"][
        "imported"
    ].keys()
    atoms = inputs()[0]
    atoms.calc = MLFF2DCalculator(written)
    forces = atoms.get_forces()
    # What no peer gets right: the same slab without a third vector.
    atoms.cell[2] = 0.0
    atoms.pbc = (True, True, False)
    assert np.abs(atoms.get_forces() - forces).max() < 1e-5 * np.abs(forces).max()


def test_nothing_is_overwritten_unasked(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "model.pt"
    output.write_text("precious")
    command = ["import", str(checkpoints / "mace-tiny.model"), "-o", str(output)]
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_text() == "precious"
    assert main([*command, "--overwrite"]) == 0
    assert read(output)["model"] == "mace"


def test_what_cannot_be_imported(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    def error(*arguments: object) -> str:
        assert main(["import", *map(str, arguments), "-o", str(tmp_path / "out.pt")]) == 2
        assert not (tmp_path / "out.pt").exists()
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    assert "no file or folder" in error(tmp_path / "missing.nqx")
    text = tmp_path / "text.pt"
    text.write_text("hello")
    assert "text.pt is no checkpoint that mlff2d knows; nequix" in error(text)
    ours = tmp_path / "ours.pt"
    save(random_potential("m3gnet"), ours)
    assert "a model file of mlff2d already" in error(ours)
    state = tmp_path / "state.pt"
    torch.save({"format": 1, "model": {}}, state)
    assert "the state of a training and no model" in error(state)
    (tmp_path / "config.yaml").write_text("run_dir: runs/tiny\n\nmodel:\n  name: m3gnet\n")
    assert "is no checkpoint that mlff2d knows" in error(tmp_path / "config.yaml")
    assert "leave --head out" in error(checkpoints / "sevenn-tiny.pth", "--head", "pbe")
    empty = tmp_path / "empty.pth"
    empty.touch()
    assert "empty.pth is empty; copy or download it again" in error(empty)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(name: str, checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    content = (checkpoints / name).read_bytes()
    with zipfile.ZipFile(checkpoints / name) as archive:
        tensor = archive.getinfo(next(n for n in archive.namelist() if n.endswith("data/3")))
    lengths = content[tensor.header_offset + 26 : tensor.header_offset + 30]  # of name and padding
    within = tensor.header_offset + 30 + sum(struct.unpack("<HH", lengths))
    flipped = content[:within] + bytes([content[within] ^ 1]) + content[within + 1 :]
    broken = tmp_path / f"broken-{name}"
    for damaged in (content[:5000], content[:-300], flipped):
        broken.write_bytes(damaged)
        assert main(["import", str(broken), "-o", str(tmp_path / "out.pt")]) == 2
        message = capsys.readouterr().err
        assert f"{broken.name} is damaged or was cut short" in message
        assert message.rstrip().endswith("download it again")
        assert len(message) < 300
        assert not (tmp_path / "out.pt").exists()


def test_folders_and_what_is_in_them(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    def error(path: Path) -> str:
        assert main(["import", str(path), "-o", str(tmp_path / "out.pt")]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    folder = tmp_path / "M3GNet-PES"
    folder.mkdir()
    assert "M3GNet-PES is no folder that mlff2d can import; nequix" in error(folder)
    assert f"such as {checkpoints / 'mace-tiny.model'}" in error(checkpoints)
    (folder / "model.json").write_text('{"@module": "matgl.apps.pes"}')
    assert "has no state.pt beside its model.json" in error(folder)
    torch.save({}, folder / "state.pt")
    for part in ("model.json", "state.pt"):
        assert f"import its folder, {folder}" in error(folder / part)
    (folder / "model.json").write_text("{")
    assert "M3GNet-PES is damaged" in error(folder)
    (folder / "model.json").unlink()
    assert "has no model.json beside its state.pt" in error(folder)


def test_no_place_to_write(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    source = str(checkpoints / "mace-tiny.model")
    assert main(["import", source, "-o", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main(["import", source, "-o", str(tmp_path / "no" / "model.pt")]) == 2
    assert "make it first" in capsys.readouterr().err


def test_writing_goes_wrong(
    checkpoints: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def forbidden(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    command = ["import", str(checkpoints / "mace-tiny.model"), "-o", str(tmp_path / "model.pt")]
    monkeypatch.setattr("mlff2d.files.os.fsync", full)
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "model.pt could not be written (No space left on device); make room" in message
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("mlff2d.importers.command.TemporaryFile", forbidden)
    assert main(command) == 2
    assert f"into the folder {tmp_path} (Permission denied)" in capsys.readouterr().err
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("command", ["import", "info", "predict"])
def test_help_does_not_load_torch(command: str) -> None:
    code = (
        "import sys; from mlff2d.cli import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    shown = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage" in shown.stdout


def test_a_head_is_handed_over(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["import", str(checkpoints / "mace-tiny.model"), "-o", str(tmp_path / "model.pt")]
    assert main([*command, "--head", "pbe"]) == 2
    assert "has no head 'pbe'; it has only" in capsys.readouterr().err
    assert main([*command, "--head", "only"]) == 0
