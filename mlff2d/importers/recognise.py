"""Which importer a checkpoint is for."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from mlff2d.checkpoint import read
from mlff2d.errors import ModelFileError
from mlff2d.importers import Imported, mace, matgl, nequix, sevennet

IMPORTERS: dict[str, ModuleType] = {
    "nequix (a .nqx file)": nequix,
    "matgl's M3GNet (a folder with model.json and state.pt)": matgl,
    "SevenNet (a .pth file)": sevennet,
    "mace-torch (a .model file)": mace,
}


def import_model(path: str | Path, head: str | None = None) -> Imported:
    """A potential of ours from another package's checkpoint; no code of the file is run.

    `head` chooses one of several that a mace-torch file may have. Raises ModelFileError where there
    is no such file, no importer knows it, or it holds a variant that ours cannot be.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError(f"there is no file or folder {path}")
    for importer in IMPORTERS.values():
        if importer.recognises(path):
            if importer is mace:
                return mace.convert(path, head)
            if head is not None:
                raise ModelFileError(f"{path} has no heads to choose from; leave --head out")
            return importer.convert(path)
    raise ModelFileError(f"{path} {_what_it_is(path)}; {', '.join(IMPORTERS)} can be imported")


def _what_it_is(path: Path) -> str:
    try:
        read(path)
    except ModelFileError:
        return "is no checkpoint that mlff2d knows"
    return "is a model file of mlff2d already, ready for use"
