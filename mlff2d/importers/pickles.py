"""Torch files that hold pickled objects of other packages, read without running anything in them.

A pickle is a program: it names functions and calls them. Here every name that is not plain data
becomes a stand-in, an `Inert`, which writes down what it was called with and does nothing. What
comes out has the tensors, numbers and names of the file in the tree in which they were saved.
"""

from __future__ import annotations

import pickle
import tarfile
import types
import warnings
import zipfile
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

from mlff2d.errors import ModelFileError


class Inert:
    """What stands for an object, or for the result of a function, of another package.

    Attributes
    ----------
    qualified_name
        Module and name of its class or of the function, "mace.modules.models.MACE".
    args, kwargs
        What it was made of.
    state
        Its attributes by name, empty where it has none.
    raw_state
        The same as the file has it, for objects whose state is no dict of attributes.
    elements
        What was put into it where it is a list or a set.
    items
        What was put into it where it is a dict.
    """

    qualified_name: ClassVar[str] = ""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: dict[str, Any]
    raw_state: Any
    elements: list[Any]
    items: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        self = super().__new__(cls)
        self.args, self.kwargs = args, kwargs
        self.state, self.raw_state = {}, None
        self.elements, self.items = [], {}
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        """Stands for what a function would give that is itself the result of another."""
        return _Called(self, *args, **kwargs)

    def __setstate__(self, state: Any) -> None:
        self.raw_state = state
        # With __slots__ there are two dicts, of which either may be None.
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.state.update(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """As lists are filled."""
        self.elements.append(value)

    def extend(self, values: Iterable[Any]) -> None:
        """As lists are filled."""
        self.elements.extend(values)

    def add(self, value: Any) -> None:
        """As sets are filled."""
        self.elements.append(value)

    def __repr__(self) -> str:
        return f"<inert {self.qualified_name}>"


class _Called(Inert):
    qualified_name = "the result of a result"


class _Allowed:
    """One of our functions as pickles see it: it can be called, but nothing of it can be set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"the file sets {name!r} of a function")

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("the file sets the state of a function")


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any):  # type: ignore[no-untyped-def]
    """What a tensor is made of: a storage, and where in it the numbers lie."""
    untyped = storage._untyped_storage
    return torch.empty(0, dtype=storage.dtype).set_(untyped, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _from_type(function: Any, _type: Any, args: tuple[Any, ...], *_: Any) -> Any:
    """A tensor with attributes; the function is what the file was given for its name."""
    return function(*args)


def _reconstructor(cls: Any, _base: Any, _state: Any) -> Any:
    return cls()


def _newobj(cls: Any, *args: Any) -> Any:
    return cls(*args)


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    """A number of numpy as one of Python, as far as it is a real number, integer or bool."""
    order = dtype.raw_state[1] if isinstance(dtype.raw_state, tuple) else "|"
    name = {"<": "<", ">": ">"}.get(order, "") + str(dtype.args[0])
    if np.dtype(name).kind not in "biuf":
        raise pickle.UnpicklingError(f"a number of the kind {name}")
    return np.frombuffer(data, dtype=name, count=1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """How the bytes of numpy's numbers lie in old pickles."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding}")
    return text.encode("latin1")


_PLAIN: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": defaultdict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
}
_PLAIN |= {
    f"{module}.{plain.__name__}": plain
    for module in ("builtins", "__builtin__")
    for plain in (set, frozenset, list, dict, tuple, bool, int, float, complex, str, slice)
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstructor,
    "copy_reg._reconstructor": _reconstructor,
    "copyreg.__newobj__": _newobj,
}
_PLAIN |= {name: _Allowed(function) for name, function in _FUNCTIONS.items()}


def _dtypes() -> dict[str, torch.dtype]:
    return {str(d): d for d in vars(torch).values() if isinstance(d, torch.dtype)}


class _Unpickler(pickle.Unpickler):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stand_ins: dict[str, type[Inert]] = {}
        self._dtypes = _dtypes()

    def find_class(self, module: str, name: str) -> Any:
        """Plain data as it is, a stand-in for all else; nothing is ever imported."""
        full = f"{module}.{name}"
        if full in _PLAIN:
            return _PLAIN[full]
        if full in self._dtypes:
            return self._dtypes[full]
        if full not in self._stand_ins:
            short = name.rpartition(".")[2]
            self._stand_ins[full] = type(short, (Inert,), {"qualified_name": full})
        return self._stand_ins[full]


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


# What torch.load takes in place of the module `pickle`.
_READER = types.SimpleNamespace(__name__="inert", Unpickler=_Unpickler, load=_load)


def check_archive(path: Path) -> None:
    """Raise ModelFileError for a zip archive that is cut short or has other content than it says.

    torch does not look at the checksums, and would read other numbers. Nothing is said of a file
    that is no zip archive. Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error):
        wrong = "its end"
    if wrong is not None:
        raise ModelFileError(
            f"{path} is damaged or was cut short (at {wrong}); copy or download it again"
        )


def read_inert(path: str | Path) -> Any:
    """The content of a file that torch.save wrote, zip or legacy, with `Inert` objects in it.

    Tensors lie on the CPU; a parameter is a plain tensor. Numbers of numpy are Python's.
    Raises ModelFileError for a file that is none, is damaged, or is a compiled (TorchScript) model.
    """
    path = Path(path)
    try:
        check_archive(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                compiled = any(name.endswith("/constants.pkl") for name in archive.namelist())
            if compiled:
                raise ModelFileError(
                    f"{path} is a compiled TorchScript model, from which no weights can be taken; "
                    "give the model file that it was compiled from"
                )
        elif tarfile.is_tarfile(path):
            raise ModelFileError(
                f"{path} is a tar archive, as torch wrote before 2017; save it with a newer torch"
            )
        with warnings.catch_warnings():  # of classes whose source is not at hand
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", pickle_module=_READER, weights_only=False)
    except ModelFileError:
        raise
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ModelFileError(
            f"{path} is not a file that torch.save wrote, or is damaged ({error})"
        ) from error


_MISSING = object()


def lookup(module: Inert, name: str, default: Any = _MISSING) -> Any:
    """The attribute, parameter, buffer or submodule of a torch module by its dotted name.

    "interactions.0.linear.weight" descends into submodules and attributes. Raises KeyError where
    there is none and no default is given.
    """
    found: Any = module
    for part in name.split("."):
        state = found.state if isinstance(found, Inert) else {}
        places = (state, *(state.get(k) or {} for k in ("_parameters", "_buffers", "_modules")))
        for place in places:
            if part in place:
                found = place[part]
                break
        else:
            if default is _MISSING:
                raise KeyError(name)
            return default
    return found


def state_dict_of(module: Inert) -> dict[str, Tensor]:
    """What `module.state_dict()` would give, also of buffers that are not persistent.

    Modules are known by their state, so this needs none of their code.
    """
    found: dict[str, Tensor] = {}
    for group in ("_parameters", "_buffers"):
        for name, value in (module.state.get(group) or {}).items():
            if isinstance(value, Tensor):
                found[name] = value
    for name, child in (module.state.get("_modules") or {}).items():
        if isinstance(child, Inert):
            found |= {f"{name}.{key}": value for key, value in state_dict_of(child).items()}
    return found
