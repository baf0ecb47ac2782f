"""Files with pickled objects are read, and nothing in them runs."""

import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlff2d.errors import ModelFileError
from mlff2d.importers.pickles import Inert, lookup, read_inert, state_dict_of


class Marker:
    """Pickles as a call that would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


class Names(tuple):
    """A tuple with a class of its own, as e3nn's irreps are."""


class Bag(dict):
    """A dict with a class of its own."""


class Slotted:
    """An object without __dict__."""

    __slots__ = ("a",)


class Block(nn.Module):
    """A module with every kind of state."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2).double()
        self.layers = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.SiLU()])
        self.names = Names([1, "x"])
        self.number = np.float64(3.5)
        self.function = nn.functional.silu
        self.dtype = torch.float64
        self.register_buffer("table", torch.arange(4), persistent=False)
        self.register_buffer("nothing", None)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def saved(tmp_path: Path, content: object, zipped: bool = True) -> Path:
    path = tmp_path / "file.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_module_without_its_class(tmp_path: Path, zipped: bool) -> None:
    torch.manual_seed(0)
    block = Block()
    found = read_inert(saved(tmp_path, block, zipped))
    assert isinstance(found, Inert)
    assert found.qualified_name == f"{__name__}.Block"
    weights = state_dict_of(found)
    expected = block.state_dict() | {"table": block.table}
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert type(weights[name]) is torch.Tensor
        assert weights[name].dtype == value.dtype
        assert torch.equal(weights[name], value)
    assert lookup(found, "number") == 3.5
    assert type(lookup(found, "number")) is float
    assert lookup(found, "names").args == ((1, "x"),)
    assert lookup(found, "dtype") is torch.float64
    assert lookup(found, "function").qualified_name == "torch.nn.functional.silu"
    assert lookup(found, "layers.1").qualified_name == "torch.nn.modules.activation.SiLU"
    assert torch.equal(lookup(found, "layers.0.weight"), block.layers[0].weight)
    assert lookup(found, "linear.in_features") == 3
    assert lookup(found, "linear.depth", None) is None
    with pytest.raises(KeyError, match=r"linear\.depth"):
        lookup(found, "linear.depth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_call_in_the_file_is_not_made(tmp_path: Path, zipped: bool, protocol: int) -> None:
    path, mark = tmp_path / "file.pt", tmp_path / "ran"
    content = {"weights": torch.ones(3), "evil": Marker(mark)}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_inert(path)
    assert not mark.exists()
    assert torch.equal(found["weights"], torch.ones(3))
    assert found["evil"].qualified_name in ("posix.system", "nt.system")
    assert found["evil"].args == (f"touch {mark}",)
    torch.load(path, weights_only=False)  # the file does what it is feared for
    assert mark.exists()


def test_no_module_is_imported(tmp_path: Path) -> None:
    module = types.ModuleType("not_installed_anywhere")

    class Thing:
        pass

    Thing.__module__, Thing.__qualname__ = module.__name__, "Thing"
    module.Thing = Thing  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        path = saved(tmp_path, [Thing(), Thing()])
    finally:
        del sys.modules[module.__name__]
    first, second = read_inert(path)
    assert first.qualified_name == "not_installed_anywhere.Thing"
    assert type(first) is type(second)


def test_containers_and_slots(tmp_path: Path) -> None:
    slotted, bag = Slotted(), Bag(x=1)
    slotted.a = 5
    content = OrderedDict(
        plain={"set": {1, 2}, "size": torch.Size([2]), "complex": 1 + 2j},
        slotted=slotted,
        bag=bag,
        numbers=[np.float32(0.5), np.int64(-3), np.bool_(True)],
    )
    found = read_inert(saved(tmp_path, content))
    assert type(found) is OrderedDict
    assert found["plain"] == content["plain"]
    assert found["slotted"].state == {"a": 5}
    assert found["bag"].items == {"x": 1}
    assert found["numbers"] == [0.5, -3, True]
    assert [type(x) for x in found["numbers"]] == [float, int, bool]


def test_tensors_that_share_memory_and_views(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    special = nn.Parameter(torch.ones(2))
    special.note = "x"  # type: ignore[attr-defined]
    found = read_inert(saved(tmp_path, [base, base.T[1:], base.to(torch.bfloat16), special]))
    assert torch.equal(found[0], base)
    assert torch.equal(found[1], base.T[1:])
    assert found[2].dtype == torch.bfloat16
    assert torch.equal(found[3], torch.ones(2))
    found[0][0, 1] = 100.0
    assert found[1][0, 0] == 100.0


def hand_written(tmp_path: Path, program: bytes) -> Path:
    """A zip file of torch with a pickle of our own in it."""
    path = saved(tmp_path, {})
    parts = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            parts[name] = archive.read(name)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, program if name.endswith("data.pkl") else part)
    path.write_bytes(buffer.getvalue())
    return path


def test_calls_through_calls_and_chained_attributes(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    command = f"open({str(mark)!r}, 'w')".encode()
    # getattr(__import__("os"), "system")("...") and eval("...")
    program = b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\n(X\x02\x00\x00\x00ostR"
    program += b"X\x06\x00\x00\x00systemtR(X\x02\x00\x00\x00lstR0"
    program += b"cbuiltins\neval\n(X" + len(command).to_bytes(4, "little") + command + b"tR."
    found = read_inert(hand_written(tmp_path, program))
    assert found.qualified_name == "builtins.eval"
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        # State set on a function of ours, on its way to `__defaults__` or `__code__`.
        b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00xK\x01sb.",
        # State set on a class.
        b"\x80\x02cbuiltins\ndict\n}X\x01\x00\x00\x00xK\x01sb.",
        b"\x80\x02cposix\nsystem\n}X\x04\x00\x00\x00argsK\x01sb.",
        # A number of numpy's that is an object.
        b"\x80\x02cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x01\x00\x00\x00OtR"
        b"X\x01\x00\x00\x00xtR.",
        b"\x80\x02(.",
        b"",
    ],
)
def test_tampering_is_an_error(tmp_path: Path, program: bytes) -> None:
    with pytest.raises(ModelFileError, match="damaged"):
        read_inert(hand_written(tmp_path, program))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_inert(tmp_path / "missing.pt")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_inert(tmp_path)
    text = tmp_path / "text.pt"
    text.write_text("some words\n")
    with pytest.raises(ModelFileError, match=r"text\.pt is not a file that torch\.save wrote"):
        read_inert(text)
    text.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelFileError, match=r"torch\.save"):
        read_inert(text)
    whole = saved(tmp_path, Block())
    whole.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(ModelFileError, match="damaged"):
        read_inert(whole)


def test_compiled_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "compiled.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(ModelFileError, match="TorchScript"):
        read_inert(path)
