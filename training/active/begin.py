"""Whether a run that has begun goes on with the same settings and the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlff2d import checkpoint
from mlff2d.files import write_text
from mlff2d.sources import structure_files

from ..config import ConfigError, differences
from ..data.convert import file_digest
from .config import ActiveConfig
from .labels import has_begun

FREE = ("run_dir", "rounds", "label.workers", "label.timeout", "device", "threads")
"""Settings that may change from one call to the next: nothing that is done depends on them."""

_BY_CONTENT = ("structures", "models", "data", "test", "label.calculator")


def begin(config: ActiveConfig) -> None:
    """Note what a run is begun with, or compare it with what is noted.

    Raises ConfigError where anything changed that what is done depends on, naming it; as
    `structure_files` and `checkpoint.locate` for files that are not there.
    """
    now = {"settings": config.resolved(), "content": _contents(config)}
    path = config.run_dir / "settings.json"
    if not path.exists():
        write_text(json.dumps(now, indent=2) + "\n", path)
        return
    try:
        before = json.loads(path.read_text())
        changed = differences(before["settings"], now["settings"], (*FREE, *_BY_CONTENT))
        old = before["content"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged; give another run_dir.") from error
    new = now["content"]
    # One that labelled nothing may be mended.
    held = [key for key in _BY_CONTENT if key != "label.calculator" or has_begun(config.run_dir)]
    changed += [f"the content of {key}" for key in held if old.get(key) != new[key]]
    if changed:
        raise ConfigError(
            f"{config.run_dir} holds rounds with other settings ({'; '.join(changed)}); give "
            "another run_dir, or put them back to go on. More rounds may always be asked for."
        )
    if old != new:
        write_text(json.dumps(now, indent=2) + "\n", path)


def _contents(config: ActiveConfig) -> dict[str, Any]:
    """Digests of all files that a run depends on, wherever they are."""
    calculator = Path(config.label.calculator)
    return {
        "structures": [file_digest(path) for path in structure_files(config.structures)],
        "models": [file_digest(checkpoint.locate(model)) for model in config.models],
        "data": [file_digest(path) for path in structure_files(config.data)],
        "test": [file_digest(path) for path in structure_files(config.test)],
        "label.calculator": file_digest(calculator) if calculator.is_file() else str(calculator),
    }
