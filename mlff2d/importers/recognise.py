"""Which importer a checkpoint is for."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from mlff2d.checkpoint import read
from mlff2d.errors import ModelFileError, TrainingStateError
from mlff2d.importers import Imported, mace, matgl, nequix, sevennet
from mlff2d.importers.pickles import check_archive

IMPORTERS: dict[str, ModuleType] = {
    "nequix (a .nqx file)": nequix,
    "matgl's M3GNet (a folder with model.json and state.pt)": matgl,
    "SevenNet (a .pth file)": sevennet,
    "mace-torch (a .model file)": mace,
}
_OF_MATGL = ("model.json", "state.pt", "model.pt")


def import_model(path: str | Path, head: str | None = None) -> Imported:
    """A potential of ours from another package's checkpoint; no code of the file is run.

    `head` chooses one of several that a mace-torch file may have. Raises ModelFileError where there
    is no such file, no importer knows it, or it holds a variant that ours cannot be.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError(f"there is no file or folder {path}")
    importer = importer_of(path)
    if importer is None:
        raise ModelFileError(f"{path} {_what_it_is(path)}")
    if importer is mace:
        return mace.convert(path, head)
    if head is not None:
        raise ModelFileError(f"{path} has no heads to choose from; leave --head out")
    imported: Imported = importer.convert(path)
    return imported


def importer_of(path: str | Path) -> ModuleType | None:
    """The importer that knows a file or folder, if any does; nothing in it is run."""
    return next((i for i in IMPORTERS.values() if i.recognises(path)), None)


def _what_it_is(path: Path) -> str:
    """Why no importer knows a file or folder, and what to do, as the end of a sentence.

    Raises ModelFileError for a file that cannot be read or is damaged.
    """
    known = f"{', '.join(IMPORTERS)} can be imported"
    if path.is_dir():
        return _what_folder_it_is(path, known)
    try:
        check_archive(path)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror})") from error
    if path.stat().st_size == 0:
        return "is empty; copy or download it again"
    if path.name in _OF_MATGL and matgl.recognises(path.parent):
        return f"is only a part of a model of matgl; import its folder, {path.resolve().parent}"
    try:
        read(path)
    except TrainingStateError:
        raise
    except ModelFileError:
        return f"is no checkpoint that mlff2d knows; {known}"
    return "is a model file of mlff2d already; use it as it is"


def _what_folder_it_is(path: Path, known: str) -> str:
    found = [name for name in _OF_MATGL[:2] if (path / name).is_file()]
    if len(found) == 1:
        (missing,) = set(_OF_MATGL[:2]) - set(found)
        return f"has no {missing} beside its {found[0]}; copy or download the whole folder again"
    inside = [p for p in sorted(path.iterdir())[:100] if importer_of(p) is not None]
    if inside:
        return f"is a folder; import one thing of it, such as {inside[0]}"
    return f"is no folder that mlff2d can import; {known}"
